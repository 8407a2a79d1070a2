// Package notify is the source that LISTENs: one connection carries every channel. It belongs to one goroutine: no
// other one and no request's context ever touches it, because cancelling a query closes the connection.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

const (
	// settingsChannel tells that a row of topology_settings changed. It is a wake-up: whoever is told reads the table.
	settingsChannel = "topostream.settings"
	// ListChannel tells of topologies whose rows in the list may have changed: the payload is the id.
	ListChannel = "topologies"
	// probeChannel is where a connection is tried.
	probeChannel = "topostream.probe"
	// batch is how many channels one transaction LISTENs to at the most.
	batch = 200
)

// Errors that end a connection, by cause.
var (
	errPing    = errors.New("no answer to a ping")
	errAttach  = errors.New("the attach transaction broke the connection")
	errGivenUp = errors.New("it is made anew, because the database has a new history")
	errProbe   = errors.New("LISTEN gets nothing through this connection, as through a transaction pooler")
	// ErrDisconnected: there is no connection that LISTENs now.
	ErrDisconnected = errors.New("LISTEN is away")
)

// Config is what New needs. Accept may be nil.
type Config struct {
	Conn     *pgx.ConnConfig // must lead to the pool's database without a transaction pooler
	Pool     *pgxpool.Pool   // the other end of the probe
	Keyed    bool            // the triggers' notifications are told from others by topology_settings.key
	Channels []string        // beside those of topologies: one on ListChannel is Sink.Listed, on any other Sink.Work
	Ping     time.Duration   // of an idle connection: 4 s
	Patience time.Duration   // how long each answer of the connection may take: 4 s
	Stats    *stream.Stats
	Logger   *slog.Logger
	Without  string // for the log: what people have while nothing LISTENs
	// Accept judges a new connection before it is used.
	Accept func(context.Context, *pgx.Conn) error
}

// A Listener is the source. Make it with New, run it with Run. Attach, Follow, Forget and Connected may be called by
// any goroutine.
type Listener struct {
	cfg      Config
	channels channels
	tasks    chan *attachTask
	wait     interruptible
}

var _ source.Source = (*Listener)(nil)

// New makes a listener; nothing runs before Run.
func New(cfg Config) *Listener {
	if cfg.Ping == 0 {
		cfg.Ping = 4 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = 4 * time.Second
	}
	if cfg.Stats == nil {
		cfg.Stats = stream.NoStats()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Listener{cfg: cfg, tasks: make(chan *attachTask, 1), channels: newChannels()}
}

// An attachTask is a transaction that LISTENs and reads, for the connection's owner.
type attachTask struct {
	ids  []stream.TopologyID
	read func(context.Context, *pgx.Conn) error
	done chan error  // of capacity 1: the owner never waits for the caller
	over atomic.Bool // set once, by the caller when it leaves, or by the owner when it has LISTENed, whichever is first
}

// Attach LISTENs to the topologies' channels and runs read, in one REPEATABLE READ transaction with a lock_timeout of
// 500 ms and a statement_timeout of 2 s. When it returns nil the commit has returned: a read of the journal that
// begins afterwards sees every event whose notification was not told. After an error nothing is LISTENed to.
// ErrDisconnected says that there is no connection. One call at a time.
func (l *Listener) Attach(
	ctx context.Context, ids []stream.TopologyID, read func(context.Context, *pgx.Conn) error,
) error {
	t := &attachTask{ids: ids, read: read, done: make(chan error, 1)}
	if !l.channels.submit(l.tasks, t) {
		return ErrDisconnected
	}
	l.wait.interrupt()
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		if !t.over.CompareAndSwap(false, true) {
			return <-t.done // the channels are LISTENed to
		}
		return context.Cause(ctx)
	}
}

// Follow LISTENs to the topologies' channels as soon as there is a connection. Sink.Subscribed then names them.
func (l *Listener) Follow(ids ...stream.TopologyID) {
	l.channels.want(ids)
	l.wait.interrupt()
}

// Forget UNLISTENs, with the next transaction.
func (l *Listener) Forget(ids ...stream.TopologyID) {
	l.channels.forget(ids)
	l.wait.interrupt()
}

// Connected tells whether a connection LISTENs now.
func (l *Listener) Connected() bool { return l.channels.isConnected() }

// Run implements source.Source.
func (l *Listener) Run(ctx context.Context, sink source.Sink) {
	cause := stream.ReconnectStart
	run := func(ctx context.Context, connected func()) error { return l.serve(ctx, sink, cause, connected) }
	wait.Forever(ctx, run, func(err error) wait.Steps {
		cause = causeOf(err)
		if cause == stream.ReconnectPing {
			l.cfg.Pool.Reset() // what made this connection silent did so to those of the pool
		}
		if errors.Is(err, errProbe) {
			l.cfg.Logger.Warn("LISTEN gets nothing through this connection, as through a transaction pooler; "+
				"give a direct one in --listen-database-url", "error", err, "meanwhile", l.cfg.Without)
		} else {
			l.cfg.Logger.Warn("the LISTEN connection is lost", "error", err, "meanwhile", l.cfg.Without)
		}
		sink.State(source.State{Detail: err.Error()})
		return pauses(err)
	}, nil)
}

// pauses are those before the next connections. They are long where LISTEN gets nothing through the connection: that is
// a wrong configuration, which nobody mends within seconds.
func pauses(err error) wait.Steps {
	steps := wait.Steps{First: 100 * time.Millisecond, Most: 5 * time.Second}
	if errors.Is(err, errProbe) {
		steps.Most = 30 * time.Second
	}
	return steps
}

func causeOf(err error) stream.Cause {
	switch {
	case errors.Is(err, errPing):
		return stream.ReconnectPing
	case errors.Is(err, errAttach):
		return stream.ReconnectAttach
	}
	return stream.ReconnectBroken
}

// serve is the life of one connection.
func (l *Listener) serve(ctx context.Context, sink source.Sink, cause stream.Cause, connected func()) error {
	c, err := l.open(ctx, sink)
	if err != nil {
		return err
	}
	defer postgres.Close(c.conn)
	defer l.disconnected()
	if err := c.subscribe(ctx, stream.ReadReconnect); err != nil {
		return err
	}
	connected()
	l.cfg.Stats.Reconnects[cause].Inc()
	l.channels.setConnected(true)
	sink.State(source.State{Connected: true})
	sink.SettingChanged() // it may have been while nothing LISTENed
	sink.Work()
	l.cfg.Logger.Info("listening", "channels", l.channels.subscribed())
	for {
		if err := c.step(ctx); err != nil {
			return err
		}
	}
}

// disconnected answers a task that waits, and forgets what the connection LISTENed to.
func (l *Listener) disconnected() {
	l.channels.setConnected(false)
	select {
	case t := <-l.tasks:
		t.done <- ErrDisconnected
	default:
	}
	l.cfg.Stats.Channels.Set(0)
}

// open connects, and proves that the connection is one to LISTEN on.
func (l *Listener) open(ctx context.Context, sink source.Sink) (*connection, error) {
	conn, err := postgres.Connect(ctx, l.cfg.Conn)
	if err != nil {
		return nil, fmt.Errorf("connect to LISTEN: %w", err)
	}
	c := &connection{Listener: l, conn: conn, sink: sink}
	if err := c.prepare(ctx); err != nil {
		postgres.Close(conn)
		return nil, err
	}
	return c, nil
}

// Reconnect replaces the connection by another one: it may lead to a server that is not the primary any more.
func (l *Listener) Reconnect() {
	l.channels.giveUp()
	l.wait.interrupt()
}
