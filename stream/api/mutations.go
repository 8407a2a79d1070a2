package api

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"topostream/stream"
)

// enqueueMutation is POST /topologies/{id}/mutations.
func (s *Server) enqueueMutation(w http.ResponseWriter, r request) {
	key, err := idempotencyKey(r.Request)
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	m, body, err := parseBody(s, w, r.Request, parseNewMutation)
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	m.RequestedBy, m.IdempotencyKey, m.Body = r.principal.Subject, key, sha256.Sum256(body)
	id, err := s.cfg.Store.Enqueue(r.Context(), r.topology, m)
	s.answer(w, r.Request, http.StatusAccepted, struct {
		ID    stream.MutationID `json:"mutation_id"`
		State string            `json:"state"`
	}{id, "pending"}, err)
}

// listMutations is GET /topologies/{id}/mutations.
func (s *Server) listMutations(w http.ResponseWriter, r request) {
	const maxLimit = 200
	limit, err := number(r.Request, "limit", maxLimit, 1, maxLimit)
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	state := r.URL.Query().Get("state")
	if states := stream.MutationStates(); state != "" && !slices.Contains(states, state) {
		s.malformed(w, r, &stream.FieldError{Field: "state", Problem: fmt.Sprintf("%.80q is no state: use one of %s", state, strings.Join(states, ", "))})
		return
	}
	mutations, err := s.cfg.Store.Mutations(r.Context(), r.topology, state, int(limit))
	s.answer(w, r.Request, http.StatusOK, mutations, err)
}
