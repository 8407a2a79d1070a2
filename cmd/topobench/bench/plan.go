package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topobench/fleet"
	"topostream/pgbus/setting"
)

// Plan is what the measurements of any server are told: [Connect], [Fanout], [Spread], [Storm] and [Compare].
//
// Without Target.URL the server is ours: it is started anew for each round, on a database of the run's own, which
// Config.DatabaseURL says where to make. With it the server runs already, and Config.DatabaseURL is the database where
// events are published.
type Plan struct {
	Config

	Target     Target   // of a server that runs; without URL only its GC is used, where {base} is our server's address
	IDs        []string // topologies of that server; without any, they are made in its database, or named bench-<n>
	Topostream string   // path of our program; empty: it is built from this module
	Bus        string   // of our server
	Peers      []Peer   // of Compare

	Clients int
	Rate    float64 // events a second of all topologies together
	Batch   int     // events that are published together
	Payload int     // bytes of a payload, at least
	Window  int     // connections that are made at once
	Missed  int     // events of each topology that a client misses in a storm
	Fresh   float64 // share of the clients that come back in a storm without Last-Event-ID, for a document

	Patience    time.Duration // how long deliveries may take after the last event was published; 0: a minute
	Hold        time.Duration // how long idle connections are watched
	MemoryFall  time.Duration // how long at most memory may fall before it is read
	StatsReport time.Duration // how long PostgreSQL's backends may take to report their transactions: 10 s

	// Bare makes the command of a process that serves as baseline.Serve does, with this kind and size of the document.
	Bare func(ctx context.Context, args ...string) *exec.Cmd
}

// open makes the place of a run, and our program where it is needed. The caller calls done with the run's error.
func (plan *Plan) open(ctx context.Context) (p *place, done func(err error) error, err error) {
	if err := fleet.AllowFiles(plan.Clients + 1000); err != nil {
		return nil, nil, err
	}
	if plan.Target.URL != "" {
		if p, err = plan.openGiven(ctx); err != nil {
			return nil, nil, err
		}
		return p, p.close, nil
	}
	if p, err = openPlace(ctx, plan.Config); err != nil {
		return nil, nil, err
	}
	if plan.Topostream == "" {
		plan.Topostream, err = buildTopostream(ctx, p.dir)
	}
	if err == nil {
		err = p.use(ctx, plan.Bus)
	}
	if err != nil {
		return nil, nil, p.close(err)
	}
	return p, p.close, nil
}

// openGiven finds or makes the topologies of a server that runs.
func (plan *Plan) openGiven(ctx context.Context) (p *place, err error) {
	if err := plan.Target.Publish.check(); err != nil {
		return nil, err
	}
	p = &place{url: plan.DatabaseURL, version: "not asked", topologies: plan.IDs}
	if plan.Target.Publish.usesDatabase() {
		if p.conn, err = pgx.Connect(ctx, p.url); err != nil {
			return nil, fmt.Errorf("--database-url: %w", err)
		}
		p.undo = append(p.undo, p.conn.Close)
		if err := p.conn.QueryRow(ctx, `SHOW server_version`).Scan(&p.version); err != nil {
			return nil, p.close(err)
		}
	}
	switch {
	case len(p.topologies) > 0:
	case plan.Target.Publish.SQL == EmitSQL:
		if err := p.lend(ctx, plan.Topologies); err != nil {
			return nil, p.close(err)
		}
	default:
		for i := range plan.Topologies {
			p.topologies = append(p.topologies, fmt.Sprintf("bench-%d", i))
		}
	}
	return p, nil
}

// lend makes topologies in somebody's database, and removes them at the end.
func (p *place) lend(ctx context.Context, n int) error {
	const insert = `
INSERT INTO topologies (name) SELECT $2 || n FROM generate_series(1, $1) n RETURNING id::text`
	rows, err := p.conn.Query(ctx, insert, n, fmt.Sprintf("%s-%d-", ownName, time.Now().UnixNano()))
	if err == nil {
		p.topologies, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("make topologies: %w", err)
	}
	p.undo = append(p.undo, func(ctx context.Context) error {
		_, err := p.conn.Exec(ctx, `DELETE FROM topologies WHERE id = ANY($1::uuid[])`, p.topologies)
		return err
	})
	return nil
}

// setDefaults sets what was left out.
func (plan *Plan) setDefaults() {
	if plan.Bus == "" {
		plan.Bus = setting.Notify
	}
	plan.Batch = max(1, plan.Batch)
	if plan.Patience == 0 {
		plan.Patience = time.Minute
	}
}

// receivers get the events of a run: a fleet of clients, or a bare LISTEN.
type receivers interface {
	// Await waits until n events have come in all, and judges that each receiver has the newest.
	Await(ctx context.Context, n uint64) error
	// Delivered is how many events came so far.
	Delivered() uint64
	// Take gives what was seen since it was called last.
	Take() *fleet.Tally
}

var (
	_ receivers = (*fleet.Fleet)(nil)
	_ receivers = (*rawListener)(nil)
)

// A window is what was measured while events were published at a rate.
type window struct {
	events    int           // that were published
	took      time.Duration // to publish them
	delivered time.Duration // until all had come
	tally     *fleet.Tally
	server    time.Duration // its CPU time; 0: not known
	generator time.Duration // CPU time of this process
}

var errLate = errors.New("they are waited for no longer")

// measure publishes events at the rate for plan.Duration and waits until all clients have them; before, it does so for
// a second, so that plans are made and pages read. pid is the server's process, 0 where it is not known.
func (plan *Plan) measure(ctx context.Context, s *eventSource, to receivers, clients, pid int) (w window, err error) {
	if _, err := plan.deliver(ctx, s, to, clients, min(plan.Duration, time.Second)); err != nil {
		return w, err
	}
	if err := to.Take().Err(); err != nil {
		return w, err
	}
	before, own, err := cpuOf(pid)
	if err != nil {
		return w, err
	}
	start := time.Now()
	if w, err = plan.deliver(ctx, s, to, clients, plan.Duration); err != nil {
		return w, err
	}
	w.delivered = time.Since(start)
	after, ownAfter, err := cpuOf(pid)
	if err != nil {
		return w, err
	}
	w.server, w.generator, w.tally = after-before, ownAfter-own, to.Take()
	return w, w.tally.Err()
}

// deliver publishes events and waits until all receivers have them.
func (plan *Plan) deliver(ctx context.Context, s *eventSource, to receivers, clients int, d time.Duration) (w window,
	err error) {
	want := to.Delivered() - s.deliveries(clients)
	if w.events, w.took, err = s.pace(ctx, plan.Rate, d); err != nil {
		return w, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, plan.Patience, errLate)
	defer cancel()
	return w, to.Await(ctx, want+s.deliveries(clients))
}

// fleet makes a fleet for a server that runs. The caller closes it.
func (plan *Plan) fleet(r *running, s *eventSource) (*fleet.Fleet, error) {
	return fleet.New(fleet.Config{Spec: r.target.spec(), Topologies: r.topologies, Stamps: s.stamps, Window: plan.Window,
		Fresh: plan.Fresh})
}

// inRounds measures each subject in each round, in turn, and gives what was found by subject. A peer that fails is left
// out from then on, and failed is told; anybody else's failure is an error.
func inRounds[T any](ctx context.Context, plan *Plan, subjects []subject, measure func(subject) (T, error),
	tell func(T) string) (map[string][]T, error) {
	found, leftOut := map[string][]T{}, map[string]bool{}
	for round := range plan.Rounds {
		for _, s := range subjects {
			if leftOut[s.name] {
				continue
			}
			v, err := measure(s)
			switch {
			case err != nil && s.failed != nil && ctx.Err() == nil:
				plan.Log("round %d of %d, %s: %v", round+1, plan.Rounds, s.name, err)
				s.failed(err)
				leftOut[s.name] = true
				delete(found, s.name)
			case err != nil:
				return nil, fmt.Errorf("%s: %w", s.name, err)
			default:
				plan.Log("round %d of %d, %s: %s", round+1, plan.Rounds, s.name, tell(v))
				found[s.name] = append(found[s.name], v)
			}
		}
	}
	return found, nil
}

// with starts a subject, has its events published by a source, and stops both after use.
func (plan *Plan) with(ctx context.Context, sub subject, as shape,
	use func(r *running, s *eventSource) error) (err error) {
	r, err := sub.start(ctx, as)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	size := plan.Payload
	if r.bare && as.event > 0 {
		size = as.event
	}
	s := newEventSource(r, plan.Batch, size)
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.connect(ctx, r); err != nil {
		return err
	}
	return use(r, s)
}
