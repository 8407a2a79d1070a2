package pgbus

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// pruneBatch is about how many journal rows one transaction removes.
const pruneBatch = 5000

func (b *Bus) pruneLoop(ctx context.Context) {
	for pause(ctx, b.cfg.PruneEvery/2+backoff(0, b.cfg.PruneEvery, b.cfg.PruneEvery)) {
		n, err := Prune(ctx, b.cfg.Pool, b.cfg.Retention, b.cfg.RetentionCount)
		switch {
		case err != nil && ctx.Err() == nil:
			b.log.Warn("pruning failed", "error", err)
		case n > 0:
			b.log.Info("pruned", "events", n)
		}
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
