package pgbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/wait"
	"topostream/stream"
)

const (
	busyAfter     = 5 * time.Second        // of waiting for a turn, a connection and a lock, together
	longestRead   = 10 * time.Second       // whatever it waits for
	longestWrite  = 30 * time.Second       // as above; a topology may begin with 2,000 members
	namedBefore   = 500 * time.Millisecond // the end of a wait: when the log names who is waited for
	conflictTries = 5                      // of a transaction that PostgreSQL ended for the sake of another
)

// write runs do in a transaction, again when PostgreSQL ended it as a deadlock's victim or for a serialization failure. The writers of one
// turn go one after another.
func (s *Store) write(ctx context.Context, turn string, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestWrite, stream.ErrUnavailable)
	defer cancel()
	waiting, stop := context.WithTimeoutCause(ctx, s.busyAfter, stream.ErrBusy)
	defer stop()
	done, err := s.turns.take(waiting, turn)
	if err != nil {
		return err
	}
	defer done()
	for try := 0; ; try++ {
		err := s.transaction(ctx, waiting, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, do)
		if !lostConflict(err) {
			return domainError(ctx, err)
		}
		s.log.Info("PostgreSQL ended a transaction for the sake of another", "topology", turn, "try", try+1, "error", err)
		if try+1 == conflictTries || !wait.Pause(waiting, wait.Backoff(try, 20*time.Millisecond, 500*time.Millisecond)) {
			return fmt.Errorf("%w: %w", stream.ErrBusy, err)
		}
	}
}

// read runs do in a transaction that sees one moment.
func (s *Store) read(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestRead, stream.ErrUnavailable)
	defer cancel()
	waiting, stop := context.WithTimeoutCause(ctx, s.busyAfter, stream.ErrBusy)
	defer stop()
	return domainError(ctx, s.transaction(ctx, waiting, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do))
}

// transaction runs do once. It gets a connection, and PostgreSQL every lock, before waiting ends.
func (s *Store) transaction(ctx, waiting context.Context, options pgx.TxOptions, do func(context.Context, pgx.Tx) error) error {
	if err := s.slots.Acquire(waiting, 1); err != nil {
		return context.Cause(waiting)
	}
	defer s.slots.Release(1)
	conn, err := s.pool.Acquire(waiting)
	if err != nil {
		return fmt.Errorf("%w: take a connection of the pool: %w", stream.ErrUnavailable, err)
	}
	defer conn.Release()
	deadline, _ := waiting.Deadline() // read and write have set one
	left := max(time.Until(deadline), 100*time.Millisecond)
	defer s.nameBlockers(ctx, conn.Conn().PgConn().PID(), left-namedBefore)()
	return pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		const limit = `SELECT set_config('lock_timeout', $1, true)`
		if _, err := tx.Exec(ctx, limit, strconv.FormatInt(left.Milliseconds(), 10)); err != nil {
			return err
		}
		return do(ctx, tx)
	})
}

// nameBlockers logs, a while later, which backends the one with pid waits for, unless stop was called before: when PostgreSQL has given the
// wait up, it is too late to ask.
func (s *Store) nameBlockers(ctx context.Context, pid uint32, after time.Duration) (stop func()) {
	asked := make(chan struct{})
	timer := time.AfterFunc(after, func() {
		defer close(asked)
		const query = `SELECT pg_blocking_pids($1)`
		asking, cancel := context.WithTimeout(ctx, namedBefore)
		defer cancel()
		var pids []int32
		switch err := s.pool.QueryRow(asking, query, pid).Scan(&pids); {
		case ctx.Err() != nil: // nobody waits any more
		case err != nil:
			s.log.Warn("a transaction takes long, and whom it waits for is not known", "error", err)
		case len(pids) > 0:
			s.log.Warn("a transaction waits for a lock", "blocked_by_pid", pids, "waited", after)
		}
	})
	return func() {
		if !timer.Stop() {
			<-asked
		}
	}
}

// lostConflict tells whether PostgreSQL ended the transaction so that another could go on.
func lostConflict(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "40P01" || pgErr.Code == "40001") // deadlock_detected, serialization_failure
}

// domainError says in the domain's words what a transaction ended with. What is wrong with this program or its rights stays as it is.
func domainError(ctx context.Context, err error) error {
	var (
		field    *stream.FieldError
		conflict *stream.ConflictError
		pgErr    *pgconn.PgError
	)
	switch {
	case err == nil, errors.As(err, &field), errors.As(err, &conflict), errors.Is(err, stream.ErrNotFound), errors.Is(err, stream.ErrBusy), errors.Is(err, stream.ErrUnavailable):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.As(err, &pgErr):
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	case pgErr.Code == "55P03": // lock_not_available: lock_timeout
		return fmt.Errorf("%w: %w", stream.ErrBusy, err)
	case strings.HasPrefix(pgErr.Code, "22"), pgErr.Code == "54000": // data that PostgreSQL does not take; program_limit_exceeded: an event that is too large
		return &stream.FieldError{Field: "body", Problem: "PostgreSQL refuses what it holds: " + pgErr.Message}
	}
	switch pgErr.Code[:min(2, len(pgErr.Code))] {
	case "08", "53", "57", "58": // connection, resources, an operator's intervention, the system beneath
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	}
	if pgErr.Code == "25006" { // read_only_sql_transaction: a standby, or one that is being failed over
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	}
	return err
}
