package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/wait"
)

// Transactor runs transactions on a pool. Its fields are set once, before it is used; any goroutine may then use it.
//
// A transaction that PostgreSQL ended as a deadlock's victim or for a serialization failure is run again, so what it
// does must not leave anything outside the database. A lock that it does not get in time is a *LockTimeoutError,
// which names the backends that hold it: PostgreSQL tells them only while somebody waits, so they are asked for then.
type Transactor struct {
	Pool        *pgxpool.Pool
	LockTimeout time.Duration // of each wait for a lock; a context's nearer deadline shortens it
	IdleTimeout time.Duration // after which PostgreSQL ends a transaction whose client stands still; 0 leaves its setting
	Tries       int           // 0: until the context ends
	Retry       wait.Steps    // pauses between two tries
	// Conflict is told of each try that PostgreSQL ended for the sake of another; nil tells nobody.
	Conflict func(try int, err *pgconn.PgError)
}

// A LockTimeoutError says whom a transaction waited for in vain.
type LockTimeoutError struct {
	By  []string // as [Blockers] has them; empty where PostgreSQL did not say
	Err error
}

func (e *LockTimeoutError) Error() string {
	return fmt.Sprintf("%v (held by %s)", e.Err, strings.Join(e.By, ", "))
}

func (e *LockTimeoutError) Unwrap() error { return e.Err }

// ErrConflicts wraps the error of a transaction that PostgreSQL ended for the sake of others in each of its tries.
var ErrConflicts = errors.New("PostgreSQL ended the transaction for the sake of others again and again")

// shortestLockTimeout is what a transaction waits for a lock at the least: it is no use to begin one with less.
const shortestLockTimeout = 100 * time.Millisecond

// Do runs do in a transaction with options, READ COMMITTED unless they say otherwise. The context that do gets ends
// with ctx. waiting bounds the waits for a connection and for each lock; its cause is the error when it ends before
// there is a connection.
func (t *Transactor) Do(
	ctx, waiting context.Context, options pgx.TxOptions, do func(context.Context, pgx.Tx) error,
) error {
	if options.IsoLevel == "" {
		options.IsoLevel = pgx.ReadCommitted
	}
	for try := 0; ; try++ {
		err := t.once(ctx, waiting, options, do)
		conflict := asConflict(err)
		if conflict == nil {
			return err
		}
		if t.Conflict != nil {
			t.Conflict(try+1, conflict)
		}
		if try+1 == t.Tries || !t.Retry.Pause(waiting, try) {
			return fmt.Errorf("%w: %w", ErrConflicts, err)
		}
	}
}

// once runs one try.
func (t *Transactor) once(
	ctx, waiting context.Context, options pgx.TxOptions, do func(context.Context, pgx.Tx) error,
) error {
	const limits = `SELECT set_config('lock_timeout', $1, true),
		CASE WHEN $2 <> '0' THEN set_config('idle_in_transaction_session_timeout', $2, true) END`
	conn, err := t.Pool.Acquire(waiting)
	if err != nil {
		return fmt.Errorf("take a connection of the pool: %w", err)
	}
	defer conn.Release()
	lock := t.LockTimeout
	if deadline, ok := waiting.Deadline(); ok {
		lock = min(lock, max(time.Until(deadline), shortestLockTimeout))
	}
	blockers := watchBlockers(ctx, t.Pool, conn.Conn().PgConn().PID(), lock)
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, limits, milliseconds(lock), milliseconds(t.IdleTimeout)); err != nil {
			return err
		}
		return do(ctx, tx)
	})
	by := blockers.stop()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" { // lock_not_available
		return &LockTimeoutError{by, err}
	}
	return err
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// asConflict is err if PostgreSQL ended the transaction so that another could go on.
func asConflict(err error) *pgconn.PgError {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != "40P01" && pgErr.Code != "40001" { // deadlock_detected, serialization_failure
		return nil
	}
	return pgErr
}

// Blockers are the backends that a transaction waits for.
type blockers struct {
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
	asking  sync.WaitGroup
	by      []string
}

// watchBlockers asks twice in each wait that ends by lock_timeout.
func watchBlockers(ctx context.Context, pool *pgxpool.Pool, pid uint32, lock time.Duration) *blockers {
	b := &blockers{}
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
func (b *blockers) stop() []string {
	b.mu.Lock()
	b.stopped = true
	b.timer.Stop()
	b.mu.Unlock()
	b.asking.Wait()
	return b.by
}

// Blockers says whom a backend waits for: "pid 4711", or "prepared transaction 'x'", which is nobody's until somebody
// ends it (COMMIT PREPARED, ROLLBACK PREPARED).
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
