package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"topostream/stream"
)

// mintTicket is POST /auth/sse-ticket. The ticket is for whoever has the token, limited to some topologies or not.
func (s *Server) mintTicket(w http.ResponseWriter, r request) {
	if err := s.emptyBody(w, r.Request); err != nil {
		s.fail(w, r.Request, err)
		return
	}
	ticket, life, err := s.cfg.Tickets.Mint(r.Context(), r.principal)
	s.cfg.Stats.Tickets[mintedBy(err)].Inc()
	s.answer(w, r.Request, http.StatusOK, struct {
		Ticket    string `json:"ticket"`
		ExpiresIn int    `json:"expires_in"` // whole seconds, never more than it has
	}{ticket, int(life / time.Second)}, err)
}

// emptyBody reads the body of a request that has nothing to say, whatever type it is said to have, or an empty object.
func (s *Server) emptyBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	body, err := s.readBody(w, r)
	defer body.release()
	if err != nil {
		return err
	}
	var members map[string]json.RawMessage
	text := bytes.TrimSpace(body.bytes)
	if len(text) == 0 || json.Unmarshal(text, &members) == nil && members != nil && len(members) == 0 {
		return nil
	}
	return &stream.FieldError{Field: "body", Problem: "leave it empty, or send {}"}
}
