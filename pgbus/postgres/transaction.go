package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
