package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/wait"
)

// A startup is what a program asks of the database before its work begins: the schema's version, a migration. From then
// on whoever works reconnects by himself; a startup does so too. Whatever it asks must do no harm when it is asked
// twice.
//
// A database that was there a moment ago is tried again: its connection was lost (a restart, an administrator, a
// proxy), or it is starting up, shutting down or full. What no retry mends is an error: a wrong password, an unknown
// database, a missing schema, a database that was never there.
type startup struct {
	connect func(context.Context) (*pgx.Conn, error)
	log     *slog.Logger
	// awaits tells whether a database that was never there is waited for, too: a worker may be started before it.
	awaits bool
	// again is asked after each loss whether there shall be another try.
	again func() bool
}

// always never gives up: a service is of no use without its database, and whoever started it can end it.
func always() bool { return true }

// within gives up when that time is over: somebody waits for the command.
func within(d time.Duration) func() bool {
	began := time.Now()
	return func() bool { return time.Since(began) < d }
}

// commandPatience is how long a command that somebody waits for tries to get its lost database back.
const commandPatience = time.Minute

// do runs f on a connection of its own until f was not cut off by the loss of it, and gives f's error.
func (s startup) do(ctx context.Context, f func(*pgx.Conn) error) error {
	waiting := "no database yet; waiting for it"
	for try := 0; ; try++ {
		there, lost, err := s.once(ctx, f)
		if there {
			waiting = "the database is away; waiting for it"
		}
		if !lost || !there && !s.awaits || ctx.Err() != nil || !s.again() {
			return err
		}
		// From now on the database is known to be there at times: whatever comes next is waited for.
		s.awaits = true
		s.log.Warn(waiting, "error", oneLine(err.Error()))
		if !wait.Pause(ctx, wait.Backoff(try, 200*time.Millisecond, 5*time.Second)) {
			return context.Cause(ctx)
		}
	}
}

// once tries once. there tells that somebody answered, lost that another try may succeed where this one got err.
func (s startup) once(ctx context.Context, f func(*pgx.Conn) error) (there, lost bool, err error) {
	conn, err := s.connect(ctx)
	if err != nil {
		there = answered(err)
		return there, there || unreachable(err), err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = f(conn)
	// pgx closes a connection that broke, and one that PostgreSQL ended with a FATAL error (57P01 and its like).
	return true, err != nil && conn.IsClosed(), err
}

// unreachable tells whether no PostgreSQL could be reached: nothing answered, or nothing that speaks its protocol.
func unreachable(err error) bool {
	if _, refused := errors.AsType[*pgconn.PgError](err); refused {
		return false
	}
	_, ok := errors.AsType[*pgconn.ConnectError](err)
	return ok
}

// answered tells whether a connection that could not be made shows that somebody is there: PostgreSQL itself, or
// whoever took the connection and dropped it, as a proxy does whose server is away.
func answered(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return takesNobody(pgErr)
	}
	for _, dropped := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, dropped) {
			return true
		}
	}
	return false
}

// takesNobody tells whether PostgreSQL says that it will be of use later: it starts, stops or recovers (class 57P), or
// has no place or resources left (class 53). See Appendix A of its manual.
func takesNobody(err *pgconn.PgError) bool {
	return strings.HasPrefix(err.Code, "57P") || strings.HasPrefix(err.Code, "53")
}
