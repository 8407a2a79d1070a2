package api

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
)

// retryAfter is when it may be worth another try, where nothing better is known.
const retryAfter = 5 * time.Second

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

func (o *one) handover(sub *stream.Subscription) engine.Handover {
	o.server.resumed(o.req, sub)
	return engine.Handover{Machine: delivery.New(o.req, sub, 2000+rand.N(2001), o.server.cfg.Keepalive)}
}

// begin serves a stream. set is the same for streams of the same topologies: one of a user's that resumes may take
// another one's place. What is needed only by those who wait is made only for them: when a server comes back, most of
// its clients are of topologies that it has.
func (s *Server) begin(w http.ResponseWriter, r request, a about, set string, resumes bool, attach attacher) {
	if r.Method == http.MethodHead {
		s.head(w, r, a)
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
	defer func() { self.Ended(h.Machine.Why()) }()
	writer.headers()
	_ = s.carry(ctx, writer, &h.Machine, h.Arrivals) // the machine knows why it ended
}

// head answers as a stream would begin, and opens none (RFC 9110, section 9.3.2).
func (s *Server) head(w http.ResponseWriter, r request, a about) {
	if a.topology != "" {
		if err := s.cfg.Store.Exists(r.Context(), a.topology); err != nil {
			s.fail(w, r.Request, err)
			return
		}
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

// refuse answers instead of a stream. A browser's EventSource gives up for good on any answer but 200, so where a
// retry would help it gets one, with a longer retry time and the reason.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, writer *frameWriter, a about, err error) {
	status, after := http.StatusServiceUnavailable, retryAfter
	switch err = s.seen(r, err); {
	case errors.Is(err, context.Canceled):
		return // the client has gone
	case errors.Is(err, stream.ErrNotFound), errors.Is(err, stream.ErrDeleted):
		notFound(w)
		return
	case errors.Is(err, delivery.ErrExpired): // while it waited; whoever comes back with the token hears the same
		unauthenticated(w)
		return
	case errors.Is(err, errLimit), errors.Is(err, delivery.ErrReplaced):
		status, after = http.StatusTooManyRequests, delivery.CrowdedRetry
	case errors.Is(err, errRate):
		status, after = http.StatusTooManyRequests, rateWindow
	case errors.Is(err, delivery.ErrDraining), errors.Is(err, stream.ErrClosed):
		after = 2 * time.Second // another server may be up already
	default:
		s.cfg.Logger.Warn("attach", "topology", a.topology, "error", err)
	}
	if a.stream && acceptsEvents(r) {
		writer.headers()
		_ = writer.write(delivery.TurnAway(a.topology, publicReason(err), after))
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	problem(w, status, publicReason(err))
}

// publicReason is the sentence for the client: the sentinel's, never what was wrapped beside it.
func publicReason(err error) string {
	for _, known := range []error{errLimit, errRate} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return delivery.Reason(err)
}
