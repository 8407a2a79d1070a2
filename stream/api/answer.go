package api

import (
	"net/http"
	"net/url"
	"strconv"
)

// answer writes v as JSON, or what err says.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, v any, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, status, "application/json", v)
}

// seen is err, or ErrUnavailable in the place of ErrNotFound while this server may only not see what is there
// (Config.Blind): browsers take "not found" as final.
func (s *Server) seen(r *http.Request, err error) error {
	return seen(r.Context(), s.cfg.Blind, err)
}

// malformed answers a request for a topology that says something wrong, if there is that topology: 404 comes first.
func (s *Server) malformed(w http.ResponseWriter, r request, err error) {
	// A body that did not come has ended the request's context, and the error is about the body.
	if missing := s.cfg.Store.Exists(r.Context(), r.topology); missing != nil && r.Context().Err() == nil {
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
