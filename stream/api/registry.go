package api

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"topostream/stream/delivery"
)

// registryShards is how many parts, each with a lock of its own, the registry has.
const registryShards = 16

// A registry knows all open streams. It, and not http.Server, enforces the limits and drains. Each user's streams are
// in one shard.
type registry struct {
	max, maxPerUser int

	seed    maphash.Seed
	shards  [registryShards]registryShard
	streams atomic.Int64  // in all shards, with those that are being added
	gone    chan struct{} // one place: a stream has gone while the server drains
}

type registryShard struct {
	mu      sync.Mutex
	closing bool
	users   map[string]*userStreams
}

// userStreams are a user's streams in the order they came.
type userStreams struct {
	first, last *session
	n           int
}

func newRegistry(limit, perUser int) *registry {
	g := &registry{max: limit, maxPerUser: perUser, seed: maphash.MakeSeed(), gone: make(chan struct{}, 1)}
	for i := range g.shards {
		g.shards[i].users = map[string]*userStreams{}
	}
	return g
}

func (g *registry) shardOf(user string) *registryShard {
	return &g.shards[maphash.String(g.seed, user)%registryShards]
}

// add takes a place for s. Where there is none left, one that resumes takes the place of its user's oldest stream of
// the same topologies: the browser that lost it has come back before the server noticed. It costs nothing but this:
// also for a topology that does not exist the answer is errLimit, because a server at its limit does no work in the
// database for what it refuses.
func (g *registry) add(s *session, resumes bool) error {
	shard := g.shardOf(s.user)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.closing {
		return delivery.ErrDraining
	}
	mine := shard.users[s.user]
	if !g.takePlace(mine) {
		old := mine.oldest(s.set)
		if !resumes || old == nil {
			return errLimit
		}
		old.end(delivery.ErrReplaced, lastWords())
		shard.unlink(old) // its place is the new one's
		mine = shard.users[s.user]
	}
	if mine == nil {
		mine = &userStreams{}
		shard.users[s.user] = mine
	}
	mine.append(s)
	return nil
}

// takePlace takes one for a stream of a user who has these, unless there is none left.
func (g *registry) takePlace(mine *userStreams) bool {
	if g.maxPerUser > 0 && mine != nil && mine.n >= g.maxPerUser {
		return false
	}
	if n := g.streams.Add(1); g.max > 0 && n > int64(g.max) {
		g.streams.Add(-1)
		return false
	}
	return true
}

// oldest is the oldest stream of a set of topologies, nil if there is none.
func (u *userStreams) oldest(set string) *session {
	if u == nil {
		return nil
	}
	s := u.first
	for s != nil && s.set != set {
		s = s.next
	}
	return s
}

func (u *userStreams) append(s *session) {
	if s.prev = u.last; u.last == nil {
		u.first = s
	} else {
		u.last.next = s
	}
	u.last, s.listed = s, true
	u.n++
}

// unlink takes s out of its user's list, and tells whether it was in it.
func (r *registryShard) unlink(s *session) bool {
	if !s.listed {
		return false
	}
	u := r.users[s.user]
	if s.prev == nil {
		u.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		u.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.listed = nil, nil, false
	if u.n--; u.n == 0 {
		delete(r.users, s.user)
	}
	return true
}

// handOver gives s its carrier, or another one, and tells it at once if s has been ended meanwhile.
func (g *registry) handOver(s *session, to carrier) {
	shard := g.shardOf(s.user)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if s.carrier = to; s.why != nil {
		to.End(s.why, lastWords())
	}
}

// expire ends s, if it is still there, because its token has expired.
func (g *registry) expire(s *session) {
	g.whileListed(s, func() { s.end(delivery.ErrExpired, lastWords()) })
}

// whileListed does something with s, if it is still there.
func (g *registry) whileListed(s *session, do func()) {
	shard := g.shardOf(s.user)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if s.listed {
		do()
	}
}

func (g *registry) remove(s *session) {
	shard := g.shardOf(s.user)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.unlink(s) {
		g.streams.Add(-1)
	}
	if shard.closing {
		select {
		case g.gone <- struct{}{}:
		default:
		}
	}
}

func (g *registry) draining() bool {
	shard := &g.shards[0] // all close together
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.closing
}

// drain is what Server.Drain says. Streams are ended one by one, so that those who come back do not come together.
func (g *registry) drain(ctx context.Context) error {
	var all []*session
	for i := range g.shards {
		all = append(all, g.shards[i].close()...)
	}
	var spread time.Duration
	if deadline, ok := ctx.Deadline(); ok && len(all) > 1 {
		spread = max(time.Until(deadline)/2, 0)
	}
	for _, s := range all {
		timer := time.AfterFunc(rand.N(spread+1), func() {
			g.whileListed(s, func() { s.end(delivery.ErrDraining, time.Time{}) })
		})
		defer timer.Stop()
	}
	for g.streams.Load() > 0 {
		select {
		case <-g.gone:
		case <-ctx.Done():
			for _, s := range all {
				g.whileListed(s, func() { s.end(delivery.ErrDraining, time.Now()) })
			}
			return ctx.Err()
		}
	}
	return nil
}

// close lets nobody in any more, and gives those who are.
func (r *registryShard) close() (all []*session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for _, u := range r.users {
		for s := u.first; s != nil; s = s.next {
			all = append(all, s)
		}
	}
	return all
}
