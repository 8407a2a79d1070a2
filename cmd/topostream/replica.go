package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// oldestReplica is the first PostgreSQL whose standbys decode their WAL.
const oldestReplica = 160000

// replica opens the pool of --replica-database-url; nil without one. Fail fast: what it leads to must be good for
// streams.
func (c *serveCmd) replica(
	ctx context.Context, log *slog.Logger, changes ...func(*pgxpool.Config),
) (*pgxpool.Pool, error) {
	const facts = `SELECT current_setting('server_version_num')::int, current_setting('wal_level'), pg_is_in_recovery()`
	if c.ReplicaDatabaseURL == "" {
		return nil, nil //nolint:nilnil // no standby is no error
	}
	pool, err := postgres.NewReplicaPool(ctx, c.ReplicaDatabaseURL, changes...)
	if err != nil {
		// Without the reason, which may quote the password.
		return nil, errors.New("--replica-database-url cannot be read: write postgres://user:password@host:5432/name")
	}
	var (
		version int
		level   string
		standby bool
	)
	acquire := func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		return conn.Hijack(), nil
	}
	err = startup{connect: acquire, log: log.With("of", "--replica-database-url"), again: always}.do(ctx,
		func(conn *pgx.Conn) error { return conn.QueryRow(ctx, facts).Scan(&version, &level, &standby) })
	switch {
	case err != nil:
		// Not wrapped: explain would name --database-url.
		err = fmt.Errorf("--replica-database-url: %s: correct it, or leave it out", oneLine(err.Error()))
	case version < oldestReplica && standby:
		err = fmt.Errorf(
			"--replica-database-url leads to PostgreSQL %d, whose standbys cannot decode their WAL: use 16 or newer, or leave "+
				"it out",
			version/10000,
		)
	case level != "logical" && c.Bus != setting.Poll:
		err = fmt.Errorf(
			"--replica-database-url: wal_level is %s there: set it to logical on both servers and restart them, or use --bus "+
				"poll",
			level,
		)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}
