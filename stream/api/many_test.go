package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"topostream/stream"
	"topostream/stream/sse"
)

// topologyNumber gives the id of the nth topology.
func topologyNumber(n int) stream.TopologyID {
	return stream.TopologyID(fmt.Sprintf("0190e7b2-0000-7000-8000-%012d", n))
}

// A manyBus has feeds. A topology without one is not there, and one whose feed is nil waits until may is closed.
type manyBus struct {
	stream.Bus

	feeds   map[stream.TopologyID]*stream.Feed
	refused map[stream.TopologyID]error
	late    *stream.Feed // of those that wait
	may     chan struct{}
	closed  chan stream.TopologyID
}

func newManyBus(t *testing.T, feeds int) *manyBus {
	t.Helper()
	b := &manyBus{
		feeds: map[stream.TopologyID]*stream.Feed{}, late: stream.NewFeed(stream.FeedConfig{}),
		may: make(chan struct{}), closed: make(chan stream.TopologyID, 100),
	}
	for n := range feeds {
		b.feeds[topologyNumber(n)] = stream.NewFeed(stream.FeedConfig{})
	}
	return b
}

func (b *manyBus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	if err := b.refused[req.Topology]; err != nil {
		return nil, err
	}
	feed, ok := b.feeds[req.Topology]
	switch {
	case !ok:
		return nil, stream.ErrNotFound
	case feed == nil:
		feed = b.late
		select {
		case <-b.may:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	sub := &stream.Subscription{Cursor: feed.Cursor(req.After), Close: func() { b.closed <- req.Topology }}
	if !req.Resume {
		text := sse.Encoder{}.Snapshot(feed.Last(), fmt.Appendf(nil, `{"topology_id":%q}`, req.Topology))
		sub.Snapshot = stream.NewSnapshot(feed.Last(), text, nil)
	}
	return sub, nil
}

func anEvent(seq stream.Seq, id stream.TopologyID) stream.Frame {
	return sse.Encoder{}.Event(stream.Event{Seq: seq, Type: "x", JSON: fmt.Sprintf(`{"topic":"topology.%s.x"}`, id)})
}

// onEachEngine runs a test with the engine and over net/http.
func onEachEngine(t *testing.T, test func(t *testing.T, byEngine bool)) {
	t.Helper()
	for _, byEngine := range []bool{true, false} {
		t.Run(fmt.Sprintf("engine %v", byEngine), func(t *testing.T) { t.Parallel(); test(t, byEngine) })
	}
}

// post gives the answer to a POST /events.
func post(t *testing.T, url, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+manyPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = res.Body.Close() })
	return res
}

func TestManyTopologiesShareAStreamAndNoneWaitsForAnother(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus := newManyBus(t, 2)
		slow, unknown := topologyNumber(7), topologyNumber(8)
		bus.feeds[slow] = nil
		a, b := topologyNumber(0), topologyNumber(1)
		for seq := range stream.Seq(3) {
			bus.feeds[b].Append(anEvent(seq+1, b))
		}
		server, _, returned := plainServer(t, byEngine, bus, Config{})
		res := post(t, server.URL, fmt.Sprintf(`{"topologies":{%q:null,%q:2,%q:null,%q:9}}`, a, b, slow, unknown))
		lines := bufio.NewScanner(res.Body)
		awaitAll(t, lines, fmt.Sprintf(`data: {"topology_id":%q}`, a), fmt.Sprintf(`data: {"topic":"topology.%s.x"}`, b),
			fmt.Sprintf(`"payload":{"topology_id":%q}}`, unknown))
		if byEngine {
			<-returned
		}
		bus.feeds[a].Append(anEvent(1, a))
		awaitAll(t, lines, fmt.Sprintf(`data: {"topic":"topology.%s.x"}`, a))
		close(bus.may)
		awaitAll(t, lines, fmt.Sprintf(`data: {"topology_id":%q}`, slow))
		bus.late.Append(anEvent(1, slow))
		awaitAll(t, lines, fmt.Sprintf(`data: {"topic":"topology.%s.x"}`, slow))
		_ = res.Body.Close()
		gone := map[stream.TopologyID]bool{}
		for range 3 {
			gone[<-bus.closed] = true
		}
		if len(gone) != 3 {
			t.Errorf("not each subscription was closed: %v", gone)
		}
	})
}

// awaitAll reads lines until each of some has come, in any order.
func awaitAll(t *testing.T, lines *bufio.Scanner, ends ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, end := range ends {
		left[end] = true
	}
	for len(left) > 0 && lines.Scan() {
		for end := range left {
			if strings.HasSuffix(lines.Text(), end) {
				delete(left, end)
			}
		}
	}
	if len(left) > 0 {
		t.Fatalf("the stream ended before %v: %v", left, lines.Err())
	}
}

func TestWhoLeavesWhileTopologiesAreBeingAttachedLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus := newManyBus(t, 1)
		bus.feeds[topologyNumber(7)] = nil
		server, s, _ := plainServer(t, byEngine, bus, Config{})
		res := post(t, server.URL, fmt.Sprintf(`{"topologies":{%q:null,%q:null}}`, topologyNumber(0), topologyNumber(7)))
		awaitAll(t, bufio.NewScanner(res.Body), fmt.Sprintf(`{"topology_id":%q}`, topologyNumber(0)))
		_ = res.Body.Close()
		if id := <-bus.closed; id != topologyNumber(0) {
			t.Errorf("%s was closed", id)
		}
		if err := s.Drain(t.Context()); err != nil { // until it is gone
			t.Error(err)
		}
	})
}

func TestARequestForManyThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	bus := newManyBus(t, 2)
	server, _, _ := plainServer(t, false, bus, Config{})
	a, b, unknown := topologyNumber(0), topologyNumber(1), topologyNumber(9)
	const n = mostByBody + 1
	query, body := make([]string, 0, n), make([]string, 0, n)
	for n := range n {
		query = append(query, "topology="+string(topologyNumber(n)))
		body = append(body, fmt.Sprintf("%q:null", topologyNumber(n)))
	}
	for _, c := range []struct {
		query, body string
		status      int
		detail      string
	}{
		{"", "", http.StatusBadRequest, "topology: 0 topologies: give 1 to 50"},
		{"topology=x", "", http.StatusBadRequest, `topology: \"x\" is no id`},
		{"topology=" + string(a) + "&after=" + string(b), "", http.StatusBadRequest, "give the id of a topology and the seq"},
		{"after=x:7", "", http.StatusBadRequest, `after: \"x\" is no id`},
		{strings.Join(query[:mostByQuery+1], "&"), "", http.StatusBadRequest, "51 topologies: give 1 to 50"},
		{"topology=" + string(unknown), "", http.StatusNotFound, ""},
		{"", `{}`, http.StatusBadRequest, "topologies: is missing: give an object of ids and seqs"},
		{"", `{"topologies":[]}`, http.StatusBadRequest, "topologies: give an object"},
		{"", `{"topologies":{}}`, http.StatusBadRequest, "topologies: 0 topologies: give 1 to 500"},
		{"", `{"topologies":{"x":null}}`, http.StatusBadRequest, `topologies.x: \"x\" is no id`},
		{"", fmt.Sprintf(`{"topologies":{%q:9,%q:5}}`, a, strings.ToUpper(string(a))), http.StatusBadRequest,
			"the topology is there twice"},
		{"", fmt.Sprintf(`{"topologies":{%q:"7"}}`, a), http.StatusBadRequest, "give the seq of the last event"},
		{"", fmt.Sprintf(`{"topologies":{%q:7.5}}`, a), http.StatusBadRequest, "give the seq of the last event"},
		{"", fmt.Sprintf(`{"topologies":{%q:null},"graph":1}`, a), http.StatusBadRequest, "graph: give true or false"},
		{"", fmt.Sprintf(`{"topologies":{%q:null},"x":1}`, a), http.StatusBadRequest, "x: "},
		{"", `{"topologies":{` + strings.Join(body, ",") + `}}`, http.StatusBadRequest, "501 topologies: give 1 to 500"},
		{"", fmt.Sprintf(`{"topologies":{%q:null,%q:7}}`, unknown, topologyNumber(8)), http.StatusNotFound, ""},
	} {
		var res *http.Response
		if c.body == "" {
			res = getURL(t, server.URL+manyPath+"?"+c.query)
		} else {
			res = post(t, server.URL, c.body)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != c.status || !strings.Contains(string(text), c.detail) {
			t.Errorf("%s %s: %d %s (%v), want %d %s", c.query, c.body, res.StatusCode, text, err, c.status, c.detail)
		}
	}
}

// getURL gives the answer to a GET with some headers.
func getURL(t *testing.T, url string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func TestATokenMustCoverEachOfMany(t *testing.T) {
	t.Parallel()
	bus := newManyBus(t, 2)
	server, s, _ := plainServer(t, false, bus, Config{})
	s.cfg.Auth = func(*http.Request) (stream.Principal, error) {
		return stream.Principal{
			Subject: "u", Role: stream.RoleViewer, Topologies: []stream.TopologyID{topologyNumber(0)},
		}, nil
	}
	for query, want := range map[string]int{
		"": http.StatusOK, "&topology=" + string(topologyNumber(1)): http.StatusForbidden,
		"&topology=" + string(topologyNumber(9)): http.StatusForbidden, // whether it exists or not
	} {
		query = "?topology=" + string(topologyNumber(0)) + query
		if res := getURL(t, server.URL+manyPath+query); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", query, res.StatusCode, want)
		}
	}
}

func TestAStreamOfManyIsOneStreamAndWhoResumesTakesThePlaceOfTheSameSet(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus := newManyBus(t, 3)
		server, _, _ := plainServer(t, byEngine, bus, Config{MaxStreamsPerUser: 1})
		both := fmt.Sprintf(`{"topologies":{%q:null,%q:%%s}}`, topologyNumber(0), topologyNumber(1))
		first := post(t, server.URL, fmt.Sprintf(both, "null"))
		lines := bufio.NewScanner(first.Body)
		awaitAll(t, lines, fmt.Sprintf(`{"topology_id":%q}`, topologyNumber(1)))
		other := fmt.Sprintf(`{"topologies":{%q:0}}`, topologyNumber(2))
		for _, body := range []string{fmt.Sprintf(both, "null"), other} {
			if res := post(t, server.URL, body); res.StatusCode != http.StatusTooManyRequests {
				t.Errorf("%s: %d", body, res.StatusCode)
			}
		}
		if res := post(t, server.URL, fmt.Sprintf(both, "0")); res.StatusCode != http.StatusOK {
			t.Errorf("who resumes got %d", res.StatusCode)
		}
		awaitAll(t, lines, `"payload":{"reason":"another stream of the same user took this one's place"}}`)
	})
}

func TestADrainEndsAStreamOfMany(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus := newManyBus(t, 2)
		server, s, _ := plainServer(t, byEngine, bus, Config{})
		res := getURL(t, server.URL+manyPath+"?topology="+string(topologyNumber(0))+"&after="+string(topologyNumber(1))+":0")
		lines := bufio.NewScanner(res.Body)
		awaitAll(t, lines, fmt.Sprintf(`{"topology_id":%q}`, topologyNumber(0)))
		var draining sync.WaitGroup
		draining.Go(func() {
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
		})
		awaitAll(t, lines, `"journaled":false,"payload":{"reason":"the server is going away"}}`)
		if lines.Scan() && lines.Text() != "" || lines.Scan() {
			t.Errorf("it goes on: %q", lines.Text())
		}
		draining.Wait()
		refused := getURL(t, server.URL+manyPath+"?topology="+string(topologyNumber(0)))
		if refused.StatusCode != http.StatusServiceUnavailable || refused.Header.Get("Retry-After") == "" {
			t.Errorf("%d %v", refused.StatusCode, refused.Header)
		}
	})
}

func TestManyOfWhichNoneCanBeServedNowAreRefusedAsOneIs(t *testing.T) {
	t.Parallel()
	bus := newManyBus(t, 0)
	bus.refused = map[stream.TopologyID]error{
		topologyNumber(7): &stream.UnavailableError{Reason: "somebody holds it", Err: io.EOF},
	}
	server, _, _ := plainServer(t, false, bus, Config{})
	url := fmt.Sprintf("%s%s?topology=%s&topology=%s", server.URL, manyPath, topologyNumber(7), topologyNumber(9))
	res := getURL(t, url)
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" ||
		!strings.Contains(string(text), "somebody holds it") {
		t.Errorf("%d %s %v", res.StatusCode, text, err)
	}
	events := getURL(t, url, "Accept", "text/event-stream")
	text, err = io.ReadAll(events.Body)
	if err != nil || events.StatusCode != http.StatusOK ||
		!strings.Contains(string(text), `event: unavailable`+"\n"+`data: {"topic":"unavailable"`) {
		t.Errorf("%d %s %v", events.StatusCode, text, err)
	}
}
