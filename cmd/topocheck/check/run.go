package check

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"topostream/pgbus/postgres"
)

// run is one run of the checker.
type run struct {
	cfg        Config
	began      time.Time
	hash       maphash.Seed
	stats      *stats
	violations *violations
	faults     *windows
	pace       *rate.Limiter
	shapes     []shape
	weight     int

	topologies []*topology // all
	plain      []*topology // those without a backlog, which most writers write to
	backlogs   []*topology // the others
	followed   int         // of the plain ones, the first, that clients follow all the time
	clients    []*client
	listers    []*lister

	ascii       bool // the database's encoding is another one than UTF8: not every text can be written
	graphEvents bool // the schema records what is written to the graph by hand, which the version before did not

	calmed atomic.Bool   // the writers have stopped: clients are calm
	calm   chan struct{} // closed with it
}

func (c *Config) setDefaults() error {
	for _, n := range []struct {
		field *int
		value int
	}{{&c.Topologies, 50}, {&c.Writers, 8}, {&c.Clients, 40}} {
		if *n.field <= 0 {
			*n.field = n.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.Duration, 30 * time.Second}, {&c.CatchUp, time.Minute}, {&c.Idle, 45 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.URLs == nil || c.Token == nil || c.DatabaseURL == "" {
		return errors.New("check: URLs, Token and DatabaseURL are needed")
	}
	return nil
}

func (r *run) since() time.Duration { return time.Since(r.began) }

// connect opens a connection to the database.
func (r *run) connect(ctx context.Context, name string) (*pgx.Conn, error) {
	return r.connectTo(ctx, r.cfg.DatabaseURL, name)
}

func (r *run) connectTo(ctx context.Context, databaseURL, name string) (*pgx.Conn, error) {
	cfg, err := postgres.Parse(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("the address of the database: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "topocheck " + name
	cfg.RuntimeParams["client_encoding"], cfg.RuntimeParams["standard_conforming_strings"] = "UTF8", "on"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return conn, nil
}

// Run checks and reports. When ctx ends, the writers stop early and the rest goes on as at the end of the duration. An
// error says that nothing could be judged; a violation is no error.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	r := &run{
		cfg: cfg, began: time.Now(), hash: maphash.MakeSeed(), stats: newStats(),
		violations: &violations{count: map[Kind]uint64{}},
		pace:       rate.NewLimiter(rate.Inf, 1), shapes: shapes(), calm: make(chan struct{}),
	}
	r.faults = newWindows(r.since)
	if cfg.Rate > 0 {
		r.pace = rate.NewLimiter(rate.Limit(cfg.Rate), max(int(cfg.Rate/20), 1))
	}
	for _, s := range r.shapes {
		r.weight += s.weight
	}
	if err := r.makeTopologies(ctx); err != nil {
		return nil, err
	}
	clean := context.WithoutCancel(ctx)
	report, err := r.check(ctx)
	if !cfg.Keep {
		err = errors.Join(err, r.removeTopologies(clean))
	}
	return report, err
}

// makeTopologies makes the run's own topologies: the plain ones active, those with a backlog pending.
func (r *run) makeTopologies(ctx context.Context) error {
	const (
		deploy   = `UPDATE topologies SET status = 'deploying' WHERE id = ANY ($1::text[]::uuid[])`
		activate = `UPDATE topologies SET status = 'active' WHERE id = ANY ($1::text[]::uuid[])`
	)
	conn, err := r.connect(ctx, "setup")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const look = `SELECT to_regproc('topology_graph_changed') IS NOT NULL, current_setting('server_encoding') <> 'UTF8'`
	if err := conn.QueryRow(ctx, look).Scan(&r.graphEvents, &r.ascii); err != nil {
		return fmt.Errorf("look at the schema: %w", err)
	}
	if r.plain, err = r.insertTopologies(ctx, conn, "", r.cfg.Topologies); err != nil {
		return err
	}
	for _, statement := range []string{deploy, activate} {
		if _, err := conn.Exec(ctx, statement, idsOf(r.plain)); err != nil {
			return fmt.Errorf("make topologies active: %w", err)
		}
	}
	if r.cfg.Backlog > 0 {
		if r.backlogs, err = r.insertTopologies(ctx, conn, "backlog-", backlogTopologies); err != nil {
			return err
		}
		if err := r.enqueueBacklogs(ctx, conn, idsOf(r.backlogs)); err != nil {
			return err
		}
	}
	r.topologies = slices.Concat(r.plain, r.backlogs)
	r.followed = min(len(r.plain), max(r.cfg.Clients/len(clientKinds()), 1))
	return nil
}

// insertTopologies makes n topologies, whose names begin with the run's prefix and what.
func (r *run) insertTopologies(ctx context.Context, conn *pgx.Conn, what string, n int) ([]*topology, error) {
	const insert = `
WITH made AS (INSERT INTO topologies (name) SELECT $1::text || n FROM generate_series(1, $2::int) n RETURNING id, name)
SELECT m.id::text, m.name FROM made m ORDER BY length(m.name), m.name`
	rows, err := conn.Query(ctx, insert, fmt.Sprintf("topocheck-%d-%s", r.cfg.Seed, what), n)
	if err != nil {
		return nil, fmt.Errorf("make topologies: %w", err)
	}
	type made struct{ ID, Name string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[made])
	if err != nil {
		return nil, fmt.Errorf("make topologies (remove those of an earlier run with this seed): %w", err)
	}
	topologies := make([]*topology, 0, len(all))
	for _, m := range all {
		var head uint64
		const query = `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`
		if err := conn.QueryRow(ctx, query, m.ID).Scan(&head); err != nil {
			return nil, fmt.Errorf("read the heads: %w", err)
		}
		t := newTopology(r, m.ID, m.Name, head)
		t.backlog = what != ""
		topologies = append(topologies, t)
	}
	return topologies, nil
}

func (r *run) removeTopologies(ctx context.Context) error {
	const remove = `DELETE FROM topologies WHERE id = ANY ($1::text[]::uuid[])`
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		var conn *pgx.Conn
		if conn, err = r.connect(ctx, "clean-up"); err == nil {
			_, err = conn.Exec(ctx, remove, idsOf(r.topologies))
			_ = conn.Close(ctx) // it has done what it is for
		}
		if err == nil {
			return nil
		}
		pause(ctx, time.Second)
	}
	return fmt.Errorf("remove the run's topologies, topocheck-%d-…: %w", r.cfg.Seed, err)
}

// check runs everything and compares at the end.
func (r *run) check(ctx context.Context) (*Report, error) {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	f := &follower{run: r, topologies: map[string]*topology{}}
	for _, t := range r.topologies {
		f.topologies[t.id] = t
	}
	var following, reading sync.WaitGroup
	following.Go(func() { f.follow(background) })
	r.makeClients()
	for _, c := range r.clients {
		reading.Go(func() { c.follow(background) })
	}
	r.makeListers()
	for _, l := range r.listers {
		reading.Go(func() { l.follow(background) })
	}
	following.Go(func() { r.progress(background) })

	began := r.since()
	faultErr := r.write(ctx, monitor{r.faults, f})
	duration := r.since() - began
	r.calmed.Store(true)
	close(r.calm)
	clientsErr := errors.Join(r.awaitClients(background), r.awaitLists(background))
	caughtUp := r.since() - began - duration
	stop()
	reading.Wait()
	following.Wait()
	audit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	auditErr := r.audit(audit, f)
	return r.report(duration, caughtUp), errors.Join(faultErr, clientsErr, auditErr)
}

// write lets the writers write and the faults happen.
func (r *run) write(ctx context.Context, m Monitor) (faults error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Duration)
	defer cancel()
	var all sync.WaitGroup
	for n := range r.cfg.Writers {
		w := &writer{
			run: r, n: n, rng: rand.New(rand.NewPCG(r.cfg.Seed, uint64(n))), claimed: map[*topology][]string{},
			client: &http.Client{Transport: &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Second}},
		}
		all.Go(func() { w.write(ctx) })
	}
	if r.cfg.Faults != nil {
		all.Go(func() {
			if err := r.cfg.Faults(ctx, m); err != nil && !errors.Is(err, context.Canceled) &&
				!errors.Is(err, context.DeadlineExceeded) {
				faults = fmt.Errorf("the faults: %w", err)
				cancel()
			}
		})
	}
	all.Wait()
	return faults
}

func (r *run) makeClients() {
	add := func(kind ClientKind, among []*topology, first *topology) {
		n := len(r.clients)
		c := &client{run: r, n: n, kind: kind, among: among, rng: rand.New(rand.NewPCG(r.cfg.Seed, uint64(1_000+n)))}
		if c.reads(first); kind == Several {
			c.several(someOf(c.rng, among, first))
		}
		r.stats.kinds[kind].clients++
		r.clients = append(r.clients, c)
	}
	for n := range r.cfg.Clients {
		kind := clientKinds()[n%len(clientKinds())]
		if kind == Several && r.cfg.Single {
			kind = Dropping
		}
		add(kind, r.plain, r.plain[n/len(clientKinds())%r.followed])
	}
	if len(r.backlogs) == 0 {
		return
	}
	for n, kind := range backlogClients() {
		add(kind, r.backlogs, r.backlogs[n%len(r.backlogs)])
	}
}

func (r *run) progress(ctx context.Context) {
	if r.cfg.Progress == nil {
		return
	}
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			p := Progress{Elapsed: r.since(), Commits: r.stats.commits.Load(), Problems: r.violations.total()}
			for _, k := range r.stats.kinds {
				p.Deliveries += k.deliveries.Load()
			}
			r.cfg.Progress(p)
		}
	}
}
