// Package pgbus is PostgreSQL as the bus: it implements [stream.Bus] over any source of events.
//
// The way of an event: a source tells of it (sink.go), it is appended to the feed of its topology, and every client's
// cursor takes it from there. Requests that wait are attached together (attach.go): one transaction LISTENs all their
// channels and takes a light snapshot of each topology. LISTEN takes effect during COMMIT, later than anything the
// transaction could read, so each attach is followed by one catch-up read of the journal (backfill.go). Everything
// else, holes, reconnects, heartbeat and polling included, is the same read: from a feed's last event to the head.
// Documents that are too large for a light snapshot are read afterwards, on the pool (document.go). ARCHITECTURE.md
// has the proof.
package pgbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sync/errgroup"

	"topostream/pgbus/journal"
	"topostream/pgbus/list"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/pgbus/source/notify"
	"topostream/pgbus/source/poll"
	"topostream/pgbus/source/wal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Config is what New needs. Zero durations and sizes take the documented defaults.
type Config struct {
	Pool *pgxpool.Pool // from postgres.NewPool
	// Listen is for the LISTEN and the replication connection; it must lead to the pool's database without a transaction
	// pooler.
	Listen *pgx.ConnConfig
	// Replica is a pool of one standby, not through a pooler: streams are read from it, by its WAL unless Bus is
	// setting.Poll; nil: from the primary.
	Replica *pgxpool.Pool
	Encoder stream.Encoder
	Memory  *stream.Memory // of all rings and documents
	Stats   *stream.Stats
	Logger  *slog.Logger
	Tracer  trace.Tracer // of spans for attaches, documents, reads of the journal and deliveries; nil: there are none

	// Odd looks, at the heartbeat's pace, for what is odd about the database though streams are served, and gives a
	// sentence for [Bus.Notice] and the log; nil: nothing does.
	Odd func(context.Context) (string, error)

	// Blind gives an error where no topology can be seen, though there may be some; nil: what is not seen is not there.
	Blind func(context.Context) error

	// Bus is setting.Notify or setting.WAL, whatever the database says, or setting.Poll: never LISTEN; empty: what the
	// database says.
	Bus        string
	Heartbeat  time.Duration // heads are compared with feeds while a source tells of events: 10 s
	Poll       time.Duration // the same while none does: 250 ms
	Ping       time.Duration // of the LISTEN connection: 4 s
	Linger     time.Duration // of a feed whose last client left: 60 s
	AttachWait time.Duration // after which a request gets ErrUnavailable: 5 s

	ManyChannels int           // of topologies attached on notify, above which the log advises wal: 5,000
	LagWait      time.Duration // after which one that is ahead of the standby gets ErrUnavailable: 10 s
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
		c.Stats = stream.NoStats()
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

	reader    *journal.Reader // of what streams take
	primary   *journal.Reader // of the primary, where reader reads from a standby; else the same as reader
	registry  *registry
	attaches  wait.Signal // wakes attachLoop
	backfill  backfiller
	pages     *pages
	reads     documentReads
	heads     shared[journal.Head] // reads of single heads
	onPrimary shared[bool]         // whether the primary has a topology that the standby does not have
	sources   sources
	list      *list.List
	watch     watch
	tasks     tasks

	tracer     trace.Tracer
	deliveries *deliveries // nil: nothing is traced
}

// sources are the ways in which a bus is told of events. listener and wal are nil on a bus that is asked to poll.
type sources struct {
	mode     *mode
	listener *notify.Listener
	wal      *wal.Source
	poller   *poll.Poller
}

var (
	_ stream.Bus    = (*Bus)(nil)
	_ stream.AtOnce = (*Bus)(nil)
)

// New makes a bus; nothing runs before Run.
func New(cfg Config) *Bus {
	cfg.setDefaults()
	b := &Bus{
		cfg: cfg, stats: cfg.Stats, log: cfg.Logger,
		attaches: wait.NewSignal(), backfill: newBackfiller(), reads: newDocumentReads(),
		tasks: newTasks(), watch: watch{again: wait.NewSignal()},
	}
	b.tracer = noop.Tracer{}
	if cfg.Tracer != nil {
		b.tracer, b.deliveries = cfg.Tracer, newDeliveries(cfg.Tracer, cfg.Pool, cfg.Logger)
	}
	b.registry = newRegistry(b.forget)
	b.pages = newPages(b)
	b.sources.mode = newMode(cfg)
	b.reader = b.newReader(b.readPool(), cfg.Replica != nil, b.historyChanged)
	b.primary = b.reader
	if cfg.Replica != nil {
		b.primary = b.newReader(cfg.Pool, false, nil)
	}
	b.list = list.New(list.Config{
		Reader: b.reader, Encoder: cfg.Encoder, Memory: cfg.Memory, Stats: cfg.Stats, Logger: cfg.Logger,
		Blind: cfg.Blind, Sweep: cfg.Heartbeat, Linger: cfg.Linger, AttachWait: cfg.AttachWait,
	})
	b.sources.poller = poll.New(poll.Config{Positions: b.positions, Reader: b.reader, Logger: b.log}, cfg.Poll)
	b.sources.mode.pace = b.setPace
	if cfg.Bus != setting.Poll {
		b.sources.listener = b.newListener()
		b.sources.wal = b.newWAL()
	}
	return b
}

func (b *Bus) newReader(pool *pgxpool.Pool, standbys bool, changed func(postgres.History)) *journal.Reader {
	return journal.New(journal.Config{
		Pool: pool, Primary: b.cfg.Pool, Histories: postgres.NewHistories(standbys, changed),
		Encoder: b.cfg.Encoder, Memory: b.cfg.Memory, Answered: b.sources.mode.databaseAnswered, Logger: b.log,
	})
}

func (b *Bus) newListener() *notify.Listener {
	conn := b.cfg.Listen.Copy()
	postgres.NameListen(conn, postgres.ServerListens)
	without := "streams run on poll, or on the WAL, and what people NOTIFY does not reach them"
	return notify.New(notify.Config{
		Conn: conn, Pool: b.cfg.Pool, Keyed: true, Ping: b.cfg.Ping, Stats: b.stats, Logger: b.log,
		Accept: b.primary.Accept, Without: without, Channels: []string{notify.ListChannel},
	})
}

func (b *Bus) newWAL() *wal.Source {
	conn, patience := postgres.Primary(b.cfg.Listen)
	cfg := wal.Config{
		Conn: conn, Patience: patience, Name: "topostream wal", Pool: b.readPool(),
		Wanted: b.sources.mode.walWanted, Changed: b.sources.mode.changed,
		Check: wait.Steps{First: 250 * time.Millisecond, Most: 250 * time.Millisecond},
		Stats: b.stats, Logger: b.log, Without: "streams run on poll",
	}
	if b.cfg.Replica != nil {
		cfg.Conn, cfg.Primary = b.cfg.Replica.Config().ConnConfig, b.cfg.Pool
	}
	return wal.New(cfg)
}

// listPoll is the shortest pause between two sweeps of the list, while no source tells which rows have changed.
const listPoll = time.Second

// setPace sets how often heads are compared: at the heartbeat's pace while a source tells of events, and at the poll's
// while the comparison is how events come.
func (b *Bus) setPace(told bool) {
	if told {
		b.sources.poller.SetPace(b.cfg.Heartbeat)
		b.list.SetSweep(b.cfg.Heartbeat)
	} else {
		b.sources.poller.SetPace(b.cfg.Poll)
		b.list.SetSweep(max(b.cfg.Poll, listPoll))
	}
}

// readPool is the pool that streams are read from.
func (b *Bus) readPool() *pgxpool.Pool {
	if b.cfg.Replica != nil {
		return b.cfg.Replica
	}
	return b.cfg.Pool
}

// Run owns the bus's goroutines and returns nil when ctx ends and all are gone. Clients then see stream.ErrClosed.
func (b *Bus) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	start := func(run func(context.Context)) {
		g.Go(func() error { run(ctx); return nil })
	}
	if b.sources.listener != nil {
		start(func(ctx context.Context) { b.sources.listener.Run(ctx, b.notifySink()) })
		start(func(ctx context.Context) { b.sources.wal.Run(ctx, walSink{sink{b, stream.ReadHole}}) })
	}
	start(func(ctx context.Context) { b.sources.poller.Run(ctx, pollSink{sink{b, stream.ReadPoll}}) })
	start(b.list.Run)
	start(b.attachLoop)
	for range backfillers {
		start(b.backfillLoop)
	}
	start(b.lingerLoop)
	start(b.watchLoop)
	if b.deliveries != nil {
		start(b.deliveries.run)
	}
	err := g.Wait()
	b.close()
	return err
}

// close ends every feed and every request, and waits for the reads that they share.
func (b *Bus) close() {
	b.registry.close()
	b.stats.Listening.Set(0)
	b.stats.Streaming.Set(0)
	b.stats.Channels.Set(0)
	b.tasks.close()
}

// Ready returns nil while events can reach clients, by LISTEN, from the WAL or by polling.
func (b *Bus) Ready() error {
	if b.registry.isClosed() {
		return stream.ErrClosed
	}
	return b.sources.mode.ready()
}

// Mode says how the bus hears of events now, for people: "notify", "wal", or "poll" and why.
func (b *Bus) Mode() string { return b.sources.mode.String() }

// oddNotice is what anybody may read of what Odd found.
const oddNotice = "database: something is odd about it; the log says what"

// Notice says, on a line each, that this server is forced to another bus than the database's, and that Odd found
// something; empty for neither. It works on all the same, as it then can. Anybody may read it: what was found, which
// names roles and topologies, is in the log.
func (b *Bus) Notice() string {
	forced, odd := b.sources.mode.notice(), b.watch.odd.Load()
	if odd == nil || *odd == "" {
		return forced
	}
	if forced == "" {
		return oddNotice
	}
	return forced + "\n" + oddNotice
}

// Journal implements stream.Bus. It reads the database, not the feeds; the primary, if a standby does not have the
// topology yet.
func (b *Bus) Journal(ctx context.Context, req stream.JournalRequest) (stream.JournalPage, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	ctx, span := b.startSpan(ctx, "journal read", req.Topology, attribute.String("topostream.cause", "request"))
	p, err := b.reader.Journal(ctx, req)
	if err == stream.ErrNotFound { //nolint:errorlint // the sentinel itself
		if err = b.notReplayed(ctx, req.Topology); errors.Is(err, errNotReplayed) {
			p, err = b.primary.Journal(ctx, req)
		}
	}
	endSpan(span, err)
	return p, err
}

// unavailable is stream.ErrUnavailable with a reason. The client is told the reason where its operators can do
// something about it: a *stream.UnavailableError.
func unavailable(err error) error {
	if held, ok := errors.AsType[*journal.HeldError](err); ok {
		return &stream.UnavailableError{Reason: held.Error(), Err: err}
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" { // lock_not_available
		return &stream.UnavailableError{Reason: "somebody's transaction holds a table that the attach must read", Err: err}
	}
	return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
}
