package mutator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"topostream/pgbus/wait"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// beginQuery begins a transaction. A worker that stands still within one, stopped by a signal or with its machine,
// would hold the topology for ever and nobody could give its mutation back: PostgreSQL ends it by the time the lease
// runs out.
func beginQuery(lock, lease time.Duration) string {
	return fmt.Sprintf("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d", lock.Milliseconds(), lease.Milliseconds())
}

// A lockTimeoutError says whom a transaction waited for in vain.
type lockTimeoutError struct {
	pids []int32
	err  error
}

func (e *lockTimeoutError) Error() string { return fmt.Sprintf("%v (held by pid %v)", e.err, e.pids) }
func (e *lockTimeoutError) Unwrap() error { return e.err }

// transact runs f in a READ COMMITTED transaction, again when PostgreSQL ended it for the sake of another. A lock
// that it did not get within the limit is a *lockTimeoutError.
func (w *Worker) transact(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	for try := 0; ; try++ {
		err := w.transactOnce(ctx, f)
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pgErr.Code != "40P01" && pgErr.Code != "40001" { // deadlock_detected, serialization_failure
			return err
		}
		w.log.Info("PostgreSQL ended a transaction for the sake of another; trying again", "try", try+1, "error", err, "detail", pgErr.Detail)
		if !wait.Pause(ctx, wait.Backoff(try, 50*time.Millisecond, time.Second)) {
			return err
		}
	}
}

func (w *Worker) transactOnce(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	// A database that does not answer at all ends the connection. Each lock has a limit of its own.
	ctx, cancel := context.WithTimeout(ctx, 4*w.cfg.LockTimeout+10*time.Second)
	defer cancel()
	conn, err := w.cfg.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	blockers := w.watchBlockers(ctx, conn.Conn().PgConn().PID())
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: w.begin}, func(tx pgx.Tx) error { return f(ctx, tx) })
	pids := blockers.stop()
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" { // lock_not_available
		return &lockTimeoutError{pids, err}
	}
	return err
}

// Blockers are the backends that a transaction waits for. PostgreSQL tells them only while it waits, so they are
// asked for then.
type blockers struct {
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
	asking  sync.WaitGroup
	pids    []int32
}

// watchBlockers asks twice in each wait that ends by lock_timeout.
func (w *Worker) watchBlockers(ctx context.Context, pid uint32) *blockers {
	const query = `SELECT pg_blocking_pids($1)`
	b := &blockers{}
	every := w.cfg.LockTimeout / 3
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
		var pids []int32
		err := w.cfg.Pool.QueryRow(ctx, query, pid).Scan(&pids)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err == nil && len(pids) > 0 {
			b.pids = pids
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
func (b *blockers) stop() []int32 {
	b.mu.Lock()
	b.stopped = true
	b.timer.Stop()
	b.mu.Unlock()
	b.asking.Wait()
	return b.pids
}
