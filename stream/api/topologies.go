package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"topostream/stream"
)

// listTopologies is GET /topologies.
func (s *Server) listTopologies(w http.ResponseWriter, r request) {
	const defaultLimit, maxLimit, maxOffset = 50, 200, 1 << 53
	limit, err := number(r.Request, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	offset, err := number(r.Request, "offset", 0, 0, maxOffset)
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	read := func(ctx context.Context, most int64) ([]byte, error) {
		return s.cfg.Store.Topologies(ctx, r.principal.Topologies, int(limit), offset, most)
	}
	list, room, err := readWithin(r.Context(), s.forAnswers, listRoom, read)
	if err == nil && bytes.HasPrefix(list, []byte(`{"total":0,`)) {
		if err = s.seen(r.Request, stream.ErrNotFound); errors.Is(err, stream.ErrNotFound) {
			err = nil // there is really none
		} else {
			room.Release()
		}
	}
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	s.writeHeld(w, list, room)
}

// createTopology is POST /topologies.
func (s *Server) createTopology(w http.ResponseWriter, r request) {
	t, body, err := parseBody(s, w, r.Request, parseNewTopology)
	defer body.release()
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	created, err := s.cfg.Store.CreateTopology(r.Context(), t)
	if err == nil {
		w.Header().Set("Location", basePath+"/topologies/"+string(created.ID))
	}
	s.answer(w, r.Request, http.StatusCreated, created, err)
}

// getTopology is GET /topologies/{id}.
func (s *Server) getTopology(w http.ResponseWriter, r request) {
	read := func(ctx context.Context, most int64) ([]byte, error) {
		return s.cfg.Store.Topology(ctx, r.topology, most)
	}
	graph, room, err := readWithin(r.Context(), s.forAnswers, graphRoom, read)
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	s.writeHeld(w, graph, room)
}

// changeStatus is PATCH /topologies/{id}.
func (s *Server) changeStatus(w http.ResponseWriter, r request) {
	c, body, err := parseBody(s, w, r.Request, parseStatusChange)
	defer body.release()
	if err != nil {
		s.malformed(w, r, err)
		return
	}
	changed, err := s.cfg.Store.ChangeStatus(r.Context(), r.topology, c)
	s.answer(w, r.Request, http.StatusOK, changed, err)
}

// deleteTopology is DELETE /topologies/{id}.
func (s *Server) deleteTopology(w http.ResponseWriter, r request) {
	if err := s.cfg.Store.DeleteTopology(r.Context(), r.topology); err != nil {
		s.fail(w, r.Request, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
