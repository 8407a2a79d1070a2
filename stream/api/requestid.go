package api

import (
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"
)

const (
	// idHeader has the id of the request, in what is asked and in every answer.
	idHeader  = "X-Request-Id"
	longestID = 64
)

// idOf is the id that a proxy or a client has given the request, if it may stand in a log as it is; else a new one.
func idOf(r *http.Request) string {
	if given := r.Header[idHeader]; len(given) == 1 && isID(given[0]) {
		return given[0]
	}
	return newID()
}

// isID takes what needs no quotes anywhere: [A-Za-z0-9._-]{1,64}.
func isID(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return s != "" && len(s) <= longestID
}

// newID is a random one: a counter would tell strangers how much others ask.
func newID() string {
	var raw [8]byte
	for i, n := 0, rand.Uint64(); i < len(raw); i, n = i+1, n>>8 {
		raw[i] = byte(n)
	}
	return hex.EncodeToString(raw[:])
}

// idIn is the id of the request that is being answered; empty: it has none.
func idIn(w http.ResponseWriter) string {
	for _, id := range w.Header()[idHeader] {
		return id
	}
	return ""
}

// log is the log of a request that is being answered.
func (s *Server) log(w http.ResponseWriter) *slog.Logger {
	return s.cfg.Logger.With("request_id", idIn(w))
}
