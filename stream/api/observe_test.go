package api

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// observations are those of a server.
type observations chan *Observation

func newObservations() observations { return make(observations, 100) }

func (c observations) observe(one *Observation) { c <- one }

func (c observations) next(t *testing.T) *Observation {
	t.Helper()
	select {
	case one := <-c:
		return one
	case <-time.After(patience):
		t.Fatal("nothing was observed")
		return nil
	}
}

func TestEachRequestIsObservedWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	seen := newObservations()
	s, _ := ticketServer()
	s.cfg.Observe = seen.observe
	for _, c := range []struct {
		method, target, route string
		status                int
	}{
		{"GET", "/livez?token=secret", "/livez", 200},
		{"HEAD", "/livez", "/livez", 200},
		{"GET", "/nothing", "", 404},
		{"DELETE", "/livez", "", 405},
		{"GET", basePath + "/topologies/x?token=token", basePath + "/topologies/{id}", 404},
		{"GET", anEvents + "?token=secret", eventsPath, 401},
		{"GET", anEvents + "?token=token", eventsPath, 404},
		{"GET", manyPath + "?token=token&topology=x", manyPath, 400},
	} {
		w := ask(s, c.method, c.target, "")
		o := seen.next(t)
		path, _, _ := strings.Cut(c.target, "?")
		size := w.Body.Len()
		if c.method == "HEAD" { // a connection would have sent none of it
			size = 0
		}
		if o.Method != c.method || o.Route != c.route || o.Path != path || o.Status != c.status || o.Stream != nil ||
			o.Bytes != int64(size) || o.ID != "the-same" || o.Address == "" {
			t.Errorf("%s %s: %+v", c.method, c.target, o)
		}
	}
	if w := ask(s, strings.Repeat("M", 30000), "/"+strings.Repeat("a", 30000), ""); w.Code != http.StatusNotFound &&
		w.Code != http.StatusMethodNotAllowed {
		t.Errorf("%d", w.Code)
	}
	if o := seen.next(t); len(o.Method)+len(o.Path) > 300 {
		t.Errorf("%d bytes of method, %d of path", len(o.Method), len(o.Path))
	}
}

func TestAStreamIsObservedAtItsEndWithWhatItWas(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		seen := newObservations()
		bus, _ := aFeed()
		server, s, _ := plainServer(t, byEngine, bus, Config{})
		s.cfg.Observe = seen.observe
		res, _ := exchange(t, server, "GET "+anEvents+"?token=secret HTTP/1.1", "X-Request-Id: mine")
		line(t, res, "id: 1")
		if len(seen) != 0 {
			t.Errorf("observed before its end: %+v", <-seen)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		o := seen.next(t)
		if o.Stream == nil {
			t.Fatalf("%+v", o)
		}
		if o.ID != "mine" || o.Route != eventsPath || o.Path != anEvents || o.Status != 200 || o.Subject != "u" ||
			o.Bytes < 100 || o.Stream.Topology != someTopology || o.Stream.Reason != "draining" {
			t.Errorf("%+v %+v", o, o.Stream)
		}
		if o.Stream.First != 1 || o.Stream.Last != 1 || o.Stream.Events != 1 {
			t.Errorf("%+v", o.Stream)
		}
	})
}
