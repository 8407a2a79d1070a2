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
	req := stream.AttachRequest{Topology: id, Graph: lenient(r.Request).Get("graph") == "1"}
	req.After, req.Resume = lastEventID(r.Request)
	s.begin(w, r, about{stream: true, topology: id}, string(id), req.Resume, &one{s, req})
}

// An attacher attaches a stream.
type attacher interface {
	// atOnce does it where nothing has to be waited for; false: something has to.
	atOnce() (engine.Handover, bool)
	// wait does it where that may take its time.
	wait(ctx context.Context) (engine.Handover, error)
	// exists returns stream.ErrNotFound where there is nothing to attach.
	exists(ctx context.Context) error
}

// one attaches a stream of one topology, or of the list.
type one struct {
	server *Server
	req    stream.AttachRequest
}

func (o *one) atOnce() (h engine.Handover, ok bool) {
	sub := o.server.atOnce(o.req)
	if sub != nil {
		h = o.handover(sub)
	}
	return h, sub != nil
}

func (o *one) wait(ctx context.Context) (h engine.Handover, err error) {
	sub, err := o.server.cfg.Bus.Attach(ctx, o.req)
	if err == nil {
		h = o.handover(sub)
	}
	return h, err
}

func (o *one) exists(ctx context.Context) error {
	if o.req.List != nil {
		return nil
	}
	return o.server.cfg.Store.Exists(ctx, o.req.Topology)
}

func (o *one) handover(sub *stream.Subscription) engine.Handover {
	o.server.resumed(o.req, sub)
	return engine.Handover{Machine: delivery.New(o.req, sub, 2000+rand.N(2001), o.server.cfg.Keepalive)}
}

// begin serves a stream. set is the same for streams of the same topologies: one of a user's that resumes may take
// another one's place. What is needed only by those who wait is made only for them: when a server comes back, most of
// its clients are of topologies that it has.
func (s *Server) begin(w http.ResponseWriter, r request, a about, set string, resumes bool, attach attacher) {
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

// causeOr prefers why the stream was ended to what that looked like from within.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// lastEventID reads the number that the client knows; the header that a browser sends wins. Clients that cannot set it
// append a parameter to an address that may have one already: of several the last is the newest.
func lastEventID(r *http.Request) (stream.Seq, bool) {
	v := r.Header.Get("Last-Event-ID")
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

// lenient is the query of a request, as much of it as can be read; nil: it has none, as most streams.
func lenient(r *http.Request) url.Values {
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
