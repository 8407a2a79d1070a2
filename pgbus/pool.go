package pgbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/wal"
)

// errStandby: a standby may be behind what clients have, and what is promoted later keeps connections that never compared the epoch.
var errStandby = errors.New("this server is a standby, which may be behind: name the primary, or all hosts with target_session_attrs=read-write")

// checkEpoch has the database compare its identity with the one it remembers. It runs on every new connection, before anything is
// read on it: after a failover or a restore no journal read may continue another history.
func checkEpoch(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT pg_is_in_recovery(), topology_check_epoch()`
	var (
		standby bool
		epoch   int64
	)
	switch err := conn.QueryRow(ctx, query).Scan(&standby, &epoch); {
	case err != nil:
		return fmt.Errorf("check the epoch: %w", err)
	case standby:
		return errStandby
	}
	return nil
}

// checkHistory is checkEpoch for a standby that is meant to be one.
func checkHistory(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT topology_check_epoch()`
	if _, err := conn.Exec(ctx, query); err != nil {
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

// connectTimeout is how long one host of a connection string may take to let us in: one that has lost its network refuses nothing and answers nothing, and the time
// that it takes is not the next one's.
const connectTimeout = 4 * time.Second

// pingTimeout is how long an idle connection may take to show that it lives before another one is opened.
const pingTimeout = 2 * time.Second

// Connect opens a connection outside a pool, fit for a transaction pooler, to the first host that will do (host1,host2 with target_session_attrs). It returns after 4 s
// for each host at the latest, and 4 s more for their names.
func Connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg, patience := Primary(cfg)
	WithoutNamedStatements(cfg)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return pgx.ConnectConfig(ctx, cfg)
}

// Primary gives a copy of cfg that leads to the one of several hosts that takes writes, and how long that may take.
func Primary(cfg *pgx.ConnConfig) (to *pgx.ConnConfig, patience time.Duration) {
	to = cfg.Copy()
	hosts := toPrimary(to)
	if to.ConnectTimeout == 0 {
		to.ConnectTimeout = connectTimeout
	}
	return to, connectTimeout + time.Duration(hosts)*to.ConnectTimeout
}

// toPrimary has a connection string of several hosts lead to the one that takes writes, unless it chooses by target_session_attrs, and gives the number of hosts.
func toPrimary(cfg *pgx.ConnConfig) (hosts int) {
	type address struct {
		host string
		port uint16
	}
	addresses := map[address]struct{}{{cfg.Host, cfg.Port}: {}}
	for _, f := range cfg.Fallbacks { // one with TLS and one without are the same host
		addresses[address{f.Host, f.Port}] = struct{}{}
	}
	if len(addresses) > 1 && cfg.ValidateConnect == nil {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return len(addresses)
}

// NewPool opens the pool that a Bus reads with. It connects lazily; url is a PostgreSQL connection string. Changes are made before the rest is set.
func NewPool(ctx context.Context, url string, changes ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	return newPool(ctx, url, append(changes, func(cfg *pgxpool.Config) {
		cfg.AfterConnect = prepareConn
		toPrimary(cfg.ConnConfig)
	}))
}

// NewReplicaPool opens a pool to read from a standby.
func NewReplicaPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	return newPool(ctx, url, []func(*pgxpool.Config){func(cfg *pgxpool.Config) {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if err := wal.UseUTF8(ctx, conn.PgConn()); err != nil {
				return err
			}
			return checkHistory(ctx, conn)
		}
	}})
}

func newPool(ctx context.Context, url string, changes []func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	for _, change := range changes {
		change(cfg)
	}
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.PingTimeout = pingTimeout
	cfg.MaxConns = max(cfg.MaxConns, 8)
	nameConn(cfg.ConnConfig, "topostream")
	WithoutNamedStatements(cfg.ConnConfig)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open the pool: %w", err)
	}
	return pool, nil
}
