package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/cors"

	"topostream/stream"
)

const (
	// unwantedBody is how long a body may take that nobody has asked for yet. net/http reads what is left of a body
	// before it sends the answer, which must still have time to be written.
	unwantedBody = 10 * time.Second
	// paceBytes is how many bytes a client must take within the write timeout.
	paceBytes = 64 << 10
)

// about is what a request asks for, as far as its address tells.
type about struct {
	stream   bool              // a stream
	topology stream.TopologyID // the one that it is of; empty: it is of many, or of the list
}

// aboutOf reads it from the route.
func aboutOf(r *http.Request) about {
	switch pattern := chi.RouteContext(r.Context()).RoutePattern(); {
	case pattern == manyPath, pattern == listPath:
		return about{stream: true}
	case strings.HasSuffix(pattern, "/events"):
		id, ok := stream.ParseTopologyID(chi.URLParam(r, "id"))
		return about{stream: ok, topology: id} // an address without an id gets problem+json
	}
	return about{}
}

// secure sets the headers that every answer has. The console replaces the policy with its own.
func (s *Server) secure(next http.Handler) http.Handler {
	always := http.Header{ // their values are shared by all answers: a handler replaces them by Set, as a whole
		"Content-Security-Policy":    {"default-src 'none'; frame-ancestors 'none'"},
		"X-Content-Type-Options":     {"nosniff"},
		"X-Frame-Options":            {"DENY"},
		"Referrer-Policy":            {"no-referrer"}, // an address may hold a token
		"Cross-Origin-Opener-Policy": {"same-origin"},
		// Requests by CORS are not asked for it (Fetch standard, section 3.7).
		"Cross-Origin-Resource-Policy": {"same-origin"},
	}
	strictly := fmt.Sprintf("max-age=%d", int64(s.cfg.HSTS.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), always)
		if r.TLS != nil && s.cfg.HSTS > 0 {
			w.Header().Set("Strict-Transport-Security", strictly)
		}
		next.ServeHTTP(w, r)
	})
}

// longestLogged is how many bytes of what a stranger sends go into one line of the log.
const longestLogged = 200

// logged is what a stranger has sent, cut to longestLogged bytes: a long request must not fill the disk.
func logged(sent string) string {
	if len(sent) <= longestLogged {
		return sent
	}
	return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(sent[:longestLogged], ""), len(sent))
}

// shared answers preflights and lets the pages of the allowed origins read answers, cookies included. It never looks
// at who asks for what, so that a preflight tells nothing.
func (s *Server) shared(next http.Handler) http.Handler {
	if len(s.cfg.AllowOrigin) == 0 {
		return next // for the library, none is all
	}
	withCORS := cors.Handler(cors.Options{
		AllowedOrigins: s.cfg.AllowOrigin,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{
			"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID",
			// What HTTP libraries, EventSource polyfills and tracers add by themselves.
			"Cache-Control", "Pragma", "X-Requested-With", idHeader, "Traceparent", "Tracestate", "Baggage",
		},
		ExposedHeaders:   []string{"Link", "Retry-After", roleHeader, timeHeader, idHeader},
		AllowCredentials: true,
		MaxAge:           600, // seconds
	})(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, basePath+"/") {
			withCORS.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// decoded routes by the decoded path: %30 is 0 (RFC 3986, section 6.2.2.2). An encoded slash stays encoded, because it
// does not separate; no route has one in a name.
func decoded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawPath != "" {
			segments := strings.Split(strings.ReplaceAll(r.URL.RawPath, "%2f", "%2F"), "%2F")
			for i, segment := range segments {
				segments[i] = unescapedPath(segment)
			}
			chi.RouteContext(r.Context()).RoutePath = strings.Join(segments, "%2F")
		}
		next.ServeHTTP(w, r)
	})
}

// unescapedPath is a part of a path that net/http has parsed already.
func unescapedPath(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}

// boundBody bounds the time in which a body arrives that no handler reads, because the request is refused or needs
// none. readBody gives the others more.
func (s *Server) boundBody(next http.Handler) http.Handler {
	timeout := min(unwantedBody, s.cfg.BodyTimeout, s.cfg.WriteTimeout/2)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// A writer without deadlines has no slow clients.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout))
		}
		next.ServeHTTP(w, r)
	})
}

// paced ends an answer whose client does not take it. A large one on a slow line may take as long as it needs, as
// long as it moves.
func (s *Server) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&pacedWriter{w, http.NewResponseController(w), s.cfg.WriteTimeout}, r)
	})
}

type pacedWriter struct {
	http.ResponseWriter

	control *http.ResponseController
	timeout time.Duration // of paceBytes
}

func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *pacedWriter) Write(b []byte) (written int, err error) {
	for {
		_ = w.control.SetWriteDeadline(time.Now().Add(w.timeout)) // a writer without deadlines has no slow clients
		n, err := w.ResponseWriter.Write(b[written:min(len(b), written+paceBytes)])
		written += n
		if err != nil || written == len(b) {
			return written, err
		}
	}
}
