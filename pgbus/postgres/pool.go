package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// pingTimeout is how long an idle connection may take to show that it lives before another one is opened.
	pingTimeout = 2 * time.Second
	// LeastConns is the smallest pool: REST takes up to a third of it, pages for clients that are behind two, documents
	// two, the list of topologies one, and live reads find one whatever the others do.
	LeastConns = 10
)

// NewPool opens a pool that leads to the primary. It connects lazily; url is a PostgreSQL connection string. Changes
// are made before the rest is set.
func NewPool(ctx context.Context, url string, changes ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	return newPool(ctx, url, append(changes, func(cfg *pgxpool.Config) {
		cfg.AfterConnect = Prepare
		toPrimary(cfg.ConnConfig)
	}))
}

// NewReplicaPool opens a pool to read from a standby, which may be promoted one day. Changes are made as in NewPool.
func NewReplicaPool(ctx context.Context, url string, changes ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	return newPool(ctx, url, append(changes, func(cfg *pgxpool.Config) {
		cfg.AfterConnect = speak
	}))
}

func newPool(ctx context.Context, url string, changes []func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	cfg, err := parsePool(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	cfg.MaxConns = max(cfg.MaxConns, LeastConns)
	for _, change := range changes {
		change(cfg)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.PingTimeout = pingTimeout
	Name(cfg.ConnConfig, "topostream")
	withoutNamedStatements(cfg.ConnConfig)
	cfg.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		conn.Password = Fresh(conn).Password
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the pool: %w", err)
	}
	return pool, nil
}
