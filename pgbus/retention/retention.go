// Package retention removes what has been kept for long enough: journal rows, finished mutations, idempotency keys and
// tickets. Servers may all run it: one of them prunes at a time.
package retention

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// DefaultEvery is the pause between two rounds, where Config sets none.
const DefaultEvery = time.Minute

// batchRows is about how many rows one transaction removes.
const batchRows = 5000

// Config is what New needs.
type Config struct {
	Pool       *pgxpool.Pool
	Events     time.Duration // age at which journal rows go; 0 keeps them
	EventCount int64         // newest journal rows kept of each topology; 0 is no limit
	Mutations  time.Duration // age at which finished mutations go; 0 keeps them
	Every      time.Duration // between two rounds; 0: DefaultEvery
	Logger     *slog.Logger  // nil: no log
	Stats      *stream.Stats // nil: nobody reads them
}

// A Pruner prunes again and again. Make it with New, run it with Run.
type Pruner struct{ cfg Config }

// New makes a pruner; nothing happens before Run.
func New(cfg Config) *Pruner {
	if cfg.Every <= 0 {
		cfg.Every = DefaultEvery
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Stats == nil {
		cfg.Stats = stream.NoStats()
	}
	return &Pruner{cfg}
}

// Run prunes until ctx ends, and returns nil then: what fails is logged, and tried again in the next round.
func (p *Pruner) Run(ctx context.Context) error {
	for wait.Pause(ctx, p.cfg.Every/2+wait.Backoff(0, p.cfg.Every, p.cfg.Every)) {
		p.round(ctx)
	}
	return nil
}

func (p *Pruner) round(ctx context.Context) {
	c := p.cfg
	if c.Events > 0 || c.EventCount > 0 {
		p.report(ctx, "events", stream.PrunedEvents)(Events(ctx, c.Pool, c.Events, c.EventCount))
	}
	if c.Mutations > 0 {
		p.report(ctx, "mutations", stream.PrunedMutations)(Mutations(ctx, c.Pool, c.Mutations))
	}
	p.report(ctx, "idempotency keys", stream.PrunedKeys)(Keys(ctx, c.Pool))
	p.report(ctx, "tickets", stream.PrunedTickets)(Tickets(ctx, c.Pool))
	p.report(ctx, "rows untold", stream.PrunedUntold)(Untold(ctx, c.Pool))
}

func (p *Pruner) report(ctx context.Context, what string, label stream.Cause) func(removed int64, err error) {
	return func(removed int64, err error) {
		p.cfg.Stats.Pruned[label].Add(float64(removed)) // also where it failed half way
		switch {
		case err != nil && ctx.Err() == nil:
			p.cfg.Logger.Warn("pruning failed", "of", what, "error", err)
		case removed > 0:
			p.cfg.Logger.Info("pruned", "of", what, "rows", removed)
		}
	}
}

// Events removes journal rows that are older than age (0: no limit) and what is beyond the newest keep of each topology
// (0: no limit), in batches, and gives the number of rows removed. One server prunes at a time: another call removes
// nothing.
func Events(ctx context.Context, pool *pgxpool.Pool, age time.Duration, keep int64) (removed int64, err error) {
	const query = `SELECT topology_prune($1::bigint * interval '1 microsecond', $2::bigint, $3::int)`
	var micros, count *int64
	if age > 0 {
		micros = new(age.Microseconds())
	}
	if keep > 0 {
		count = &keep
	}
	for {
		var n int64
		err := transact(ctx, pool, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, query, micros, count, batchRows).Scan(&n)
		})
		if err != nil {
			return removed, fmt.Errorf("prune: %w", err)
		}
		if n <= 0 {
			return removed, nil
		}
		removed += n
	}
}

// Mutations removes mutations that ended, applied or failed, longer ago than age. Otherwise as Events.
func Mutations(ctx context.Context, pool *pgxpool.Pool, age time.Duration) (removed int64, err error) {
	// A state that a person gave a finished_at by hand is still in flight: the database would refuse the whole batch.
	const remove = `
DELETE FROM mutations WHERE id IN (
       SELECT m.id FROM mutations m
        WHERE m.finished_at < clock_timestamp() - $1::bigint * interval '1 microsecond'
          AND m.state IN ('applied', 'failed')
        ORDER BY m.finished_at LIMIT $2)`
	return inBatches(ctx, pool, remove, age.Microseconds(), batchRows)
}

// Keys removes idempotency keys that stand for nothing any more. Otherwise as Events.
func Keys(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	const remove = `
DELETE FROM mutation_keys WHERE (topology_id, subject, key) IN (
       SELECT k.topology_id, k.subject, k.key FROM mutation_keys k
        WHERE k.created_at < clock_timestamp() - $1::bigint * interval '1 microsecond' ORDER BY k.created_at LIMIT $2)`
	return inBatches(ctx, pool, remove, stream.KeyLife.Microseconds(), batchRows)
}

// Tickets removes tickets that have expired. Otherwise as Events. It waits for none that is being redeemed.
func Tickets(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	const remove = `
DELETE FROM sse_tickets WHERE hash IN (
       SELECT t.hash FROM sse_tickets t WHERE t.expires < clock_timestamp()
        ORDER BY t.expires LIMIT $1 FOR UPDATE OF t SKIP LOCKED)`
	return inBatches(ctx, pool, remove, batchRows)
}

// Untold removes rows of topology_untold that statements left behind which changed nothing in the end. Otherwise as
// Events.
func Untold(ctx context.Context, pool *pgxpool.Pool) (removed int64, err error) {
	const sweep = `SELECT topology_sweep()`
	if err := pool.QueryRow(ctx, sweep).Scan(&removed); err != nil {
		return 0, fmt.Errorf("prune: %w", err)
	}
	return removed, nil
}

// transact runs do in a transaction.
func transact(ctx context.Context, pool *pgxpool.Pool, do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: postgres.BeginHolding}, do)
}

// inBatches runs a statement that removes some rows, each time in a transaction of its own, until there are none for
// it.
func inBatches(ctx context.Context, pool *pgxpool.Pool, statement string, args ...any) (removed int64, err error) {
	for {
		var n int64
		err := transact(ctx, pool, func(tx pgx.Tx) error {
			mine, err := begin(ctx, tx)
			if err != nil || !mine {
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

// begin bounds how long a transaction waits for a lock, so that somebody who holds one of the rows does not keep all
// servers from pruning. It tells whether this server is the one that prunes now: it takes the advisory lock that
// topology_prune takes, too.
func begin(ctx context.Context, tx pgx.Tx) (mine bool, err error) {
	const (
		limit = `SET LOCAL lock_timeout = '5s'`
		lock  = `SELECT pg_try_advisory_xact_lock(hashtext('topostream.prune'), ('topology_events'::regclass)::oid::int)`
	)
	if _, err := tx.Exec(ctx, limit); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, lock).Scan(&mine)
	return mine, err
}
