package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/sql"
)

type migrateCmd struct {
	Up       migrateUp       `cmd:"" help:"Bring the schema to the newest version."`
	Down     migrateDown     `cmd:"" help:"Take the schema back to a version. 0 removes all topologies and the journal."`
	Status   migrateStatus   `cmd:"" help:"Say which version the schema has."`
	NewEpoch migrateNewEpoch `cmd:"" help:"Begin a new history: whoever resumes gets a snapshot. For after a restore that the servers cannot notice."`
}

// database is the flag that every command that goes to PostgreSQL has.
type database struct {
	DatabaseURL string `required:"" env:"TOPOSTREAM_DATABASE_URL,DATABASE_URL" help:"PostgreSQL connection string, for example postgres://user:password@host:5432/name." placeholder:"URL"`
}

func (d database) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(d.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("--database-url: %w", err)
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// with runs f on a connection of its own.
func (d database) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

type migrateUp struct{ database }

func (c *migrateUp) Run(ctx context.Context, o output) error {
	return c.with(ctx, func(conn *pgx.Conn) error {
		if err := sql.Up(ctx, conn); err != nil {
			return err
		}
		return printVersion(ctx, conn, o)
	})
}

type migrateDown struct {
	database

	To int32 `required:"" help:"The version to go back to."`
}

func (c *migrateDown) Run(ctx context.Context, o output) error {
	return c.with(ctx, func(conn *pgx.Conn) error {
		if err := sql.Down(ctx, conn, c.To); err != nil {
			return err
		}
		return printVersion(ctx, conn, o)
	})
}

type migrateStatus struct{ database }

func (c *migrateStatus) Run(ctx context.Context, o output) error {
	return c.with(ctx, func(conn *pgx.Conn) error { return printVersion(ctx, conn, o) })
}

func printVersion(ctx context.Context, conn *pgx.Conn, o output) error {
	v, err := sql.Status(ctx, conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.out, "schema at version %d; this program knows %d\n", v.Current, v.Latest)
	return nil
}

type migrateNewEpoch struct{ database }

func (c *migrateNewEpoch) Run(ctx context.Context, o output) error {
	const newEpoch = `SELECT topology_new_epoch()`
	return c.with(ctx, func(conn *pgx.Conn) error {
		warn, err := sql.Check(ctx, conn)
		if err != nil && !errors.Is(err, sql.ErrNewer) {
			return err
		}
		if warn != "" {
			fmt.Fprintln(o.err, "topostream:", warn)
		}
		var epoch int64
		if err := conn.QueryRow(ctx, newEpoch).Scan(&epoch); err != nil {
			return fmt.Errorf("raise the epoch: %w", err)
		}
		fmt.Fprintf(o.out, "epoch %d\n", epoch)
		return nil
	})
}
