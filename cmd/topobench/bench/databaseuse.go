package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
)

// databaseUse is what a server did to its database.
type databaseUse struct{ backends, transactions int }

// A databaseWatch counts it.
type databaseWatch struct {
	conn    *pgx.Conn
	name    string        // of the database
	reports time.Duration // until backends have reported their transactions
	before  int           // transactions when the watch began
	own     int           // transactions of the watch itself since then
	stop    context.CancelFunc
	most    chan int // the most backends at once, when run has ended
	failed  error
}

// watchDatabase begins to count; the watch is nil where events are in no database. Backends report what they did once a
// second, and after 10 s when they are idle (PostgreSQL: pgstat.c, PGSTAT_IDLE_INTERVAL): it waits for reports, so that
// what was done before is not counted.
func watchDatabase(ctx context.Context, p *place, reports time.Duration) (*databaseWatch, error) {
	if p.conn == nil {
		return nil, nil //nolint:nilnil // see above
	}
	cfg, err := postgres.Parse(p.url)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = ownName + " watch"
	w := &databaseWatch{name: cfg.Database, reports: reports, own: 1, most: make(chan int, 1)}
	if w.conn, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("watch the database: %w", err)
	}
	if w.before, err = w.transactions(ctx); err != nil {
		return nil, errors.Join(err, w.conn.Close(ctx))
	}
	ctx, w.stop = context.WithCancel(ctx)
	go w.run(ctx)
	return w, nil
}

// transactions reads the database's count when all before have been reported, also the watch's own: each of its
// statements is one.
func (w *databaseWatch) transactions(ctx context.Context) (n int, err error) {
	select {
	case <-time.After(w.reports):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	const count = `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`
	if err := w.conn.QueryRow(ctx, count, w.name).Scan(&n); err != nil {
		return 0, fmt.Errorf("pg_stat_database: %w", err)
	}
	return n, nil
}

// run counts the most backends at once, until ctx ends.
func (w *databaseWatch) run(ctx context.Context) {
	const count = `
SELECT count(*) FROM pg_stat_activity
 WHERE datname = $1 AND backend_type IN ('client backend', 'walsender') AND application_name NOT LIKE $2 || '%'`
	most := 0
	defer func() { w.most <- most }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var n int
		if w.failed = w.conn.QueryRow(context.WithoutCancel(ctx), count, w.name, ownName).Scan(&n); w.failed != nil {
			return
		}
		w.own++
		most = max(most, n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// end ends the watch and says what it saw.
func (w *databaseWatch) end(ctx context.Context) (use databaseUse, err error) {
	if w == nil {
		return use, nil
	}
	w.stop()
	use.backends = <-w.most
	defer func() { err = errors.Join(err, w.conn.Close(context.WithoutCancel(ctx))) }()
	if w.failed != nil {
		return use, fmt.Errorf("pg_stat_activity: %w", w.failed)
	}
	after, err := w.transactions(ctx)
	use.transactions = max(0, after-w.before-w.own)
	return use, err
}

// close ends a watch whose figures nobody wants.
func (w *databaseWatch) close() error {
	if w == nil {
		return nil
	}
	w.stop()
	<-w.most
	return w.conn.Close(context.Background())
}
