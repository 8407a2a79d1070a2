package api

import (
	"context"
	"net"
	"net/http"
	"slices"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
)

// handOver gives a stream to the engine, if that can carry it: then the handler is done, and nothing of the request is
// kept. The engine carries HTTP/1.1 without TLS; all else takes net/http to be written.
func (s *Server) handOver(w http.ResponseWriter, r request, h engine.Handover, self *session) bool {
	if s.cfg.Engine == nil || r.TLS != nil || r.ProtoMajor != 1 || r.ProtoMinor != 1 {
		return false
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	self.began()
	self.opening = carried(w, r.Request)
	h.Expires = r.principal.Expires
	tellRole(w)
	head := buffered.AvailableBuffer() // nobody else uses it after Hijack
	h.Head, h.Unread = s.heads.append(head, w.Header(), time.Now()), buffered.Reader.Buffered()
	c, err := s.cfg.Engine.Carry(conn, h, self)
	if err != nil {
		s.log(w).Warn("a stream could not be carried", "topology", h.Machine.Only(), "error", err)
		s.turnAway(conn, &h)
		self.Ended(h.Machine.Account())
		return true
	}
	s.registry.handOver(self, c)
	if ctx := r.Context(); ctx.Err() != nil { // the client has gone
		c.End(context.Cause(ctx), lastWords())
	}
	return true
}

// turnAway tells the client of a hijacked connection, which the engine did not take, to come back later.
func (s *Server) turnAway(conn net.Conn, h *engine.Handover) {
	defer func() { _ = conn.Close() }() // what could be said is said
	h.Machine.Fail(stream.ErrUnavailable)
	h.Arrivals.GiveBack()
	if conn.SetWriteDeadline(time.Now().Add(delivery.LastWords)) == nil {
		why := delivery.TurnAway(h.Machine.Only(), delivery.NoPlace, delivery.CrowdedRetry)
		_, _ = conn.Write(slices.Concat(h.Head, why)) // as above
	}
}
