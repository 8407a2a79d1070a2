package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A blockerWatch asks again and again, on other connections, whom a transaction waits for: once the wait is over,
// PostgreSQL does not tell any more.
type blockerWatch struct {
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
	asking  sync.WaitGroup
	by      []string // the last answer that named somebody
}

// watchBlockers asks every third of the lock timeout, and so twice in each wait that ends by that.
func watchBlockers(ctx context.Context, pool *pgxpool.Pool, pid uint32, lock time.Duration) *blockerWatch {
	b := &blockerWatch{}
	every := lock / 3
	ask := func() {
		b.mu.Lock()
		if b.stopped {
			b.mu.Unlock()
			return
		}
		b.asking.Add(1)
		b.mu.Unlock()
		defer b.asking.Done()
		ctx, cancel := context.WithTimeout(ctx, every)
		defer cancel()
		by, err := Blockers(ctx, pool, pid)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err == nil && len(by) > 0 {
			b.by = by
		}
		if !b.stopped {
			b.timer.Reset(every)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(every, ask)
	return b
}

// stop ends the watch, waits until nobody asks any more, and gives the last answer that named somebody.
func (b *blockerWatch) stop() []string {
	b.mu.Lock()
	b.stopped = true
	b.timer.Stop()
	b.mu.Unlock()
	b.asking.Wait()
	return b.by
}

// Blockers says whom a backend waits for: "pid 4711", or "prepared transaction 'x'", which no backend ends by itself:
// somebody has to (COMMIT PREPARED, ROLLBACK PREPARED).
func Blockers(ctx context.Context, pool *pgxpool.Pool, pid uint32) (by []string, _ error) {
	// Of prepared transactions pg_blocking_pids says 0: which of them it is, only the locks tell.
	const query = `
WITH blocking AS (SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid)
SELECT 'pid ' || b.pid FROM blocking b WHERE b.pid <> 0
 UNION ALL
SELECT coalesce('prepared transaction ' || quote_literal(x.gid), 'a prepared transaction') FROM blocking b
  LEFT JOIN pg_prepared_xacts x ON EXISTS (
       SELECT FROM pg_locks w, pg_locks h, pg_locks own -- what is waited for, who holds it, and that one's own number
        WHERE w.pid = $1 AND NOT w.granted AND h.granted AND h.pid IS NULL AND h.locktype = w.locktype
          AND (h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
              IS NOT DISTINCT FROM
              (w.database, w.relation, w.page, w.tuple, w.transactionid, w.classid, w.objid, w.objsubid)
          AND own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = h.virtualtransaction
          AND own.transactionid = x.transaction)
 WHERE b.pid = 0 ORDER BY 1`
	rows, err := pool.Query(ctx, query, pid)
	if err == nil {
		by, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("ask whom a backend waits for: %w", err)
	}
	return by, nil
}
