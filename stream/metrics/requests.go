package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// The labels are those of OpenTelemetry's semantic conventions for HTTP (http.server.request.duration), and so are the
// buckets and the name of what is no known method.
const otherMethod = "_OTHER"

// Requests makes the histogram of requests, and gives the middleware that observes them; chi must be routing where it
// is used. A stream that begins is no request that takes a time: it is left out, and one that is refused is not. Call
// it once.
func (r *Registry) Requests() func(http.Handler) http.Handler {
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "http_server_request_duration_seconds",
		Help:    "How long requests took, but for streams that began: those are in topostream_streams_opened_total.",
		Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10},
	}, []string{"http_request_method", "http_route", "http_response_status_code"})
	r.Add(took)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			began, seen := time.Now(), answer{ResponseWriter: w}
			next.ServeHTTP(&seen, req)
			route := routeOf(req)
			if strings.HasSuffix(route, "/events") && (seen.status == 0 || seen.status == http.StatusOK) {
				return
			}
			status := seen.status
			if status == 0 { // as net/http
				status = http.StatusOK
			}
			took.WithLabelValues(methodOf(req), route, strconv.Itoa(status)).Observe(time.Since(began).Seconds())
		})
	}
}

// routeOf is the pattern that a request was routed by.
func routeOf(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil {
		if pattern := c.RoutePattern(); pattern != "" && pattern != "/*" {
			return pattern
		}
	}
	return "unknown"
}

func methodOf(r *http.Request) string {
	known := []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace,
	}
	if slices.Contains(known, r.Method) {
		return r.Method
	}
	return otherMethod
}

// An answer remembers its status; 0: none was written.
type answer struct {
	http.ResponseWriter

	status int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK { // else there is another one to come
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController, which flushes, hijacks and sets deadlines.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
