// Package mutator is the worker of the mutation pipeline: it applies queued mutations, one at a time and in order for
// each topology, many topologies in parallel. Any number of workers may run on one database.
//
// A worker claims a mutation (claim.go), which is a lease (lease.go): a worker that dies or hangs gives it back by
// not extending it. It works on it as a job (job.go) and finishes it in one transaction that makes the edit and
// records 'applied', or records 'failed' and degrades the topology (finish.go). What a source tells is a wake-up
// (wakeup.go), the table is the truth, and a poll is the net beneath. A worker waits for a database that is away
// (outage.go), and leaves alone for a while what somebody else holds (held.go).
package mutator

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source/notify"
	"topostream/pgbus/source/wal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Config is what New needs. Zero durations and numbers take the documented defaults.
type Config struct {
	Pool    *pgxpool.Pool   // [Connections] at least, else jobs wait for one another
	Listen  *pgx.ConnConfig // for the LISTEN connection; must reach the same database without a transaction pooler
	Applier stream.Applier  // acts on the outside world; nil: there is none, an edit is one of the graph alone
	Logger  *slog.Logger
	Tracer  trace.Tracer // of spans for claims and what follows; nil: there are none

	Concurrency int           // topologies worked on at once: 4
	MaxAttempts int           // leases that may run out before a mutation fails: 3
	Lease       time.Duration // how long a worker may be silent before another takes its mutation: 30 s
	// at which pace it looks without being woken; also how long a topology is left alone after a failure: 10 s
	Poll        time.Duration
	Grace       time.Duration     // what is under way may take when the worker stops, before it is given back: 10 s
	LockTimeout time.Duration     // after which a transaction gives up a lock that somebody else holds: 5 s
	Ping        time.Duration     // of the LISTEN connection: 4 s
	Stats       *stream.WorkStats // nil: nobody reads them
	// is told what keeps the worker from claiming anything, and whether it is no more than a database that is away; an
	// empty outage when that is over; nil: nobody is told
	Notice func(outage string, away bool)
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Lease, 30 * time.Second},
		{&c.Poll, 10 * time.Second},
		{&c.Grace, 10 * time.Second},
		{&c.LockTimeout, 5 * time.Second},
		{&c.Ping, 4 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = 4
	}
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 3
	}
	if c.Stats == nil {
		c.Stats = stream.NoWorkStats()
	}
	if c.Notice == nil {
		c.Notice = func(string, bool) {}
	}
	if c.Tracer == nil {
		c.Tracer = noop.Tracer{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Connections is how many connections a worker needs: a transaction in each of its loops, as many of jobs that try
// again, one for the poll, and one for the heartbeats and for asking who blocks, which are short.
func Connections(concurrency int) int32 { return int32(2*concurrency + 2) }

// A Worker applies mutations. Make it with New, run it with Run.
type Worker struct {
	cfg Config
	log *slog.Logger

	listener   *notify.Listener
	wal        *wal.Source
	database   database
	transactor postgres.Transactor

	wake    wait.Signal
	idle    atomic.Int64  // loops that wait to be woken
	later   chan struct{} // a semaphore: held for each job that waits to be finished while its loop goes on
	retries chan struct{} // a semaphore: held by each transaction of a job that tries again
	outage  outage
	held    held
	jobs    sync.WaitGroup
}

// New makes a worker; nothing runs before Run.
func New(cfg Config) *Worker {
	cfg.setDefaults()
	w := &Worker{
		cfg: cfg, log: cfg.Logger, database: newDatabase(), wake: wait.NewSignal(),
		later: make(chan struct{}, 4*cfg.Concurrency), retries: make(chan struct{}, cfg.Concurrency),
	}
	w.newSources()
	w.transactor = postgres.Transactor{
		Pool: cfg.Pool, LockTimeout: cfg.LockTimeout, Retry: wait.Steps{First: 50 * time.Millisecond, Most: time.Second},
		// A worker that stands still within a transaction, stopped by a signal or with its machine, would hold the topology
		// for ever, and nobody could give its mutation back: PostgreSQL ends it by the time the lease runs out.
		IdleTimeout: cfg.Lease,
		Conflict: func(try int, err *pgconn.PgError) {
			w.log.Info("PostgreSQL ended a transaction for the sake of another; trying again",
				"try", try, "error", err, "detail", err.Detail)
		},
	}
	return w
}

// transact runs do in a READ COMMITTED transaction. A database that does not answer at all ends it.
func (w *Worker) transact(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*w.cfg.LockTimeout+10*time.Second)
	defer cancel()
	return w.transactor.Do(ctx, ctx, pgx.TxOptions{}, do)
}

// errStopping is why a job's context ends when the worker stops and the grace period is over.
var errStopping = errors.New("the worker stops")

// Run works until ctx ends, then finishes what is under way, for the grace period at most, and gives the rest back.
// It returns nil when all its goroutines are gone. Without a database it waits.
func (w *Worker) Run(ctx context.Context) error {
	work, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	var services sync.WaitGroup
	services.Go(func() { w.listener.Run(ctx, wakeUp{worker: w}) })
	services.Go(func() { w.wal.Run(ctx, wakeUp{worker: w}) })
	services.Go(func() { w.watchDatabase(ctx) })
	services.Go(func() { w.poll(ctx) })
	for range w.cfg.Concurrency {
		w.jobs.Go(func() { w.loop(ctx, work) })
	}
	done := make(chan struct{})
	services.Go(func() {
		w.jobs.Wait()
		close(done)
	})
	<-ctx.Done()
	grace := time.NewTimer(w.cfg.Grace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		giveUp(errStopping)
	}
	services.Wait()
	w.handOver(context.WithoutCancel(ctx))
	return nil
}

// loop claims a mutation and works on it, again and again. It stops claiming when ctx ends; work outlives that.
func (w *Worker) loop(ctx, work context.Context) {
	skipped := 0
	for try := 0; ctx.Err() == nil; {
		j, more, err := w.claim(work)
		if err != nil {
			w.outage.failed(w.log, w.cfg.Notice, err)
			wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, 5*time.Second))
			try++
			continue
		}
		w.outage.over(w.log, w.cfg.Notice) // before it works or sleeps, after which the claim says nothing any more
		try = 0
		switch {
		case j != nil:
			w.wake.Set() // there may be one for the next loop
			w.work(j)
			skipped = 0
		case !more:
			if w.sleep(ctx, skipped) {
				skipped++
			} else {
				skipped = 0
			}
		}
	}
}

// sleep waits to be woken. A topology that somebody holds for a moment is skipped by the claim, and nobody may tell
// when it is free again (a request that is refused, a transaction that is rolled back): then it is looked at again
// soon, less often each time. It tells whether there was one.
func (w *Worker) sleep(ctx context.Context, skipped int) (again bool) {
	var soon <-chan time.Time
	if c, err := w.oldest(ctx, w.held.list()); err == nil && c.topology != "" {
		timer := time.NewTimer(wait.Backoff(skipped, 10*time.Millisecond, time.Second))
		defer timer.Stop()
		soon, again = timer.C, true
	}
	w.idle.Add(1)
	defer w.idle.Add(-1)
	select {
	case <-w.wake:
	case <-soon: // nil, and so never, without one
	case <-ctx.Done():
	}
	return again
}

// poll wakes a loop at the poll's pace, and looks why a mutation that could be claimed has not been: somebody may
// hold its topology.
func (w *Worker) poll(ctx context.Context) {
	var before candidate
	for wait.Pause(ctx, w.cfg.Poll-rand.N(w.cfg.Poll/10+1)) {
		w.wake.Set()
		oldest, err := w.oldest(ctx, []stream.TopologyID{})
		if err == nil && oldest == before && oldest.topology != "" {
			w.nameHolder(ctx, oldest.topology)
		}
		before = oldest
	}
}

// handOver wakes other workers, if there is something to claim: this one is not going to claim it soon.
func (w *Worker) handOver(ctx context.Context) {
	const notify = `SELECT pg_catalog.pg_notify('` + wakeUpChannel + `', '') WHERE EXISTS (` + candidates + `)`
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := w.cfg.Pool.Exec(ctx, notify, []string{}); err != nil {
		w.log.Debug("could not wake other workers; they poll", "error", err)
	}
}
