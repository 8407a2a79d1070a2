package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

const (
	patience      = 5 * time.Second  // of waiting for the topology's mutex, a connection and a lock, together
	longestRead   = 10 * time.Second // all in all
	longestWrite  = 30 * time.Second // all in all; a topology may begin with 2,000 members
	longestIdle   = 10 * time.Second // after which PostgreSQL ends the transaction of a server that stands still in it
	conflictTries = 5                // of a transaction that PostgreSQL ended for the sake of another
)

// write runs do in a READ COMMITTED transaction, again when PostgreSQL ended it for the sake of another. The writers
// of one key go one after another.
func (s *Store) write(ctx context.Context, key string, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestWrite, stream.ErrUnavailable)
	defer cancel()
	waiting, stop := context.WithTimeoutCause(ctx, patience, stream.ErrBusy)
	defer stop()
	unlock, err := s.writers.lock(waiting, key)
	if err != nil {
		return err
	}
	defer unlock()
	return s.transact(ctx, waiting, pgx.TxOptions{}, do)
}

// read runs do in a transaction that sees one moment.
func (s *Store) read(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, longestRead, stream.ErrUnavailable)
	defer cancel()
	waiting, stop := context.WithTimeoutCause(ctx, patience, stream.ErrBusy)
	defer stop()
	return s.transact(ctx, waiting, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, do)
}

// transact runs a transaction within the store's share of the pool. A connection, and each lock, must be had before
// waiting ends.
func (s *Store) transact(
	ctx, waiting context.Context, options pgx.TxOptions, do func(context.Context, pgx.Tx) error,
) error {
	if err := s.slots.Acquire(waiting, 1); err != nil {
		return context.Cause(waiting)
	}
	defer s.slots.Release(1)
	err := s.transactor.Do(ctx, waiting, options, do)
	if held, ok := errors.AsType[*postgres.LockTimeoutError](err); ok {
		s.log.Warn("a transaction waited for a lock in vain", "blocked_by", held.By, "error", held.Err)
	}
	return domainError(ctx, err)
}

// domainError makes one of stream.Store's errors of the error of a transaction. An error that is this program's fault,
// or that of its rights, stays as it is.
func domainError(ctx context.Context, err error) error {
	pgErr, fromServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil, ofDomain(err):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, postgres.ErrConflicts):
		return fmt.Errorf("%w: %w", stream.ErrBusy, err)
	case fromServer && pgErr.Code == "55P03": // lock_not_available: lock_timeout
		return fmt.Errorf("%w: %w", stream.ErrBusy, err)
	case postgres.Away(err):
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	}
	return err
}

// ofDomain tells whether err is one that stream.Store names.
func ofDomain(err error) bool {
	if _, ok := errors.AsType[*stream.FieldError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*stream.ConflictError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*stream.TooLargeError](err); ok {
		return true
	}
	return errors.Is(err, stream.ErrNotFound) || errors.Is(err, stream.ErrBusy) || errors.Is(err, stream.ErrUnavailable)
}

// refusedField makes a *stream.FieldError of an error by which PostgreSQL refuses the value of a request's field: its
// own messages speak of types and indexes, which clients do not know. Other errors stay as they are.
func refusedField(field string, err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	var problem string
	switch code := pgErr.Code; {
	case code == "22P05", code == "22021": // untranslatable_character, character_not_in_repertoire
		problem = "has a character that the database cannot keep: leave it out"
	case code == "22003": // numeric_value_out_of_range
		problem = "has a number that the database cannot keep: give fewer digits"
	case strings.HasPrefix(code, "22"):
		problem = "has what the database cannot keep: give something simpler"
	case code == "54000": // program_limit_exceeded
		problem = "is too large for an event (16 MiB): give less"
	case code == "23514" && pgErr.ConstraintName == "": // our own triggers' sentences, which name the column
		_, problem, ok = strings.Cut(pgErr.Message, ": ")
		if !ok {
			problem = pgErr.Message
		}
	case strings.HasPrefix(code, "23"): // a constraint of the tables, or one that an installation has added
		problem = "is refused by a rule of this installation's database: its operator knows which"
	default:
		return err
	}
	return &stream.FieldError{Field: field, Problem: problem}
}
