package pgbus

import (
	"context"
	"fmt"
	"time"

	"topostream/pgbus/wait"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pruneBatch is about how many rows one transaction removes.
const pruneBatch = 5000

func (b *Bus) pruneLoop(ctx context.Context) {
	pool := b.cfg.Pool
	for wait.Pause(ctx, b.cfg.PruneEvery/2+wait.Backoff(0, b.cfg.PruneEvery, b.cfg.PruneEvery)) {
		if b.cfg.Retention > 0 || b.cfg.RetentionCount > 0 {
			b.pruned(ctx, "events", func() (int64, error) { return Prune(ctx, pool, b.cfg.Retention, b.cfg.RetentionCount) })
		}
		if b.cfg.MutationRetention > 0 {
			b.pruned(ctx, "mutations", func() (int64, error) { return PruneMutations(ctx, pool, b.cfg.MutationRetention) })
		}
		b.pruned(ctx, "idempotency keys", func() (int64, error) { return PruneKeys(ctx, pool) })
		b.pruned(ctx, "tickets", func() (int64, error) { return PruneTickets(ctx, pool) })
	}
}

func (b *Bus) pruned(ctx context.Context, what string, prune func() (int64, error)) {
	switch n, err := prune(); {
	case err != nil && ctx.Err() == nil:
		b.log.Warn("pruning failed", "of", what, "error", err)
	case n > 0:
		b.log.Info("pruned", "of", what, "rows", n)
	}
}

// Prune removes what is older than age (0: no limit) and what is beyond the newest keep events of each topology (0: no
// limit), in batches, and gives the number of rows removed. One server prunes at a time: another call removes nothing.
func Prune(ctx context.Context, pool *pgxpool.Pool, age time.Duration, keep int64) (removed int64, err error) {
	const query = `SELECT topology_prune($1::bigint * interval '1 microsecond', $2::bigint, $3::int)`
	var micros, count *int64
	if age > 0 {
		v := age.Microseconds()
		micros = &v
	}
	if keep > 0 {
		count = &keep
	}
	for {
		var n int64
		if err := pool.QueryRow(ctx, query, micros, count, pruneBatch).Scan(&n); err != nil {
			return removed, fmt.Errorf("prune: %w", err)
		}
		if n <= 0 {
			return removed, nil
		}
		removed += n
	}
}

// PruneMutations removes mutations that ended, applied or failed, longer ago than age. Otherwise as Prune.
func PruneMutations(ctx context.Context, pool *pgxpool.Pool, age time.Duration) (removed int64, err error) {
	// The lock is the journal's. A state that a person gave a finished_at by hand is still in flight: the database would refuse the whole batch.
	const remove = `
WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('topostream.prune'), ('topology_events'::regclass)::oid::int) AS locked)
DELETE FROM mutations WHERE id IN (
       SELECT m.id FROM mutations m, mine WHERE mine.locked AND m.finished_at < clock_timestamp() - $1::bigint * interval '1 microsecond' AND m.state IN ('applied', 'failed')
        ORDER BY m.finished_at LIMIT $2)`
	return inBatches(ctx, pool, remove, age.Microseconds(), pruneBatch)
}

// PruneKeys removes idempotency keys that stand for nothing any more. Otherwise as Prune.
func PruneKeys(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	const remove = `
WITH mine AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('topostream.prune'), ('topology_events'::regclass)::oid::int) AS locked)
DELETE FROM mutation_keys WHERE (topology_id, subject, key) IN (
       SELECT k.topology_id, k.subject, k.key FROM mutation_keys k, mine WHERE mine.locked AND k.created_at < clock_timestamp() - $1::text::interval
        ORDER BY k.created_at LIMIT $2)`
	return inBatches(ctx, pool, remove, keyLife, pruneBatch)
}

// inBatches runs a statement that removes some rows, each time in a transaction of its own, until there are none for it.
func inBatches(ctx context.Context, pool *pgxpool.Pool, statement string, args ...any) (removed int64, err error) {
	const limit = `SET LOCAL lock_timeout = '5s'` // who holds one of the rows does not keep every server from pruning
	for {
		var n int64
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, limit); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, statement, args...)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return removed, fmt.Errorf("prune: %w", err)
		}
		if n == 0 {
			return removed, nil
		}
		removed += n
	}
}
