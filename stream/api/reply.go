package api

import (
	"cmp"
	"net/http"
)

// A reply is the writer of an answer beneath those of all other middleware, and what is known of the request. replyOf
// finds it, however often it was wrapped.
type reply struct {
	http.ResponseWriter

	observation  Observation
	isCarried    bool      // it is a stream, which is observed at its end
	takesTickets bool      // its route takes tickets
	id           [1]string // of the request, as a header's values
	role         [1]string // of the principal, as a header's values; empty: there is none yet
}

// Unwrap is for http.ResponseController.
func (e *reply) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (e *reply) WriteHeader(status int) {
	if e.observation.Status == 0 && status >= http.StatusOK {
		e.observation.Status = status
	}
	e.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (e *reply) Write(b []byte) (int, error) {
	e.observation.Status = cmp.Or(e.observation.Status, http.StatusOK)
	n, err := e.ResponseWriter.Write(b)
	e.observation.Bytes += int64(n)
	return n, err
}

// replyOf finds the reply beneath a writer. Where there is none, it makes one that nobody reads.
func replyOf(w http.ResponseWriter) *reply {
	for {
		switch v := w.(type) {
		case *reply:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return &reply{ResponseWriter: w}
		}
	}
}
