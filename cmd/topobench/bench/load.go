package bench

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"topostream/pgbus/postgres"
)

// A load is some writers, each with a connection of its own, that commit one event a transaction, in topologies taken
// at random.
type load struct {
	topologies []string
	conns      []*pgx.Conn
	random     []*rand.Rand
}

// slowFlush makes each commit wait for 2 ms before it flushes, as a slow disk would.
//
//nolint:gochecknoglobals // a constant that Go cannot declare as such
var slowFlush = map[string]string{"commit_delay": "2000", "commit_siblings": "0"}

// newLoad connects n writers with these settings. The caller closes it.
func newLoad(ctx context.Context, p *place, n int, seed uint64, settings map[string]string) (*load, error) {
	l := &load{topologies: p.topologies}
	cfg, err := postgres.Parse(p.url)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = ownName + " writer"
	cfg.RuntimeParams["synchronous_commit"] = "on"
	maps.Copy(cfg.RuntimeParams, settings)
	for i := range n {
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("connect writer %d of %d: %w", i+1, n, err)
		}
		l.conns = append(l.conns, conn)
		l.random = append(l.random, rand.New(rand.NewPCG(seed, uint64(i))))
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.Close(context.Background()) // nothing is under way
	}
}

const emit = `SELECT topology_emit($1::uuid, 'bench', '{"decky_name":"web-1","services":["ssh"]}')`

// flatOut has every writer commit as fast as it can for a time, and gives how many have committed and how long it took.
func (l *load) flatOut(ctx context.Context, d time.Duration) (events uint64, took time.Duration, err error) {
	var total atomic.Uint64
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i, conn := range l.conns {
		g.Go(func() error {
			n := uint64(0)
			for ; time.Since(start) < d; n++ {
				if _, err := conn.Exec(ctx, emit, l.topologies[l.random[i].IntN(len(l.topologies))]); err != nil {
					return fmt.Errorf("write: %w", err)
				}
			}
			total.Add(n)
			return nil
		})
	}
	err = g.Wait()
	return total.Load(), time.Since(start), err
}

// A sent event is one whose COMMIT went off at a time.
type sent struct {
	topology string
	seq      uint64
	at       time.Time
}

// pace commits events at a rate, as [pace] calls, in the first n topologies. It gives those that were committed, in no
// order.
func (l *load) pace(ctx context.Context, rate float64, d time.Duration, n int) ([]sent, error) {
	events := make([][]sent, len(l.conns))
	err := pace(ctx, len(l.conns), rate, d, func(ctx context.Context, i, _ int) error {
		e, err := commit(ctx, l.conns[i], l.topologies[l.random[i].IntN(n)])
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		events[i] = append(events[i], e)
		return nil
	})
	return slices.Concat(events...), err
}

func commit(ctx context.Context, conn *pgx.Conn, topology string) (e sent, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return e, err
	}
	e.topology = topology
	if err := tx.QueryRow(ctx, emit, topology).Scan(&e.seq); err != nil {
		return e, err // the connection goes with the load
	}
	e.at = time.Now()
	return e, tx.Commit(ctx)
}
