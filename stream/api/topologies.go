package api

import (
	"net/http"
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
	page, err := s.cfg.Store.Topologies(r.Context(), r.principal.Topologies, int(limit), offset)
	s.answer(w, r.Request, http.StatusOK, page, err)
}

// createTopology is POST /topologies.
func (s *Server) createTopology(w http.ResponseWriter, r request) {
	t, _, err := parseBody(s, w, r.Request, parseNewTopology)
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
	g, err := s.cfg.Store.Topology(r.Context(), r.topology)
	s.answer(w, r.Request, http.StatusOK, g, err)
}

// changeStatus is PATCH /topologies/{id}.
func (s *Server) changeStatus(w http.ResponseWriter, r request) {
	c, _, err := parseBody(s, w, r.Request, parseStatusChange)
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
