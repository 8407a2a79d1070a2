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
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"
)

// Files are the migrations.
//
//go:embed *.sql
var Files embed.FS

// Errors of Check. Their sentences, or what Check adds to them, say what to do.
var (
	ErrMissing = errors.New("the database has no topostream schema: run `topostream migrate up`")
	ErrOlder   = errors.New("the database's schema is older than this program: run `topostream migrate up`")
	ErrNewer   = errors.New("the database's schema is newer than this program: upgrade topostream")
	ErrHidden  = errors.New("the database hides its rows")
	ErrMixed   = errors.New("the search path leads to tables that are none of this installation's")
	ErrSilent  = errors.New("what is written with this role makes no events")
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
	lockTimeout = "SET LOCAL lock_timeout = '1s';\n"
	lockTries   = 30
	lockPause   = time.Second
)

// ErrElsewhere says that Up would make an installation beside another one.
var ErrElsewhere = errors.New("this database has a topostream schema already")

// Up brings the database to the newest version. Migrations run in the schema of the search path that has been migrated
// before, in a fresh database in the path's first, each in a transaction; several programs may call it at once (tern
// takes an advisory lock). While others hold the tables it tries again, for about a minute. Where only a schema that
// the path does not name has been migrated, Up gives ErrElsewhere and makes nothing: nobody expects a second, empty
// installation.
func Up(ctx context.Context, conn *pgx.Conn) error { return up(ctx, conn, false) }

// UpBeside is Up without ErrElsewhere: it makes a second installation beside the other one.
func UpBeside(ctx context.Context, conn *pgx.Conn) error { return up(ctx, conn, true) }

func up(ctx context.Context, conn *pgx.Conn, beside bool) error {
	p, err := find(ctx, conn)
	if err != nil {
		return err
	}
	if !p.migrated && p.elsewhere != "" && !beside {
		return fmt.Errorf("%w, in %s, which the search path of this connection (%s) does not name: "+
			"put it into the path (ALTER ROLE … SET search_path), or make another installation beside it with "+
			"`topostream migrate up --beside`", ErrElsewhere, p.elsewhere, p.path)
	}
	m, err := migrator(ctx, conn, p.schema)
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
	p, err := find(ctx, conn)
	if err != nil {
		return err
	}
	m, err := migrator(ctx, conn, p.schema)
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
	const current = `
SELECT max(version), coalesce(bool_and(additive) FILTER (WHERE version > $1), false) FROM topology_migrations`
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
		warn = fmt.Sprintf("the database's schema is at %d, this program knows %d; the migrations between are additive",
			v.Current, v.Latest)
	}
	if err := usable(ctx, conn); err != nil {
		return warn, err
	}
	hidden, all, err := Hidden(ctx, conn)
	switch {
	case err != nil:
		return warn, err
	case all:
		return warn, fmt.Errorf("%w: %s", ErrHidden, hidden)
	case hidden != "" && warn != "":
		warn += "; "
	}
	return warn + hidden, nil
}

// A place is where a connection finds our tables, or would make them.
type place struct {
	path      string // the search path, as it is set
	schema    string // quoted, as the next one
	migrated  bool
	elsewhere string // other schemas that have been migrated
}

func find(ctx context.Context, conn *pgx.Conn) (p place, _ error) {
	const query = `
SELECT current_setting('search_path'), quote_ident(coalesce(here.nspname, current_schema())), here.nspname IS NOT NULL,
       (SELECT coalesce(string_agg(quote_ident(n.nspname), ', ' ORDER BY n.nspname), '')
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname = 'topology_migrations' AND c.relkind = 'r' AND n.nspname IS DISTINCT FROM here.nspname)
  FROM (SELECT) one LEFT JOIN (pg_class t JOIN pg_namespace here ON here.oid = t.relnamespace)
    ON t.oid = to_regclass('topology_migrations')`
	var schema *string
	if err := conn.QueryRow(ctx, query).Scan(&p.path, &schema, &p.migrated, &p.elsewhere); err != nil {
		return p, fmt.Errorf("find the schema to migrate: %w", err)
	}
	if schema == nil {
		return p, fmt.Errorf("the search path (%s) names no schema that exists and that this role may use: create one, "+
			"or set another path", p.path)
	}
	p.schema = *schema
	return p, nil
}

func migrator(ctx context.Context, conn *pgx.Conn, schema string) (*migrate.Migrator, error) {
	for _, tag := range []string{"$f$", "$q$", "$do$", "$old$", "$new$"} { // what functions are quoted with
		if strings.Contains(schema, tag) {
			return nil, fmt.Errorf("the schema %s has %s in its name, which migrations cannot be run in: choose another",
				schema, tag)
		}
	}
	m, err := migrate.NewMigrator(ctx, conn, schema+".topology_schema_version")
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	// Within a string literal the quotes in the schema's name are doubled; in a literal for format() its percent signs
	// are, too.
	literal := strings.ReplaceAll(schema, "'", "''")
	m.Data["schema"], m.Data["literal"] = schema, literal
	m.Data["format"] = strings.ReplaceAll(literal, "%", "%%")
	if err := m.LoadMigrations(Files); err != nil {
		return nil, fmt.Errorf("load migrations: %w", err)
	}
	for _, one := range m.Migrations {
		one.UpSQL = lockTimeout + one.UpSQL
		if one.DownSQL != "" { // an empty one stays empty: tern then says that there is no way back
			one.DownSQL = lockTimeout + one.DownSQL
		}
	}
	return m, nil
}
