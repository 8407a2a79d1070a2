package check

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Topologies with a backlog are of status pending, so that no worker takes their mutations, and many are in flight. A
// light snapshot does not hold them all: a server reads their bounded documents after the COMMIT of its attach. The
// first topology has Config.Backlog mutations, of some kB or less; the others have fewer, so that there are many to
// attach.
const (
	backlogTopologies = 6
	smallerBacklog    = 16 // what the first one's number is divided by for the others
	leastBacklog      = 100
)

// enqueueBacklogs enqueues what is in flight in them from the beginning. Large payloads come in runs: there a document
// is bounded by bytes, elsewhere by the number of mutations.
func (r *run) enqueueBacklogs(ctx context.Context, conn *pgx.Conn, ids []string) error {
	const insert = `
INSERT INTO mutations (topology_id, op, payload, requested_by)
SELECT $1::text::uuid, 'update_decky', jsonb_build_object('decky', 'decky-' || n % 6, 'patch',
       jsonb_build_object('note', repeat('x', CASE WHEN n % 1500 < 300 THEN 3000 ELSE 100 + n * 37 % 400 END))),
       'topocheck'
  FROM generate_series(1, $2::int) n`
	for i, id := range ids {
		n := r.cfg.Backlog
		if i > 0 {
			n = max(n/smallerBacklog, leastBacklog)
		}
		if _, err := conn.Exec(ctx, insert, id, n); err != nil {
			return fmt.Errorf("make a backlog: %w", err)
		}
	}
	return nil
}

// backlogged writes to a topology with a backlog: it emits, enqueues, or works some of the oldest off by hand, so that
// what a document shows changes at both ends.
func (w *writer) backlogged(ctx context.Context) {
	all := w.run.backlogs
	if len(all) == 0 {
		w.emitOne(ctx)
		return
	}
	t := all[0]
	if w.rng.IntN(2) == 0 {
		t = all[w.rng.IntN(len(all))]
	}
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		switch w.rng.IntN(3) {
		case 0:
			return x.emit(ctx, t, w.payload(w.rng.IntN(400)))
		case 1:
			return x.enqueueLarge(ctx, t, 1+w.rng.IntN(8))
		}
		return x.workOff(ctx, t, 1+w.rng.IntN(8))
	})
}

// enqueueLarge enqueues n mutations; one in a few is of some kB.
func (x *transaction) enqueueLarge(ctx context.Context, t *topology, n int) error {
	const insert = `
INSERT INTO mutations (topology_id, op, payload, requested_by)
VALUES ($1::text::uuid, 'update_decky', $2::text::jsonb, 'topocheck')`
	rng := x.w.rng
	for range n {
		size := rng.IntN(500)
		if rng.IntN(4) == 0 {
			size = rng.IntN(8000)
		}
		m, tagged := x.w.newTag(t)
		x.tagged = append(x.tagged, tagged...)
		payload := fmt.Sprintf(`{"decky":"decky-1","x":%d,"patch":%s}`, m, x.w.payload(size))
		if _, err := x.Exec(ctx, insert, t.id, payload); err != nil {
			return err
		}
	}
	return nil
}

// workOff takes up to n of the oldest pending mutations, and ends them or gives them back.
func (x *transaction) workOff(ctx context.Context, t *topology, n int) error {
	const (
		claim = `
UPDATE mutations SET state = 'applying' WHERE id IN (
    SELECT id FROM mutations WHERE topology_id = $1::text::uuid AND state = 'pending' ORDER BY position LIMIT $2)
RETURNING id::text`
		finish = `UPDATE mutations SET state = $2, reason = $3 WHERE id = ANY ($1::text[]::uuid[])`
	)
	rows, err := x.Query(ctx, claim, t.id, n)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	state, reason := "applied", (*string)(nil)
	switch x.w.rng.IntN(4) {
	case 0:
		why := "somebody said no"
		state, reason = "failed", &why
	case 1:
		state = "pending"
	}
	_, err = x.Exec(ctx, finish, ids, state, reason)
	return err
}

// backlogClients are the clients of topologies with a backlog: who arrives attaches one after the other and drops it.
func backlogClients() []ClientKind {
	return []ClientKind{Steady, Arriving, Arriving, Dropping, Arriving, Arriving}
}
