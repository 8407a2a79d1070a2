package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/mutator"
	"topostream/pgbus/postgres"
	"topostream/sql"
	"topostream/stream"
	"topostream/stream/apply"
	"topostream/stream/metrics"
	"topostream/stream/tracing"
)

type mutatorCmd struct {
	database
	logging

	Concurrency  int           `default:"4" help:"Topologies worked on at once, each one edit at a time. A worker opens at most twice as many connections, and three."`
	MaxAttempts  int           `default:"3" help:"Times that a worker may die or hang over a mutation before it fails."`
	Lease        time.Duration `default:"30s" help:"How long a worker may be silent before another one takes its mutation."`
	ApplyExec    string        `help:"Shell command that acts on the outside world for each edit, before the graph changes: the mutation's JSON on stdin, exit 0 for success, else the end of stderr is the reason. It may be called again for one mutation; mutation_id tells." placeholder:"COMMAND"`
	ApplyURL     string        `name:"apply-url" help:"The same by a POST to a service: 2xx for success." placeholder:"URL"`
	ApplyTimeout time.Duration `default:"30s" help:"How long --apply-exec or --apply-url may take; 0 is no limit."`
	MetricsAddr  string        `help:"Serve /metrics, /livez and /readyz here. Default: nowhere." placeholder:"ADDR"`
	Pprof        bool          `help:"Serve profiles at /debug/pprof of --metrics-addr; /debug/free there gives memory back."`

	ready func(metrics string) // called once the address answers
}

const shortestLease = time.Second

func (c *mutatorCmd) check() error {
	switch {
	case c.Concurrency < 1 || c.Concurrency > 1000:
		return fmt.Errorf("--concurrency: %d is not 1 to 1000", c.Concurrency)
	case c.MaxAttempts < 1:
		return fmt.Errorf("--max-attempts: %d is less than 1", c.MaxAttempts)
	case c.Lease < shortestLease:
		return fmt.Errorf("--lease: %s is less than %s: a busy database would lose it", c.Lease, shortestLease)
	case c.ApplyTimeout < 0:
		return fmt.Errorf("--apply-timeout: %s is less than 0", c.ApplyTimeout)
	case c.ApplyExec != "" && c.ApplyURL != "":
		return errors.New("--apply-exec and --apply-url are both given: give one")
	}
	return checkPprof(c.Pprof, c.MetricsAddr)
}

// applier is what acts on the outside world; nil for nothing.
func (c *mutatorCmd) applier() (stream.Applier, error) {
	switch {
	case c.ApplyExec != "":
		return apply.Exec(c.ApplyExec, c.ApplyTimeout), nil
	case c.ApplyURL != "":
		a, err := apply.URL(c.ApplyURL, c.ApplyTimeout)
		if err != nil {
			return nil, fmt.Errorf("--apply-url: %w", err)
		}
		return a, nil
	}
	return nil, nil //nolint:nilnil // no applier is no error
}

// Run works on mutations until ctx ends, then finishes or gives back what is under way.
func (c *mutatorCmd) Run(ctx context.Context, o output) error {
	if err := c.check(); err != nil {
		return err
	}
	defer surviveHangups()()
	applier, err := c.applier()
	if err != nil {
		return err
	}
	log, switching, stop := c.open(o.err)
	defer stop()
	registry := newRegistry()
	stats := registry.Worker()
	var current atomic.Pointer[outage]
	current.Store(&outage{"the worker has not begun: it waits for the database", true})
	registry.Ready(func() error {
		if o := current.Load(); o.why != "" {
			return errors.New(o.why)
		}
		return nil
	})
	measuring, err := c.measure(ctx, registry, func() outage { return *current.Load() }, log)
	if err != nil {
		return err
	}
	measureCtx, stopMeasuring := context.WithCancel(ctx)
	measured := make(chan struct{})
	go func() { // also while the database is waited for
		defer close(measured)
		if err := measuring(measureCtx); err != nil && measureCtx.Err() == nil {
			log.Error("--metrics-addr is not served any more", "error", err)
		}
	}()
	defer func() {
		stopMeasuring()
		<-measured
	}()
	start := startup{connect: c.connect, log: log, awaits: true, again: always}
	err = start.do(ctx, func(conn *pgx.Conn) error {
		warn, err := sql.Check(ctx, conn)
		if warn != "" {
			log.Warn(warn)
		}
		return err
	})
	if err != nil {
		return err
	}
	traces, err := tracing.Start(ctx, workerService, traceVersion(), log)
	if err != nil {
		return err
	}
	defer traces.Stop()
	listen, err := postgres.Parse(c.DatabaseURL)
	if err != nil {
		return fmt.Errorf("--database-url: %w", err)
	}
	current.Store(&outage{})
	work := func(ctx context.Context) error {
		return runMutator(ctx, c.DatabaseURL, listen, mutator.Config{
			Applier:     applier,
			Logger:      log,
			Concurrency: c.Concurrency,
			MaxAttempts: c.MaxAttempts,
			Lease:       c.Lease,
			Grace:       max(leastGrace, c.ApplyTimeout),
			Stats:       stats,
			Notice:      func(why string, away bool) { current.Store(&outage{why, away}) },
			Tracer:      traces.Tracer(),
		}, registry, tracedQueries(traces))
	}
	return alongside(work, switching)(ctx)
}

// measure opens --metrics-addr, if it is given, and gives what serves there until its context ends.
func (c *mutatorCmd) measure(
	ctx context.Context, registry *metrics.Registry, keeps func() outage, log *slog.Logger,
) (serve func(context.Context) error, _ error) {
	if c.MetricsAddr == "" {
		return func(context.Context) error { return nil }, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", c.MetricsAddr)
	if err != nil {
		return nil, &listenError{"--metrics-addr", err}
	}
	log.Info("serving", "metrics", l.Addr().String())
	if c.ready != nil {
		c.ready(l.Addr().String())
	}
	return func(ctx context.Context) error {
		err := serveMeasured(ctx, l, measured(registry, workerHealth(keeps), c.Pprof), log)
		if err != nil {
			log.Error("metrics and health are not served any more", "error", err)
		}
		return err
	}, nil
}

// leastGrace is how long what is under way may take when the worker is told to stop.
const leastGrace = 10 * time.Second

const defaultConcurrency = 4

// runMutator runs a worker with a pool of its own, to which changes apply, so that nobody else waits for connections.
func runMutator(
	ctx context.Context, databaseURL string, listen *pgx.ConnConfig, cfg mutator.Config, registry *metrics.Registry,
	changes ...func(*pgxpool.Config),
) error {
	if cfg.Concurrency == 0 {
		cfg.Concurrency = defaultConcurrency
	}
	pool, err := postgres.NewPool(ctx, databaseURL, append(changes, func(c *pgxpool.Config) {
		c.MaxConns = mutator.Connections(cfg.Concurrency)
		postgres.Name(c.ConnConfig, "topostream mutator")
	})...)
	if err != nil {
		return err
	}
	defer pool.Close()
	registry.Add(poolCollector{"mutator", pool})
	cfg.Pool, cfg.Listen = pool, listen.Copy()
	cfg.Logger.Info("working on mutations", slog.Int("concurrency", cfg.Concurrency))
	renew := func(ctx context.Context) error { return onHangup(ctx, cfg.Logger, pool) }
	files := []*watchedFile{watchedPassfile(databaseURL, pool)}
	watching := func(ctx context.Context) error { return watchFiles(ctx, cfg.Logger, rereadEvery, files) }
	return alongside(mutator.New(cfg).Run, renew, watching)(ctx)
}
