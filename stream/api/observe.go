package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"topostream/stream"
	"topostream/stream/delivery"
)

// statusGone is the status of a request whose client went before it was answered, as in nginx's log.
const statusGone = 499

// An Observation is what one request was and what came of it: of a stream at the stream's end, of any other when it is
// answered. It holds no query, no header and no body: what a stranger may have hidden a secret in.
type Observation struct {
	ID       string // of the request: X-Request-Id
	Method   string
	Route    string // its pattern; empty: there is none
	Path     string // bounded
	Status   int    // 499: the client went first
	Bytes    int64  // of the answer's body
	Begun    time.Time
	Duration time.Duration
	Known    bool   // its credential was good
	Subject  string // of the credential; empty: it has none, or there is none
	Address  string
	Reason   string     // why a stream that was asked for was not opened; empty: it was, or none was asked for
	Stream   *StreamEnd // nil: it was none
}

// A StreamEnd is what a stream was.
type StreamEnd struct {
	delivery.Account

	Topology stream.TopologyID // empty: it was one of many topologies, or of the list
	List     bool
	Reason   string // of delivery.EndReason
}

// observing tells whether anybody wants observations.
func (s *Server) observing() bool { return s.cfg.Observe != nil || s.access != nil }

// observe passes an observation to Config.Observe and to the access log. It never blocks,
// because a shard of the engine calls it.
func (s *Server) observe(o *Observation) {
	if s.cfg.Observe != nil {
		s.cfg.Observe(o)
	}
	if s.access != nil {
		s.access.put(o)
	}
}

// observed gives each request its id, and tells what came of it.
func (s *Server) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &reply{ResponseWriter: w, id: [1]string{idOf(r)}}
		w.Header()[idHeader] = e.id[:]
		e.observation.Begun = time.Now()
		defer s.answered(e, r)
		next.ServeHTTP(e, r)
	})
}

// answered tells of a request, unless its stream will.
func (s *Server) answered(e *reply, r *http.Request) {
	if e.isCarried || !s.observing() {
		return
	}
	o := &e.observation
	if o.Status == 0 {
		if o.Status = http.StatusOK; r.Context().Err() != nil {
			o.Status = statusGone
		}
	}
	o.ID, o.Method, o.Address, o.Duration = e.id[0], method(r), r.RemoteAddr, time.Since(o.Begun)
	if r.Method == http.MethodHead {
		o.Bytes = 0 // what the handler wrote was not sent
	}
	o.Path, o.Route = logged(r.URL.Path), chi.RouteContext(r.Context()).RoutePattern()
	s.observe(o)
}

// method is a request's, cut to the length of the longest known one: whatever a client sends as a method is logged.
func method(r *http.Request) string {
	if len(r.Method) <= len(http.MethodOptions) {
		return r.Method
	}
	return r.Method[:len(http.MethodOptions)] + "…"
}

// An opening is what a stream keeps of the request that opened it.
type opening struct {
	id, address string
	begun       time.Time
	isPOST      bool
}

// carried records that the request is observed at its stream's end, and gives what the stream needs for that.
func carried(w http.ResponseWriter, r *http.Request) opening {
	e := replyOf(w)
	e.isCarried = true
	return opening{e.id[0], r.RemoteAddr, e.observation.Begun, r.Method == http.MethodPost}
}

// observeEnd observes a stream that is over.
func (s *session) observeEnd(a delivery.Account) {
	if !s.server.observing() {
		return
	}
	end := &StreamEnd{Reason: delivery.EndReason(a.Why), Account: a}
	o := &Observation{
		ID: s.opening.id, Method: http.MethodGet, Route: manyPath, Status: http.StatusOK, Bytes: a.Bytes,
		Begun: s.opening.begun, Duration: time.Since(s.opening.begun), Subject: s.user, Address: s.opening.address,
		Stream: end,
	}
	if s.opening.isPOST {
		o.Method = http.MethodPost
	}
	o.Path = o.Route
	switch {
	case s.set == setOfList:
		end.List, o.Route, o.Path = true, listPath, listPath
	case len(s.set) == len(stream.TopologyID("00000000-0000-0000-0000-000000000000")):
		end.Topology, o.Route = stream.TopologyID(s.set), eventsPath
		o.Path = strings.Replace(eventsPath, "{id}", s.set, 1)
	}
	s.server.observe(o)
}
