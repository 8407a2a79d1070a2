package engine

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"time"
)

// How many calls of one topology run at a time. The bus lets those that run at the same time share a read, or a
// transaction.
const (
	mostReads    = 4
	mostAttaches = 32
)

// An Engine carries streams. It has no goroutines while it has no streams.
type Engine struct {
	cfg      Config
	begun    time.Time
	shards   []*shard
	taken    atomic.Uint64 // streams so far: by this they are spread evenly over the shards
	reads    pool
	attaches pool
}

// New makes an engine with a shard for each processor that Go uses.
func New(cfg Config) (*Engine, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 30*time.Second)
	e := &Engine{
		cfg: cfg, begun: time.Now(), reads: newPool(mostReads), attaches: newPool(mostAttaches),
	}
	for range runtime.GOMAXPROCS(0) {
		s, err := newShard(e)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		e.shards = append(e.shards, s)
	}
	return e, nil
}

// Carry takes a connection that was hijacked, and its stream. The owner is told when it is over; where there is an
// error it is not, and all is still the caller's.
func (e *Engine) Carry(conn net.Conn, h Handover, owner Owner) (*Stream, error) {
	fd, err := duplicate(conn)
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // the connection lives on in fd
	s := e.shards[e.taken.Add(1)%uint64(len(e.shards))]
	c := &Stream{
		shard: s, machine: h.Machine, owner: owner, fd: fd, discarded: h.Unread,
		seats: make([]seat, h.Machine.Parts()), retryAt: never, expires: never, cutAt: never,
	}
	if !h.Expires.IsZero() {
		c.expires = e.now() + time.Until(h.Expires)
	}
	c.begin(h.Head)
	s.post(message{kind: added, stream: c, arrivals: h.Arrivals})
	return c, nil
}

// now is the engine's time: since it was made, by the monotonic clock, which does not jump.
func (e *Engine) now() time.Duration { return time.Since(e.begun) }
