package api

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// errLimit refuses a stream for which there is no place.
var errLimit = errors.New("too many streams")

// The registry of streams, and not http.Server, owns limits and drain.
type registry struct {
	max, maxPerUser int

	mu      sync.Mutex
	closing bool
	streams map[*session]struct{}
	users   map[string][]*session // in the order they came
	changed chan struct{}         // closed when a stream has gone
}

func newRegistry(limit, perUser int) *registry {
	return &registry{
		max: limit, maxPerUser: perUser,
		streams: map[*session]struct{}{}, users: map[string][]*session{}, changed: make(chan struct{}),
	}
}

// add takes a place for s. Where there is none left, one that resumes takes the place of its user's oldest stream of
// the same topology: the browser that lost it has come back before the server noticed. It costs nothing but this:
// also for a topology that does not exist the answer is errLimit, because a server at its limit does no work in the
// database for what it refuses.
func (g *registry) add(s *session, resumes bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return delivery.ErrDraining
	}
	if g.fullLocked(s.user) && (!resumes || !g.replaceLocked(s)) {
		return errLimit
	}
	g.streams[s] = struct{}{}
	g.users[s.user] = append(g.users[s.user], s)
	return nil
}

func (g *registry) fullLocked(user string) bool {
	return g.max > 0 && len(g.streams) >= g.max || g.maxPerUser > 0 && len(g.users[user]) >= g.maxPerUser
}

// replaceLocked ends the oldest stream of the same user and topology, if there is one.
func (g *registry) replaceLocked(s *session) bool {
	for _, old := range g.users[s.user] {
		if old.topology == s.topology {
			old.end(delivery.ErrReplaced)
			g.removeLocked(old)
			return true
		}
	}
	return false
}

// handOver gives s another carrier. Who has ended the stream until then, has ended it with the one before.
func (g *registry) handOver(s *session, to carrier) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.carrier = to
}

// expire ends s, if it is still there, because its token has.
func (g *registry) expire(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.streams[s]; ok {
		s.end(delivery.ErrExpired)
	}
}

func (g *registry) remove(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(s)
}

func (g *registry) removeLocked(s *session) {
	if _, ok := g.streams[s]; !ok {
		return
	}
	delete(g.streams, s)
	mine := g.users[s.user]
	for i, old := range mine {
		if old == s {
			mine = append(mine[:i:i], mine[i+1:]...)
			break
		}
	}
	if len(mine) == 0 {
		delete(g.users, s.user)
	} else {
		g.users[s.user] = mine
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *registry) draining() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

func (g *registry) drain(ctx context.Context) error {
	g.mu.Lock()
	g.closing = true
	var spread time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		spread = max(time.Until(deadline)/2, 0)
	}
	for s := range g.streams {
		if len(g.streams) > 1 {
			timer := time.AfterFunc(rand.N(spread+1), func() { s.carrier.End(delivery.ErrDraining, time.Time{}) })
			defer timer.Stop()
			continue
		}
		s.carrier.End(delivery.ErrDraining, time.Time{})
	}
	g.mu.Unlock()
	for {
		g.mu.Lock()
		left, changed := len(g.streams), g.changed
		g.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			g.mu.Lock()
			for s := range g.streams {
				s.carrier.End(delivery.ErrDraining, time.Now())
			}
			g.mu.Unlock()
			return ctx.Err()
		}
	}
}

// A session is one open stream.
type session struct {
	server   *Server
	user     string
	topology stream.TopologyID
	carrier  carrier
}

// A carrier carries one stream to its end.
//
// End ends it in order: behind what is being written, with the reason. Any goroutine may call it, again and again. What
// is blocked is cut at by, unless that is zero; with one it is called under the registry's lock, for a session in it.
type carrier interface {
	End(why error, by time.Time)
}

// Ended implements engine.Owner.
func (s *session) Ended() {
	s.server.cfg.Stats.Streams.Add(-1)
	s.server.registry.remove(s)
}

// end ends a stream that has lost its right: a client that takes what it was sent slowly must not keep it for as long
// as a write may take. The registry's lock is held, without which the handler does not return.
func (s *session) end(why error) { s.carrier.End(why, time.Now().Add(delivery.LastWords)) }
