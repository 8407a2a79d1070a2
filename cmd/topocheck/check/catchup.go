package check

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// awaitClients waits until every client that stays has everything. What has not come when the time is over is lost.
func (r *run) awaitClients(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(max(r.cfg.CatchUp, headsTimeout), cancel)
	defer limit.Stop()
	var (
		conn *pgx.Conn
		err  error
	)
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // it only read
		}
	}()
	var behind []lag
	for known := false; ; pause(ctx, 100*time.Millisecond) {
		if ctx.Err() != nil {
			if !known {
				return fmt.Errorf("the heads could not be read after the run: %w", err)
			}
			r.neverCame(behind)
			return nil
		}
		if conn == nil || conn.IsClosed() {
			if conn, err = r.connect(ctx, "heads"); err != nil {
				conn = nil
				continue
			}
		}
		var now []lag
		if now, err = r.lags(ctx, conn); err != nil {
			continue
		}
		if !known { // what it took to ask is not the clients'
			limit.Reset(r.cfg.CatchUp)
		}
		if behind, known = now, true; len(behind) == 0 {
			return nil
		}
	}
}

// headsTimeout is how long the heads may take to be read for the first time: the database may be on its way up.
const headsTimeout = time.Minute

// A lag is a client that does not have everything.
type lag struct {
	judge    *judge // of a client; nil: the checker itself has not read the journal so far
	topology *topology
	head     uint64
}

// lags compares the heads, read now, with what clients have.
func (r *run) lags(ctx context.Context, conn *pgx.Conn) (behind []lag, err error) {
	const heads = `SELECT topology_id::text, seq FROM topology_heads WHERE topology_id = ANY ($1::text[]::uuid[])`
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rows, err := conn.Query(ctx, heads, idsOf(r.topologies))
	if err != nil {
		return nil, fmt.Errorf("read the heads: %w", err)
	}
	head := map[string]uint64{}
	var (
		id  string
		seq uint64
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &seq}, func() error { head[id] = seq; return nil }); err != nil {
		return nil, fmt.Errorf("read the heads: %w", err)
	}
	for _, t := range r.topologies {
		if !reaches(t.at(), head[t.id]) {
			behind = append(behind, lag{nil, t, head[t.id]})
		}
	}
	for _, c := range r.clients {
		for _, j := range c.judges() {
			if !reaches(j.seq.Load(), head[j.topology.id]) {
				behind = append(behind, lag{j, j.topology, head[j.topology.id]})
			}
		}
	}
	return behind, nil
}

// reaches tells whether who has seq has all up to head. A worker may go on while we look.
func reaches(seq, head uint64) bool { return sameEpoch(seq, head) && seq >= head }

func (r *run) neverCame(behind []lag) {
	for _, l := range behind {
		if l.judge == nil {
			continue // the audit says more
		}
		has := l.judge.seq.Load()
		v := l.judge.client.violation(Lost, l.topology, "", l.head, has,
			fmt.Sprintf("never came, within %s after the last commit", r.cfg.CatchUp))
		if v.Count = 1; has < l.head && sameEpoch(has, l.head) {
			v.Count = l.head - has
		}
		r.violations.add(v)
	}
}
