package api

import (
	"net/http"
	"time"

	"topostream/stream"
)

// traced authenticates a request and answers it within its span. The traceparent of a request without a good credential
// is ignored: strangers must not write into our traces.
func (s *Server) traced(
	answer func(w http.ResponseWriter, r *http.Request, p stream.Principal, err error),
) http.HandlerFunc {
	if s.cfg.Trace == nil {
		return func(w http.ResponseWriter, r *http.Request) {
			p, err := s.resolve(w, r)
			answer(w, r, p, err)
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		p, err := s.resolve(w, r)
		s.cfg.Trace(w, r, began, err == nil, func(w http.ResponseWriter, r *http.Request) { answer(w, r, p, err) })
	}
}
