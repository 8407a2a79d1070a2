package api

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"topostream/stream"
)

// A promptBus has what every client needs in memory. It does something while the first one takes it.
type promptBus struct {
	aBus

	once   sync.Once
	taking func()
}

func (b *promptBus) AttachAtOnce(req stream.AttachRequest) *stream.Subscription {
	b.once.Do(b.taking)
	sub, _ := b.aBus.Attach(context.Background(), req) // it has a feed
	return sub
}

func (b *promptBus) Attach(context.Context, stream.AttachRequest) (*stream.Subscription, error) {
	panic("nobody has to wait")
}

// onlySession is the one stream of the user u.
func onlySession(s *Server) *session {
	shard := s.registry.shardOf("u")
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.users["u"].first
}

// wasEnded tells whether somebody has ended a stream.
func wasEnded(g *registry, self *session) bool {
	shard := g.shardOf(self.user)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return self.why != nil
}

// A stream is ended once. If that comes before it has its carrier, the carrier must still be told.
func TestAStreamThatIsEndedBeforeAnybodyCarriesItEndsWithTheReason(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		var others sync.WaitGroup
		defer others.Wait()
		for _, c := range []struct {
			want string
			life time.Duration
			ends func(*testing.T, string, *Server) // nil: its token alone
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
			{"event: token_expired", 50 * time.Millisecond, nil},
		} {
			feed, _ := aFeed()
			bus := &promptBus{aBus: feed}
			server, s, _ := plainServer(t, byEngine, bus, Config{MaxStreamsPerUser: 1, WriteTimeout: time.Hour})
			bus.taking = func() {
				self := onlySession(s)
				if c.ends == nil {
					return
				}
				others.Go(func() { c.ends(t, server.URL+anEvents, s) })
				for !wasEnded(s.registry, self) {
					runtime.Gosched()
				}
			}
			if !endsSaying(t, server, s, c.life, c.want) {
				return
			}
			<-feed.closed
		}
	})
}

// What a server may not see is nothing that it has in memory.
func TestABlindServerGivesAtOnceWhatItHas(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		feed, _ := aFeed()
		bus := &promptBus{aBus: feed, taking: func() {}}
		server, _, _ := plainServer(t, byEngine, bus, Config{Blind: func(context.Context) error { return stream.ErrClosed }})
		res, conn := exchange(t, server, "GET "+anEvents+" HTTP/1.1")
		line(t, res, "id: 1")
		_ = conn.Close() // the client goes
		<-feed.closed
	})
}
