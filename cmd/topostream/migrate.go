package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus"
	"topostream/sql"
)

type migrateCmd struct {
	Up       migrateUp       `cmd:"" help:"Bring the schema to the newest version."`
	Down     migrateDown     `cmd:"" help:"Take the schema back by one version, or to the version --to. Version 0 is an empty database: all topologies and the journal are gone."`
	Status   migrateStatus   `cmd:"" help:"Say which version the schema has."`
	NewEpoch migrateNewEpoch `cmd:"" help:"Begin a new history: whoever resumes gets a snapshot. For after a restore that the servers cannot notice."`
	Repair   migrateRepair   `cmd:"" help:"Make heads that are missing and count anew what is in flight, for rows that came or changed while triggers were off."`
}

type migrateUp struct {
	database

	Beside bool `help:"Make an installation of its own in this search path, beside one that another schema of the database has."`
}

// Run may be cut off at any point and begun again: each migration records itself in its own transaction.
func (c *migrateUp) Run(ctx context.Context, o output) error {
	start := startup{connect: c.connect, log: newLogger(o.err, "text", slog.LevelInfo), again: within(commandPatience)}
	return start.do(ctx, func(conn *pgx.Conn) error {
		up := sql.Up
		if c.Beside {
			up = sql.UpBeside
		}
		if err := up(ctx, conn); err != nil {
			return err
		}
		return printVersion(ctx, conn, o)
	})
}

type migrateDown struct {
	database

	To *int32 `help:"The version to go back to. Default: the one before." placeholder:"VERSION"`
}

func (c *migrateDown) Run(ctx context.Context, o output) error {
	return c.with(ctx, func(conn *pgx.Conn) error {
		v, err := sql.Status(ctx, conn)
		if err != nil {
			return err
		}
		to := v.Current - 1
		if c.To != nil {
			to = *c.To
		}
		switch {
		case v.Current == 0:
			return errors.New("the database has no topostream schema: there is nothing to take back")
		case v.Current > v.Latest:
			return fmt.Errorf("%w: only the program that knows version %d can take it back", sql.ErrNewer, v.Current)
		case to < 0 || to >= v.Current:
			return fmt.Errorf("--to: %d is not below the schema's version, %d", to, v.Current)
		}
		if err := sql.Down(ctx, conn, to); err != nil {
			return err
		}
		return printVersion(ctx, conn, o)
	})
}

type migrateStatus struct{ database }

func (c *migrateStatus) Run(ctx context.Context, o output) error {
	return c.with(ctx, func(conn *pgx.Conn) error {
		if err := printVersion(ctx, conn, o); err != nil {
			return err
		}
		return printAdvice(ctx, conn, o)
	})
}

func printVersion(ctx context.Context, conn *pgx.Conn, o output) error {
	v, err := sql.Status(ctx, conn)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.out, "schema at version %d; this program knows %d\n", v.Current, v.Latest)
	return nil
}

// printAdvice says what is to be done about another version than the program's own. It is no failure.
func printAdvice(ctx context.Context, conn *pgx.Conn, o output) error {
	warn, err := sql.Check(ctx, conn)
	switch {
	case errors.Is(err, sql.ErrMissing), errors.Is(err, sql.ErrOlder), errors.Is(err, sql.ErrNewer):
		fmt.Fprintln(o.out, err)
		return nil
	case warn != "":
		fmt.Fprintln(o.out, warn)
	}
	return err
}

type migrateRepair struct{ database }

func (c *migrateRepair) Run(ctx context.Context, o output) error {
	return c.withSchema(ctx, o, true, func(conn *pgx.Conn) error {
		n, err := pgbus.Repair(ctx, conn)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.out, "%d heads repaired\n", n)
		if n > 0 {
			fmt.Fprintln(o.out, "clients that were open meanwhile know nothing of it: `topostream migrate new-epoch` gives "+
				"them snapshots")
		}
		return nil
	})
}

type migrateNewEpoch struct{ database }

func (c *migrateNewEpoch) Run(ctx context.Context, o output) error {
	return c.withSchema(ctx, o, true, func(conn *pgx.Conn) error {
		epoch, err := pgbus.NewEpoch(ctx, conn)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.out, "epoch %d\n", epoch)
		return nil
	})
}
