package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The labels are those of OpenTelemetry's semantic conventions for HTTP (http.server.request.duration), and so are the
// buckets and the name of what is no known method.
const otherMethod = "_OTHER"

// Requests makes the histogram of requests, and gives what observes one: its method, the pattern that it was routed by,
// its status, and how long it took. Call it once.
func (r *Registry) Requests() func(method, route string, status int, took time.Duration) {
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "http_server_request_duration_seconds",
		Help:    "How long requests took, but for streams that began: those are in topostream_streams_opened_total.",
		Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10},
	}, []string{"http_request_method", "http_route", "http_response_status_code"})
	r.Add(durations)
	return func(method, route string, status int, took time.Duration) {
		durations.WithLabelValues(methodOf(method), routeOf(route), strconv.Itoa(status)).Observe(took.Seconds())
	}
}

func routeOf(pattern string) string {
	if pattern == "" || pattern == "/*" {
		return "unknown"
	}
	return pattern
}

func methodOf(method string) string {
	known := []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace,
	}
	if slices.Contains(known, method) {
		return method
	}
	return otherMethod
}
