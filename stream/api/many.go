package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
)

// How many topologies one stream may have: an address has bounds in every proxy.
const (
	mostByQuery = 50
	mostByBody  = 500
)

// manyByQuery is GET /events.
func (s *Server) manyByQuery(w http.ResponseWriter, r request) {
	wanted, err := parseManyQuery(r.Request)
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	s.many(w, r, asked{topologies: wanted})
}

// asked is what one stream of many is asked for.
type asked struct {
	topologies []stream.AttachRequest
	list       bool // of topologies, too
}

// manyByBody is POST /events. The answer is the stream.
func (s *Server) manyByBody(w http.ResponseWriter, r request) {
	wanted, body, err := parseBody(s, w, r.Request, parseMany)
	body.release()
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	s.many(w, r, wanted)
}

// parseManyQuery reads ?topology=<id>&after=<id>:<seq>&graph=1; what is wrong with it is a *stream.FieldError.
func parseManyQuery(r *http.Request) ([]stream.AttachRequest, error) {
	query, err := queryOf(r)
	if err != nil {
		return nil, err
	}
	c := collector{least: 1, most: mostByQuery, graph: query.Get("graph") == "1"}
	for _, id := range query["topology"] {
		c.add("topology", id, stream.AttachRequest{})
	}
	for _, after := range query["after"] {
		id, number, _ := strings.Cut(after, ":")
		seq, ok := stream.ParseSeq(number)
		if !ok {
			c.fail(refused("after", "%.80q is no <id>:<seq>: give the id of a topology and the seq of its last event", after))
		}
		c.add("after", id, stream.AttachRequest{Resume: true, After: seq})
	}
	return c.all("topology")
}

// parseMany reads {"topologies":{"<id>":<seq>|null},"graph"?,"list"?}; what is wrong with it is a *stream.FieldError.
func parseMany(body []byte) (a asked, err error) {
	o, err := newBody(body)
	if err != nil {
		return a, err
	}
	var (
		topologies map[string]json.RawMessage
		graph      bool
	)
	o.Into("graph", &graph, "give true or false")
	o.Into("list", &a.list, "give true or false")
	const problem = "give an object of ids and seqs"
	if !o.Into("topologies", &topologies, problem) && !a.list {
		o.Fail("topologies", "is missing: "+problem)
	}
	if err := o.Close(); err != nil {
		return a, err
	}
	c := collector{least: 1, most: mostByBody, once: true, graph: graph}
	if a.list {
		c.least = 0
	}
	for _, id := range slices.Sorted(maps.Keys(topologies)) { // so that of several mistakes the same one is named
		number, field := topologies[id], stream.JoinPath("topologies", id)
		if string(number) == "null" {
			c.add(field, id, stream.AttachRequest{})
			continue
		}
		seq, ok := stream.ParseSeq(string(number))
		if !ok {
			c.fail(refused(field, "give the seq of the last event that you have, or null"))
		}
		c.add(field, id, stream.AttachRequest{Resume: true, After: seq})
	}
	a.topologies, err = c.all("topologies")
	return a, err
}

// A collector puts together what one stream is asked for.
type collector struct {
	least  int
	most   int
	once   bool // a topology may not be named twice
	graph  bool
	wanted []stream.AttachRequest
	err    error // the first
}

func (c *collector) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *collector) add(field, text string, req stream.AttachRequest) {
	id, ok := stream.ParseTopologyID(text)
	if !ok {
		c.fail(refused(field, "%.80q is no id of a topology: give the 36 characters of a UUID", text))
		return
	}
	req.Topology, req.Graph = stream.TopologyID(strings.Clone(string(id))), c.graph
	if c.once && slices.ContainsFunc(c.wanted, func(r stream.AttachRequest) bool { return r.Topology == req.Topology }) {
		c.fail(refused(field, "the topology is there twice, in another spelling: leave one out"))
	}
	c.wanted = append(c.wanted, req)
}

// all gives each topology once, in an order that is always the same.
func (c *collector) all(field string) ([]stream.AttachRequest, error) {
	slices.SortStableFunc(c.wanted, func(a, b stream.AttachRequest) int {
		return cmp.Or(cmp.Compare(a.Topology, b.Topology), later(a, b))
	})
	c.wanted = slices.CompactFunc(c.wanted, func(a, b stream.AttachRequest) bool { return a.Topology == b.Topology })
	if n := len(c.wanted); n < c.least || n > c.most {
		c.fail(refused(field, "%d topologies: give %d to %d", n, c.least, c.most))
	}
	return c.wanted, c.err
}

// later puts in front the request that knows most.
func later(a, b stream.AttachRequest) int {
	known := func(r stream.AttachRequest) int64 {
		if r.Resume {
			return int64(r.After)
		}
		return -1
	}
	return cmp.Compare(known(b), known(a))
}

// many serves one stream of many topologies. Each has a part of it, and none waits for another.
func (s *Server) many(w http.ResponseWriter, r request, a asked) {
	wanted := a.topologies
	for _, req := range wanted {
		if !r.principal.Sees(req.Topology) {
			s.cfg.Stats.Refusals[stream.RefusedScope].Inc()
			s.fail(w, r.Request, forbidden("the token does not cover topology "+string(req.Topology)))
			return
		}
	}
	if a.list {
		wanted = append(wanted, stream.AttachRequest{List: listFor(r.principal, nil)})
	}
	// A browser's EventSource that comes back says so by this header alone.
	resumes := r.Header.Get("Last-Event-ID") != "" ||
		slices.ContainsFunc(wanted, func(req stream.AttachRequest) bool { return req.Resume })
	s.serveStream(w, r, about{stream: true}, setOf(wanted), resumes, &manyAttacher{s, wanted, s.log(w)})
}

// manyAttacher attaches a stream of many topologies. It never does so at once: it waits for the first that is attached.
type manyAttacher struct {
	server *Server
	wanted []stream.AttachRequest
	log    *slog.Logger // of the request
}

func (v *manyAttacher) atOnce() (h engine.Handover, ok bool) { return h, false }

func (v *manyAttacher) wait(ctx context.Context) (engine.Handover, error) {
	return v.server.attachMany(ctx, v.log, v.wanted)
}

// exists returns stream.ErrNotFound where none of the topologies exists.
func (v *manyAttacher) exists(ctx context.Context) error {
	for _, req := range v.wanted {
		err := error(nil)
		if req.List == nil {
			err = v.server.cfg.Store.Exists(ctx, req.Topology)
		}
		if !errors.Is(err, stream.ErrNotFound) {
			return err
		}
	}
	return stream.ErrNotFound
}

// setOf is the same for streams of the same topologies.
func setOf(wanted []stream.AttachRequest) string {
	hash := sha256.New()
	for _, req := range wanted {
		fmt.Fprintln(hash, req.Topology, req.List != nil)
	}
	return string(hash.Sum(nil))
}

// attachMany begins to attach all, and gives the stream as soon as the first is attached. Where none can be, its error
// is that of one that may be attached later, if there is one.
func (s *Server) attachMany(
	ctx context.Context, log *slog.Logger, wanted []stream.AttachRequest,
) (h engine.Handover, err error) {
	h.Machine = delivery.NewMany(wanted, 2000+rand.N(2001), s.cfg.Keepalive)
	// Not the request's: the handler may return, and end that, while parts are still being attached.
	attachCtx, cancel := context.WithCancelCause(context.Background())
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	arrivals := make(chan engine.Arrival, len(wanted))
	for part, req := range wanted {
		go func() {
			sub, err := s.cfg.Bus.Attach(attachCtx, req)
			logAttach(log, req.Topology, err)
			s.resumed(req, sub)
			arrivals <- engine.Arrival{Part: part, Subscription: sub, Err: err}
		}()
	}
	h.Arrivals = engine.Arrivals{C: arrivals, Left: len(wanted), Cancel: func() { cancel(nil) }}
	failed := stream.ErrNotFound
	for h.Arrivals.Left > 0 {
		a := <-arrivals // one comes in any case: Attach returns when its context ends
		h.Arrivals.Left--
		h.Machine.Attached(a.Part, a.Subscription, a.Err)
		if a.Err == nil {
			stop()
			return h, nil
		}
		if !missing(a.Err) {
			failed = a.Err
		}
	}
	cancel(nil)
	h.Machine.Fail(failed)
	return h, failed
}

func missing(err error) bool {
	return errors.Is(err, stream.ErrNotFound) || errors.Is(err, stream.ErrDeleted)
}

// logAttach says why one topology of many could not be attached.
func logAttach(log *slog.Logger, id stream.TopologyID, err error) {
	if err != nil && !missing(err) && !errors.Is(err, context.Canceled) {
		log.Warn("attach", "topology", id, "error", err)
	}
}
