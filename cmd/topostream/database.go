package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/sql"
)

// database is the flag that every command that goes to PostgreSQL has.
type database struct {
	DatabaseURL string `required:"" env:"TOPOSTREAM_DATABASE_URL,DATABASE_URL" help:"PostgreSQL connection string, for example postgres://user:password@host:5432/name." placeholder:"URL"`
}

// connect opens a connection of its own. The error of a connection string that cannot be read names the flag.
func (d database) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := postgres.Parse(d.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("--database-url: %w", err)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = startTimeout
	}
	return postgres.Connect(ctx, cfg)
}

// startTimeout is how long each host may take to let in a command that is being started: where the machine is busy
// with starting, that takes longer than later.
const startTimeout = 10 * time.Second

// with runs f on a connection of its own.
func (d database) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

// withSchema is with for a database whose schema this program knows, and prints what there is to say about its version.
// newerToo lets a newer one pass that this program does not know.
func (d database) withSchema(ctx context.Context, o output, newerToo bool, f func(*pgx.Conn) error) error {
	return d.with(ctx, func(conn *pgx.Conn) error {
		warn, err := sql.Check(ctx, conn)
		if err != nil && (!newerToo || !errors.Is(err, sql.ErrNewer)) {
			return err
		}
		if warn != "" {
			fmt.Fprintln(o.err, "topostream:", warn)
		}
		return f(conn)
	})
}
