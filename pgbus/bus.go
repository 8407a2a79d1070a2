// Package pgbus is PostgreSQL as the bus: it implements [stream.Bus] on LISTEN/NOTIFY, with polling as the net beneath.
//
// One connection carries the LISTENs of every attached topology and belongs to one goroutine ([Bus.listen]). Requests that wait are attached
// together: one transaction LISTENs all their channels and takes all their snapshots (attach.go). LISTEN takes effect during COMMIT, later
// than anything the transaction could read, so each attach is followed by one catch-up read of the journal (fill.go). Everything
// else, holes, reconnects, heartbeat and polling included, is the same read: from a feed's last event to the head.
package pgbus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// Config is what New needs. Zero durations and sizes take the documented defaults.
type Config struct {
	Pool   *pgxpool.Pool   // for journal reads, snapshots and heads; from NewPool
	Listen *pgx.ConnConfig // for the LISTEN connection; must reach the same database without a transaction pooler
	Memory *stream.Memory  // of all rings
	Stats  *stream.Stats
	Logger *slog.Logger

	PollOnly   bool          // never LISTEN
	Heartbeat  time.Duration // heads are compared with feeds while listening: 10 s
	Poll       time.Duration // the same while not listening: 250 ms
	Ping       time.Duration // of the LISTEN connection: 4 s
	Linger     time.Duration // of a feed whose last client left: 60 s
	AttachWait time.Duration // after which a request gets ErrUnavailable: 5 s

	Retention      time.Duration // age at which journal rows may go; 0: never
	RetentionCount int64         // newest rows kept of each topology; 0: no such limit
	PruneEvery     time.Duration // 1 min

	MutationRetention time.Duration // age at which finished mutations may go; 0: never
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Heartbeat, 10 * time.Second},
		{&c.Poll, 250 * time.Millisecond},
		{&c.Ping, 4 * time.Second},
		{&c.Linger, time.Minute},
		{&c.AttachWait, 5 * time.Second},
		{&c.PruneEvery, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Stats == nil {
		c.Stats = &stream.Stats{}
	}
	if c.Memory == nil {
		c.Memory = stream.NewMemory(256<<20, c.Stats)
	}
}

// Bus streams topologies from PostgreSQL. Make it with New, run it with Run.
type Bus struct {
	cfg   Config
	stats *stream.Stats
	log   *slog.Logger

	mu       sync.Mutex
	closed   bool
	topics   map[stream.TopologyID]*topic
	pending  map[stream.TopologyID]*pendingAttach
	unlisten map[stream.TopologyID]struct{}

	wait   interruptible // of the LISTEN connection's owner
	polled wait.Signal   // wakes the poller
	since  time.Time     // when the bus began not to listen; under mu
	asked  time.Time     // when the database answered last; under mu
	state  string        // why the bus does not listen; under mu

	life  context.Context //nolint:containedctx // the bus's own, for what spawn starts
	end   context.CancelFunc
	tasks sync.WaitGroup

	fills fillQueue
	pager pager
	reads *semaphore.Weighted // journal reads under way
	heads singleflight.Group  // reads of one topology's head
}

var _ stream.Bus = (*Bus)(nil)

// New makes a bus; nothing runs before Run.
func New(cfg Config) *Bus {
	cfg.setDefaults()
	b := &Bus{
		cfg: cfg, stats: cfg.Stats, log: cfg.Logger,
		topics:   map[stream.TopologyID]*topic{},
		pending:  map[stream.TopologyID]*pendingAttach{},
		unlisten: map[stream.TopologyID]struct{}{},
		polled:   wait.NewSignal(),
		since:    time.Now(),
		state:    "starting",
		reads:    semaphore.NewWeighted(4),
	}
	b.life, b.end = context.WithCancel(context.Background())
	b.fills.ready = wait.NewSignal()
	b.pager.calls = map[pageKey]*pageCall{}
	return b
}

// Run owns the bus's goroutines and returns nil when ctx ends and all are gone. Clients then see stream.ErrClosed.
func (b *Bus) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if b.cfg.PollOnly {
		b.setListening(false, "polling, as asked")
	} else {
		g.Go(func() error { b.listen(ctx); return nil })
	}
	g.Go(func() error { b.watchHeads(ctx); return nil })
	g.Go(func() error { b.fillLoop(ctx); return nil })
	g.Go(func() error { b.fillLoop(ctx); return nil })
	g.Go(func() error { b.lingerLoop(ctx); return nil })
	g.Go(func() error { b.pruneLoop(ctx); return nil })
	err := g.Wait()
	b.close()
	b.tasks.Wait()
	return err
}

// spawn runs f in a goroutine that Run waits for. Its context ends with the bus, and with no request.
func (b *Bus) spawn(f func(context.Context)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		go f(b.life) // which has ended, so that f only tells those who wait
		return
	}
	b.tasks.Go(func() { f(b.life) })
}

func (b *Bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.end()
	b.stats.Listening.Store(false)
	b.stats.Channels.Store(0)
	for id, t := range b.topics {
		t.feed.Close(stream.ErrClosed)
		delete(b.topics, id)
	}
	for id, p := range b.pending {
		p.finish(result{err: stream.ErrClosed})
		delete(b.pending, id)
	}
}

// Ready returns nil while events can reach clients, by LISTEN or by polling.
func (b *Bus) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return stream.ErrClosed
	case b.stats.Listening.Load(), time.Since(b.asked) < 3*time.Second:
		return nil
	}
	return fmt.Errorf("bus: %s; the database did not answer within 3 s", b.state)
}

// Mode says how the bus hears of events now, for people: "notify", or "poll" and why.
func (b *Bus) Mode() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stats.Listening.Load() {
		return "notify"
	}
	return "poll: " + b.state
}

func (b *Bus) setListening(on bool, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stats.Listening.Swap(on) && !on {
		b.since = time.Now()
	}
	b.state = why
	if on {
		b.asked = time.Now()
		return
	}
	b.polled.Set()
}

func (b *Bus) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = time.Now()
}

// Attach implements stream.Bus.
func (b *Bus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	t, gone, err := b.acquire(ctx, req)
	switch {
	case err != nil:
		return nil, err
	case gone != nil:
		return b.subscribeDeleted(req, *gone)
	}
	sub, err := b.subscribe(ctx, t, req)
	if err != nil {
		b.release(t)
		return nil, err
	}
	b.stats.Attaches.Add(1)
	return sub, nil
}

// acquire gives the topic of an attached topology with one more client, attaching it first if need be.
func (b *Bus) acquire(ctx context.Context, req stream.AttachRequest) (*topic, *deletedTopology, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, nil, stream.ErrClosed
	}
	if t := b.topics[req.Topology]; t != nil {
		t.clients++
		b.mu.Unlock()
		return t, nil, nil
	}
	w := b.enqueue(req)
	b.mu.Unlock()
	b.wait.interrupt()
	b.polled.Set()

	select {
	case r := <-w.done:
		return r.topic, r.deleted, r.err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w.abandoned = true
	select {
	case r := <-w.done: // it came at the same moment
		if r.topic != nil {
			b.releaseLocked(r.topic)
		}
	default:
	}
	return nil, nil, context.Cause(ctx)
}

// subscribe places a client in an attached topology's feed.
func (b *Bus) subscribe(ctx context.Context, t *topic, req stream.AttachRequest) (*stream.Subscription, error) {
	sub := &stream.Subscription{Close: sync.OnceFunc(func() { b.release(t) })}
	if req.Resume {
		ok, err := b.mayResume(ctx, t, req.After)
		if err != nil {
			return nil, err
		}
		if ok {
			sub.Cursor = t.feed.Cursor(req.After)
			return sub, nil
		}
	}
	snap, err := b.snapshot(ctx, t, req.Graph)
	if err != nil {
		return nil, err
	}
	sub.Snapshot = snap
	sub.Cursor = t.feed.Cursor(snap.Seq)
	return sub, nil
}

// mayResume tells whether n is a number of this history, at or below the database's head. Whether the journal still holds what
// follows, the cursor finds out by reading it. Only a number above all that this server has heard costs a query, and those
// that come together share it: another server may be ahead of this one.
func (b *Bus) mayResume(ctx context.Context, t *topic, n stream.Seq) (bool, error) {
	known := max(t.feed.Last(), t.attachedAt)
	switch {
	case n.Epoch() < known.Epoch():
		return false, nil
	case n <= known:
		return true, nil
	}
	for range 2 { // the first read may be one that somebody began earlier; the second one began after the first had ended
		h, shared, err := b.shareHead(ctx, t.id)
		if err != nil {
			return false, err
		}
		if h.seq > t.feed.Last() {
			b.fill(t, stream.ReadHole)
		}
		if n <= h.seq && n.Epoch() == h.seq.Epoch() {
			return true, nil
		}
		if !shared {
			break
		}
	}
	return false, nil
}

// subscribeDeleted serves who resumes below a deleted topology's head: the rest of the journal, `deleted`, and the end.
func (b *Bus) subscribeDeleted(req stream.AttachRequest, gone deletedTopology) (*stream.Subscription, error) {
	h := gone.head
	if !req.Resume || req.After >= h.seq || req.After+1 < h.first || req.After.Epoch() != h.seq.Epoch() {
		return nil, stream.ErrNotFound
	}
	feed := b.newFeed(req.Topology, h.seq, 0)
	feed.Close(stream.ErrDeleted)
	b.stats.Attaches.Add(1)
	return &stream.Subscription{Cursor: feed.Cursor(req.After), Close: func() {}}, nil
}

func (b *Bus) newFeed(id stream.TopologyID, base, alive stream.Seq) *stream.Feed {
	return stream.NewFeed(stream.FeedConfig{Topology: id, Base: base, Alive: alive, Journal: b, Memory: b.cfg.Memory, Stats: b.stats})
}
