// Package sql holds the database's schema: migrations that jackc/tern runs, embedded in the program.
//
// A migration is a file NNN_name.sql, up above and down below tern's separator. Each one records itself in
// topology_migrations and says there whether it is additive: whether a server that does not know it can go on working.
package sql

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"
)

// Files are the migrations.
//
//go:embed *.sql
var Files embed.FS

// Errors of Check, each with a sentence that says what to do.
var (
	ErrMissing = errors.New("the database has no topostream schema: run `topostream migrate up`")
	ErrOlder   = errors.New("the database's schema is older than this program: run `topostream migrate up`")
	ErrNewer   = errors.New("the database's schema is newer than this program: upgrade topostream")
)

// Version is the state of a database's schema.
type Version struct {
	Current  int32 // 0: no migration has run
	Latest   int32 // the newest migration that this program knows
	Additive bool  // when Current > Latest: all migrations above Latest are marked additive
}

// A migration that cannot lock its tables within a second gives up, so that those who wait behind it go on, and is
// tried again.
const (
	lockTries = 30
	lockPause = time.Second
)

// Up brings the database to the newest version. Migrations run in the first schema of conn's search path, each in a
// transaction; several programs may call it at once (tern takes an advisory lock). While others hold the tables it
// tries again, for about a minute.
func Up(ctx context.Context, conn *pgx.Conn) error {
	m, err := migrator(ctx, conn)
	if err != nil {
		return err
	}
	if err := untilLocked(ctx, m.Migrate); err != nil {
		return fmt.Errorf("migrate up: %w", err)
	}
	return nil
}

// Down takes the schema back to version; 0 removes everything, journal included. It tries again as Up does.
func Down(ctx context.Context, conn *pgx.Conn, version int32) error {
	m, err := migrator(ctx, conn)
	if err != nil {
		return err
	}
	migrateTo := func(ctx context.Context) error { return m.MigrateTo(ctx, version) }
	if err := untilLocked(ctx, migrateTo); err != nil {
		return fmt.Errorf("migrate down to %d: %w", version, err)
	}
	return nil
}

// untilLocked calls run again for as long as it fails because others hold what it has to lock.
func untilLocked(ctx context.Context, run func(context.Context) error) error {
	for try := 1; ; try++ {
		err := run(ctx)
		var pgErr *pgconn.PgError
		const lockNotAvailable, deadlock = "55P03", "40P01"
		if !errors.As(err, &pgErr) || pgErr.Code != lockNotAvailable && pgErr.Code != deadlock || try == lockTries {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return err
		}
	}
}

// Latest is the number of the newest migration that this program knows.
func Latest() int32 {
	files, err := migrate.FindMigrations(Files)
	if err != nil {
		panic(err) // the files are embedded: a wrong name cannot pass the tests
	}
	return int32(len(files))
}

// Status reads the version. It changes nothing.
func Status(ctx context.Context, conn *pgx.Conn) (Version, error) {
	v := Version{Latest: Latest()}
	const current = `SELECT max(version), coalesce(bool_and(additive) FILTER (WHERE version > $1), false) FROM topology_migrations`
	var n *int32
	err := conn.QueryRow(ctx, current, v.Latest).Scan(&n, &v.Additive)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42P01" { // undefined_table
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("read the schema's version: %w", err)
	}
	if n != nil {
		v.Current = *n
	}
	return v, nil
}

// Check returns nil when this program can work on the database's schema: it is the same version, or newer by
// additive migrations alone (then warn is a sentence for the log).
func Check(ctx context.Context, conn *pgx.Conn) (warn string, err error) {
	v, err := Status(ctx, conn)
	switch {
	case err != nil:
		return "", err
	case v.Current == 0:
		return "", ErrMissing
	case v.Current < v.Latest:
		return "", fmt.Errorf("%w (it is at %d, the program knows %d)", ErrOlder, v.Current, v.Latest)
	case v.Current > v.Latest && !v.Additive:
		return "", fmt.Errorf("%w (it is at %d, the program knows %d)", ErrNewer, v.Current, v.Latest)
	case v.Current > v.Latest:
		return fmt.Sprintf("the database's schema is at %d, this program knows %d; the migrations between are additive",
			v.Current, v.Latest), nil
	}
	return "", nil
}

func migrator(ctx context.Context, conn *pgx.Conn) (*migrate.Migrator, error) {
	var schema string
	const current = `SELECT quote_ident(current_schema())`
	if err := conn.QueryRow(ctx, current).Scan(&schema); err != nil {
		return nil, fmt.Errorf("find the schema to migrate (does the search_path name one that exists?): %w", err)
	}
	m, err := migrate.NewMigrator(ctx, conn, schema+".topology_schema_version")
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	m.Data["schema"] = schema
	if err := m.LoadMigrations(Files); err != nil {
		return nil, fmt.Errorf("load migrations: %w", err)
	}
	return m, nil
}
