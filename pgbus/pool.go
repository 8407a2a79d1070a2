package pgbus

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/wal"
)

// checkEpoch has the database compare its identity with the one it remembers. It runs on every new connection, before anything is
// read on it: after a failover or a restore no journal read may continue another history.
func checkEpoch(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT topology_check_epoch()`
	var epoch int64
	if err := conn.QueryRow(ctx, query).Scan(&epoch); err != nil {
		return fmt.Errorf("check the epoch: %w", err)
	}
	return nil
}

// prepareConn is for every new connection that events are read on.
func prepareConn(ctx context.Context, conn *pgx.Conn) error {
	if err := wal.UseUTF8(ctx, conn.PgConn()); err != nil {
		return err
	}
	return checkEpoch(ctx, conn)
}

// nameConn says in pg_stat_activity what a connection is for, unless the connection string does.
func nameConn(cfg *pgx.ConnConfig, name string) {
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = name
	}
}

// WithoutNamedStatements makes a connection fit for a transaction pooler, where a prepared statement stays behind on a backend that others get,
// unless the connection string chooses a mode (default_query_exec_mode).
func WithoutNamedStatements(cfg *pgx.ConnConfig) {
	if cfg.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement { // pgx's own choice
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
}

// NewPool opens the pool that a Bus reads with. It connects lazily; url is a PostgreSQL connection string. Changes are made before the rest is set.
func NewPool(ctx context.Context, url string, changes ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	for _, change := range changes {
		change(cfg)
	}
	cfg.AfterConnect = prepareConn
	cfg.ConnConfig.ConnectTimeout = 4 * time.Second
	cfg.MaxConns = max(cfg.MaxConns, 8)
	nameConn(cfg.ConnConfig, "topostream")
	WithoutNamedStatements(cfg.ConnConfig)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the pool: %w", err)
	}
	return pool, nil
}
