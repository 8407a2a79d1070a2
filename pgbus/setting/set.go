package setting

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A WALError says what keeps a database from the bus wal.
type WALError struct{ Problems []string }

func (e *WALError) Error() string {
	return "the bus wal cannot work yet:\n  " + strings.Join(e.Problems, "\n  ")
}

// Set changes what the triggers do, and tells servers and workers. For WAL it looks first whether they can read the
// WAL (a *WALError says what is missing; nothing is changed then) and makes the publication. The connection's role
// must own the tables.
func Set(ctx context.Context, conn *pgx.Conn, bus string) error {
	const set = `UPDATE topology_settings SET bus = $1`
	s, err := Read(ctx, conn)
	if err != nil {
		return err
	}
	if bus == WAL {
		if problems := s.Missing(); len(problems) > 0 {
			return &WALError{problems}
		}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if bus == WAL {
			if err := publish(ctx, tx, s.Publication); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, set, bus); err != nil {
			return advise(fmt.Errorf("set the bus: %w", err),
				"run this as the role that owns the schema, as `topostream migrate up` was")
		}
		return nil
	})
}

// publish makes the publication, or changes it to inserts alone: what retention deletes need not be sent.
func publish(ctx context.Context, tx pgx.Tx, p Publication) error {
	name := pgx.Identifier{p.Name}.Sanitize()
	var statement string
	switch {
	case !p.Exists:
		statement = "CREATE PUBLICATION " + name + " FOR TABLE topology_events WITH (publish = 'insert')"
	case !p.Insert || p.More:
		statement = "ALTER PUBLICATION " + name + " SET (publish = 'insert')"
	default:
		return nil
	}
	if _, err := tx.Exec(ctx, statement); err != nil {
		return advise(fmt.Errorf("make the publication %s: %w", p.Name, err),
			"run this as the role that owns topology_events, with the right CREATE on the database "+
				"(GRANT CREATE ON DATABASE … TO …)")
	}
	return nil
}

// A RightError says which right the connection's role lacks, and what to do. It wraps nothing: What has PostgreSQL's
// message.
type RightError struct{ What, Advice string }

func (e *RightError) Error() string { return e.What + ": " + e.Advice }

// advise makes a *RightError of an error that says that a right is missing. Other errors stay as they are.
func advise(err error, advice string) error {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42501" { // insufficient_privilege
		return &RightError{err.Error(), advice}
	}
	return err
}
