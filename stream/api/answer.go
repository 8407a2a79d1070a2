package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"topostream/stream"
)

// answer writes v as JSON, or what err says.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, status, "application/json", v)
}

// fail is the one place where errors of the domain become problem details. What is wrapped beside their sentences is
// for the log.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var (
		field    *stream.FieldError
		request  *requestError
		conflict *stream.ConflictError
	)
	switch err = s.seen(r, err); {
	case errors.As(err, &request): // first: a body that ends too early ends the request's context, too
		problem(w, request.status, request.detail)
	case r.Context().Err() != nil: // the client has gone
	case errors.As(err, &field):
		problem(w, http.StatusBadRequest, field.Error())
	case errors.Is(err, stream.ErrNotFound):
		notFound(w)
	case errors.Is(err, stream.ErrTooMany):
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusTooManyRequests, err.Error())
	case errors.As(err, &conflict):
		problem(w, http.StatusConflict, conflict.Detail)
	case errors.Is(err, stream.ErrNoMemory): // before what may be wrapped with it: why it waited no longer
		s.log(w).Warn("no memory", "method", r.Method, "path", logged(r.URL.Path), "error", err)
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusServiceUnavailable, stream.ErrNoMemory.Error())
	case errors.Is(err, stream.ErrBusy):
		s.log(w).Warn("busy", "method", r.Method, "path", logged(r.URL.Path), "error", err)
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusServiceUnavailable, stream.ErrBusy.Error())
	case errors.Is(err, stream.ErrUnavailable), errors.Is(err, stream.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		s.log(w).Warn("unavailable", "method", r.Method, "path", logged(r.URL.Path), "error", err)
		w.Header().Set("Retry-After", "2")
		problem(w, http.StatusServiceUnavailable, stream.ErrUnavailable.Error())
	default:
		s.log(w).Error("a request failed", "method", r.Method, "path", logged(r.URL.Path), "error", err)
		problem(w, http.StatusInternalServerError, "something is wrong here; the log says more")
	}
}

// seen is err, but where this server cannot see what there is, "not there" would be a guess, which browsers take as
// final.
func (s *Server) seen(r *http.Request, err error) error {
	return seen(r.Context(), s.cfg.Blind, err)
}

// malformed answers a request for a topology that says something wrong, if there is that topology: 404 comes first.
func (s *Server) malformed(w http.ResponseWriter, r request, err error) {
	if missing := s.cfg.Store.Exists(r.Context(), r.topology); missing != nil {
		err = missing
	}
	s.fail(w, r.Request, err)
}

// queryOf reads the query. A *stream.FieldError says what is wrong with it: what net/http leaves out without a word
// would be answered as if nobody had asked for it.
func queryOf(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refused("query", "cannot be read: write & between parameters, and other characters as %%XX (RFC 3986)")
	}
	return query, nil
}

// number reads a whole number of the query; a *stream.FieldError says what it must be.
func number(r *http.Request, name string, otherwise, lowest, highest int64) (int64, error) {
	query, err := queryOf(r)
	if err != nil {
		return 0, err
	}
	v := query.Get(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < lowest || n > highest {
		return 0, refused(name, "give a number from %d to %d", lowest, highest)
	}
	return n, nil
}
