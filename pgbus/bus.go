// Package pgbus is PostgreSQL as the bus: it implements [stream.Bus] on LISTEN/NOTIFY or on logical replication, with polling as the net beneath.
//
// One connection carries the LISTENs of every attached topology and belongs to one goroutine ([Bus.listen]). Requests that wait are attached
// together: one transaction LISTENs all their channels and takes all their snapshots (attach.go). LISTEN takes effect during COMMIT, later
// than anything the transaction could read, so each attach is followed by one catch-up read of the journal (fill.go). Everything
// else, holes, reconnects, heartbeat and polling included, is the same read: from a feed's last event to the head.
//
// On the bus `wal` the triggers do not NOTIFY, and one replication connection (wal.go) tells of all topologies' events; the LISTEN connection stays, for what
// people NOTIFY. A topology is in the map of those attached before its catch-up begins, so what the WAL tells of it from then on finds its feed, and what the
// WAL told before is in the journal, or still to be seen there (settle.go).
package pgbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
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
	Pool    *pgxpool.Pool   // for journal reads, snapshots and heads; from NewPool
	Listen  *pgx.ConnConfig // for the LISTEN and the replication connection; must reach the same database without a transaction pooler
	Replica *pgxpool.Pool   // of one standby: streams are read from it, by its WAL unless Bus is BusPoll; not through a pooler; nil: from the primary
	Memory  *stream.Memory  // of all rings
	Encoder stream.Encoder  // makes the frames of what is read
	Stats   *stream.Stats
	Logger  *slog.Logger

	Bus        string        // BusNotify or BusWAL, whatever the database says, or BusPoll: never LISTEN; empty: what the database says
	Heartbeat  time.Duration // heads are compared with feeds while listening: 10 s
	Poll       time.Duration // the same while not listening: 250 ms
	Ping       time.Duration // of the LISTEN connection: 4 s
	Linger     time.Duration // of a feed whose last client left: 60 s
	AttachWait time.Duration // after which a request gets ErrUnavailable: 5 s

	ManyChannels int64         // of topologies attached on notify, above which the log advises wal: 5,000
	LagWait      time.Duration // after which one that is ahead of the standby gets it: 10 s

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
		{&c.LagWait, 10 * time.Second},
		{&c.PruneEvery, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.ManyChannels == 0 {
		c.ManyChannels = 5000
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

	wait     interruptible // of the LISTEN connection's owner
	polled   wait.Signal   // wakes the poller
	compare  atomic.Bool   // heads shall be compared before the heartbeat
	rewired  wait.Signal   // wakes the reader of the WAL: the bus may have changed
	since    time.Time     // when the bus began not to listen; under mu
	asked    time.Time     // when the database answered last; under mu
	state    string        // why the bus does not listen; under mu
	walState string        // why it does not read the WAL; under mu
	setting  string        // topology_settings.bus; empty: not known yet; under mu

	unsettled unsettled
	advised   atomic.Bool // adviseWAL has spoken

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
		rewired:  wait.NewSignal(),
		since:    time.Now(),
		state:    "starting",
		reads:    semaphore.NewWeighted(4),
	}
	b.life, b.end = context.WithCancel(context.Background())
	b.fills.ready = wait.NewSignal()
	b.unsettled.newest = map[stream.TopologyID]streamedEvent{}
	b.pager.calls = map[pageKey]*pageCall{}
	return b
}

// Run owns the bus's goroutines and returns nil when ctx ends and all are gone. Clients then see stream.ErrClosed.
func (b *Bus) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if b.cfg.Bus == BusPoll {
		b.setListening(false, "polling, as asked")
	} else {
		g.Go(func() error { b.listen(ctx); return nil })
		g.Go(func() error { b.followWAL(ctx); return nil })
		g.Go(func() error { b.settleLoop(ctx); return nil })
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
	b.stats.Streaming.Store(false)
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

// Ready returns nil while events can reach clients, by LISTEN, from the WAL or by polling.
func (b *Bus) Ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return stream.ErrClosed
	case b.hearingLocked(), b.stats.Listening.Load(), time.Since(b.asked) < 3*time.Second:
		return nil
	}
	return fmt.Errorf("bus: %s; the database did not answer within 3 s", b.state)
}

// Mode says how the bus hears of events now, for people: "notify", "wal", or "poll" and why.
func (b *Bus) Mode() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stats.Streaming.Load():
		return BusWAL
	case b.hearingLocked():
		return BusNotify
	case b.stats.Listening.Load():
		return BusPoll + ": " + b.walState
	}
	return BusPoll + ": " + b.state
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
	wait, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	t, gone, err := b.acquireReplayed(wait, req)
	switch {
	case err != nil:
		return nil, err
	case gone != nil:
		return b.subscribeDeleted(req, *gone)
	}
	if b.cfg.Replica == nil {
		ctx = wait // a standby may take longer
	}
	sub, err := b.subscribe(ctx, t, req)
	if err != nil {
		b.release(t)
	}
	if errors.Is(err, errOldEpoch) {
		b.reset(t, err.Error())
		return b.Attach(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	b.stats.Attaches.Add(1)
	return sub, nil
}

// acquireReplayed is acquire, and waits for a topology that the standby does not have yet.
func (b *Bus) acquireReplayed(ctx context.Context, req stream.AttachRequest) (*topic, *deletedTopology, error) {
	for {
		t, gone, err := b.acquire(ctx, req)
		if err != stream.ErrNotFound || !b.comingFrom(ctx, req.Topology) { //nolint:errorlint // the sentinel itself
			return t, gone, err
		}
		if !wait.Pause(ctx, 50*time.Millisecond) {
			return nil, nil, context.Cause(ctx)
		}
	}
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
	case n <= known, b.unsettled.covers(t.id, n):
		return true, nil
	}
	if b.cfg.Replica != nil && n.Epoch() == known.Epoch() {
		return b.awaitReplay(ctx, t, n)
	}
	for range 2 { // the first read may be one that somebody began earlier; the second one began after the first had ended
		h, shared, err := b.shareHead(ctx, t.id)
		if err != nil {
			return false, err
		}
		if h.seq > t.feed.Last() {
			b.fill(t)
		}
		switch {
		case n > h.seq || n.Epoch() != h.seq.Epoch():
		case n.Epoch() != known.Epoch():
			return false, errOldEpoch
		default:
			return true, nil
		}
		if !shared {
			break
		}
	}
	return false, nil
}

// errOldEpoch: the client has a number of the database's epoch, and the feed is of an older one. In a fresh feed the number is good.
var errOldEpoch = errors.New("the database has another history, and a client knows it already")

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
