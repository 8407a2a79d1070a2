package api

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
	"topostream/stream/tracing"
)

// events is GET /topologies/{id}/events.
func (s *Server) events(w http.ResponseWriter, r request) {
	id := stream.TopologyID(strings.Clone(string(r.topology))) // of a line of the request, which it would keep
	req := stream.AttachRequest{Topology: id, Graph: lenientQuery(r.Request).Get("graph") == "1"}
	req.After, req.Resume = lastEventID(r.Request)
	s.serveStream(w, r, about{stream: true, topology: id}, string(id), req.Resume, &oneAttacher{s, req})
}

// An attacher attaches a stream.
type attacher interface {
	// atOnce attaches it if that takes no wait; else it returns false.
	atOnce() (engine.Handover, bool)
	// wait attaches it, however long the bus takes.
	wait(ctx context.Context) (engine.Handover, error)
	// exists returns stream.ErrNotFound where there is nothing to attach.
	exists(ctx context.Context) error
}

// oneAttacher attaches a stream of one topology, or of the list.
type oneAttacher struct {
	server *Server
	req    stream.AttachRequest
}

func (o *oneAttacher) atOnce() (h engine.Handover, ok bool) {
	sub := o.server.atOnce(o.req)
	if sub != nil {
		h = o.handover(sub)
	}
	return h, sub != nil
}

func (o *oneAttacher) wait(ctx context.Context) (h engine.Handover, err error) {
	sub, err := o.server.cfg.Bus.Attach(ctx, o.req)
	if err == nil {
		h = o.handover(sub)
	}
	return h, err
}

func (o *oneAttacher) exists(ctx context.Context) error {
	if o.req.List != nil {
		return nil
	}
	return o.server.cfg.Store.Exists(ctx, o.req.Topology)
}

func (o *oneAttacher) handover(sub *stream.Subscription) engine.Handover {
	o.server.resumed(o.req, sub)
	return engine.Handover{Machine: delivery.New(o.req, sub, 2000+rand.N(2001), o.server.cfg.Keepalive)}
}

// serveStream serves a stream. set is the same for streams of the same topologies: where a user has no place left, one
// that resumes takes the place of an older one of the same set. What only a client that has to wait needs is made after
// atOnce: when clients come back after a restart, most are of topologies that are attached already.
func (s *Server) serveStream(w http.ResponseWriter, r request, a about, set string, resumes bool, attach attacher) {
	if r.Method == http.MethodHead {
		s.head(w, r, attach)
		return
	}
	self := &session{server: s, user: r.principal.Subject, set: set}
	if err := s.registry.add(self, resumes); err != nil {
		s.cfg.Stats.StreamsRefused.Inc()
		s.refuse(w, r.Request, newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats), a, err)
		return
	}
	h, attached := attach.atOnce()
	if attached && s.handOver(w, r, h, self) {
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	writer := newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats)
	s.registry.handOver(self, &handler{cancel, writer})
	if expires := r.principal.Expires; !expires.IsZero() {
		timer := time.AfterFunc(time.Until(expires), func() { s.registry.expire(self) })
		defer timer.Stop()
	}
	if !attached {
		var err error
		if h, err = attach.wait(ctx); err != nil {
			s.registry.remove(self)
			s.refuse(w, r.Request, writer, a, causeOr(ctx, err))
			return
		}
		if s.handOver(w, r, h, self) {
			return
		}
	}
	self.began()
	self.opening = carried(w, r.Request)
	defer func() {
		account := h.Machine.Account()
		account.Bytes = replyOf(w).observation.Bytes
		self.Ended(account)
	}()
	writer.headers()
	// The machine knows why it ended.
	_ = s.carry(tracing.HeadersSent(ctx), writer, &h.Machine, h.Arrivals)
}

// head answers as a stream would begin, and opens none (RFC 9110, section 9.3.2).
func (s *Server) head(w http.ResponseWriter, r request, attach attacher) {
	if err := attach.exists(r.Context()); err != nil {
		s.fail(w, r.Request, err)
		return
	}
	newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats).headers()
}

// causeOr gives ctx's cause, which is why the stream was ended, and err only where ctx has not ended.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// lastEventID reads the number that the client knows; the header that a browser sends wins. Clients that cannot set it
// append a parameter to an address that may have one already: of several the last is the newest.
func lastEventID(r *http.Request) (stream.Seq, bool) {
	var v string
	if sent := r.Header.Values("Last-Event-ID"); len(sent) > 0 {
		v = sent[len(sent)-1]
	}
	if v != "" || r.URL.RawQuery == "" {
		return stream.ParseSeq(v)
	}
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if name, value, _ := strings.Cut(pair, "="); isLastEventID(unescaped(name)) {
			v = unescaped(value)
		}
	}
	return stream.ParseSeq(v)
}

// lenientQuery is the query of a request, as much of it as can be read; nil: it has none, as most streams.
func lenientQuery(r *http.Request) url.Values {
	if r.URL.RawQuery == "" {
		return nil
	}
	return r.URL.Query()
}

// unescaped is a part of a query, as it is where it is malformed.
func unescaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// isLastEventID knows the names that native clients and polyfills give the parameter.
func isLastEventID(name string) bool {
	return name == "last_event_id" || name == "lastEventId" || name == "Last-Event-ID"
}
