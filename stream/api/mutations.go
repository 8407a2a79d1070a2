package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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
	defer body.release()
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	m.RequestedBy, m.IdempotencyKey, m.Body = r.principal.Subject, key, sha256.Sum256(body.bytes)
	id, err := s.cfg.Store.Enqueue(r.Context(), r.topology, m)
	s.answer(w, r.Request, http.StatusAccepted, struct {
		ID    stream.MutationID `json:"mutation_id"`
		State string            `json:"state"`
	}{id, "pending"}, err)
}

// listMutations is GET /topologies/{id}/mutations. A page that is not the last says in a Link header where the next
// one is (RFC 8288).
func (s *Server) listMutations(w http.ResponseWriter, r request) {
	q, err := mutationQuery(r.Request)
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	q.Bytes = min(mutationsBytes, s.forAnswers.Limit())
	var next int64
	page, room, err := readWithin(r.Context(), s.forAnswers, q.Bytes+2, // and brackets
		func(ctx context.Context, most int64) (page []byte, err error) {
			page, next, err = s.cfg.Store.Mutations(ctx, r.topology, q, most)
			return page, err
		})
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	if next > 0 {
		w.Header().Set("Link", nextLink(r, q, next))
	}
	s.writeHeld(w, page, room)
}

// mutationQuery reads the query of a request; what is wrong with it is a *stream.FieldError.
func mutationQuery(r *http.Request) (q stream.MutationQuery, err error) {
	const maxLimit, maxBefore = 200, 1<<63 - 1
	limit, err := number(r, "limit", maxLimit, 1, maxLimit)
	if err != nil {
		return q, err
	}
	q.Limit = int(limit)
	if q.Before, err = number(r, "before", 0, 1, maxBefore); err != nil {
		return q, err
	}
	for _, state := range r.URL.Query()["state"] {
		if states := stream.MutationStates(); state != "" && !slices.Contains(states, state) {
			return q, refused("state", "%.80q is no state: use one of %s", state, strings.Join(states, ", "))
		}
		if state != "" && !slices.Contains(q.States, state) {
			q.States = append(q.States, state)
		}
	}
	return q, nil
}

// nextLink leads to the page of what is before a position. It has nothing of the request's address but its path: that
// may hold a token.
func nextLink(r request, q stream.MutationQuery, before int64) string {
	query := url.Values{
		"before": {strconv.FormatInt(before, 10)}, "limit": {strconv.Itoa(q.Limit)}, "state": q.States,
	}
	return fmt.Sprintf(`<%s/topologies/%s/mutations?%s>; rel="next"`, basePath, r.topology, query.Encode())
}
