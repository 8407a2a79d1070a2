package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/stream"
)

const patience = 20 * time.Second

// A hookedBus does something while the first client is being attached.
type hookedBus struct {
	aBus

	attaches  atomic.Int64
	attaching func(context.Context)
}

func (b *hookedBus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	if b.attaches.Add(1) == 1 {
		b.attaching(ctx)
	}
	return b.aBus.Attach(ctx, req)
}

// endsSaying opens a stream of the user u with a token that lasts for life, reads it to its end, and fails the test
// unless the stream holds want.
func endsSaying(t *testing.T, server *httptest.Server, s *Server, life time.Duration, want string) bool {
	t.Helper()
	expires := time.Now().Add(life)
	s.cfg.Auth = func(*http.Request) (stream.Principal, error) {
		return stream.Principal{Subject: "u", Role: stream.RoleViewer, Expires: expires}, nil
	}
	res, conn := exchange(t, server, "GET "+anEvents+" HTTP/1.1", "Last-Event-ID: 1")
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(all), want) {
		t.Errorf("want %q, got %s, %q, %v", want, res.Status, all, err)
		_ = conn.Close() // so that whoever waits for its end does not wait for ever
		return false
	}
	return true
}

// A stream is ended once. If that comes before it has its carrier, the carrier must still be told.
func TestAStreamThatIsEndedWhileItIsAttachedEndsWithTheReason(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		var others sync.WaitGroup
		defer others.Wait()
		for _, c := range []struct {
			want string
			life time.Duration
			ends func(*testing.T, string, *Server)
		}{
			{"the server is going away", time.Hour, func(t *testing.T, _ string, s *Server) {
				t.Helper()
				if err := s.Drain(t.Context()); err != nil {
					t.Error(err)
				}
			}},
			{"another stream of the same user", time.Hour, func(t *testing.T, url string, _ *Server) {
				t.Helper()
				getURL(t, url, "Last-Event-ID", "1")
			}},
			{"event: token_expired", 50 * time.Millisecond, func(*testing.T, string, *Server) {}},
		} {
			feed, _ := aFeed()
			bus := &hookedBus{aBus: feed}
			server, s, _ := plainServer(t, byEngine, bus, Config{MaxStreamsPerUser: 1, WriteTimeout: time.Hour})
			bus.attaching = func(ctx context.Context) {
				others.Go(func() { c.ends(t, server.URL+anEvents, s) })
				<-ctx.Done()
			}
			if !endsSaying(t, server, s, c.life, c.want) {
				return
			}
			<-feed.closed
		}
	})
}

// A countingBus counts those that are being attached.
type countingBus struct {
	*manyBus

	under    atomic.Int64
	returned chan stream.TopologyID
}

func (b *countingBus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	b.under.Add(1)
	defer func() { b.under.Add(-1); b.returned <- req.Topology }()
	return b.manyBus.Attach(ctx, req)
}

// Did it not return, the bus would go on for a client that has gone, for as long as the database lets it wait.
func TestWhatIsBeingAttachedForAStreamReturnsWhenTheClientHasGone(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus := &countingBus{manyBus: newManyBus(t, 1), returned: make(chan stream.TopologyID, 10)}
		there, slow, slower := topologyNumber(0), topologyNumber(7), topologyNumber(8)
		bus.feeds[slow], bus.feeds[slower] = nil, nil
		server, _, _ := plainServer(t, byEngine, bus, Config{})
		res := post(t, server.URL, fmt.Sprintf(`{"topologies":{%q:null,%q:null,%q:null}}`, there, slow, slower))
		awaitAll(t, bufio.NewScanner(res.Body), fmt.Sprintf(`{"topology_id":%q}`, there))
		if id := <-bus.returned; id != there || len(bus.returned) != 0 {
			t.Errorf("%s returned, and %d others", id, len(bus.returned))
		}
		_ = res.Body.Close() // the client goes
		for late := time.After(patience); bus.under.Load() > 0; {
			select {
			case <-bus.returned:
			case <-late:
				close(bus.may)
				t.Fatalf("%d are still being attached", bus.under.Load())
			}
		}
	})
}

// A blindBus does not see a topology at first. Whoever asks again waits.
type blindBus struct {
	*manyBus

	asked sync.Map
}

func (b *blindBus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	if _, again := b.asked.LoadOrStore(req.Topology, true); again {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return b.manyBus.Attach(ctx, req)
}

// A client that is told so throws away what it has.
func TestOneOfManyThatTheServerMayOnlyNotSeeIsNotToldToBeDeleted(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		for _, blind := range []error{errors.New("a table cannot be read"), nil} {
			bus := &blindBus{manyBus: newManyBus(t, 1)}
			server, _, _ := plainServer(t, byEngine, bus, Config{
				Blind: func(context.Context) error { return blind }, Keepalive: time.Hour,
			})
			res := post(t, server.URL, fmt.Sprintf(`{"topologies":{%q:null,%q:7}}`, topologyNumber(0), topologyNumber(9)))
			lines, deleted := bufio.NewScanner(res.Body), false
			for lines.Scan() && !strings.HasPrefix(lines.Text(), "retry: ") { // the opening
				continue
			}
			for lines.Scan() && !deleted && lines.Text() != ": keepalive" { // so it hears that it has to wait
				deleted = lines.Text() == "event: deleted"
			}
			if deleted != (blind == nil) || lines.Err() != nil {
				t.Errorf("%v: told that it was deleted: %v, %v", blind, deleted, lines.Err())
			}
		}
	})
}
