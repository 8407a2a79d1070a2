package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrStandby means that a connection leads to a standby where a primary is needed: it may be behind what clients have.
var ErrStandby = errors.New("this server is a standby, which may be behind: name the primary, " +
	"or all hosts with target_session_attrs=read-write")

// connectTimeout is how long one host of a connection string may take to let us in. A host that has lost its network
// never answers, and must leave time for the next one.
const connectTimeout = 4 * time.Second

// closeTimeout is how long a connection may take to say goodbye.
const closeTimeout = time.Second

// Connect opens a connection outside a pool, fit for a transaction pooler, to the first host that will do
// (host1,host2 with target_session_attrs). It returns after 4 s for each host at the latest, and 4 s more for their
// names.
func Connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg, patience := Primary(Fresh(cfg))
	withoutNamedStatements(cfg)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := speak(ctx, conn); err != nil {
		Close(conn)
		return nil, err
	}
	return conn, nil
}

// Close ends a connection. It waits a second at most: the connection is gone either way.
func Close(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // see above
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

// toPrimary has a connection string of several hosts lead to the one that takes writes, unless it chooses by
// target_session_attrs, and gives the number of hosts.
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

// Name says in pg_stat_activity what a connection is for, unless the connection string does.
func Name(cfg *pgx.ConnConfig, name string) {
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = name
	}
}

// The names of the connections that LISTEN.
const (
	ServerListens = "topostream listen"
	WorkerListens = "topostream mutator listen"
)

// NameListen names a connection that LISTENs, whatever its connection string says: by this name the servers know the
// backend of one of theirs that has stopped, and `topostream bus` counts them.
func NameListen(cfg *pgx.ConnConfig, name string) { cfg.RuntimeParams["application_name"] = name }

// withoutNamedStatements makes a connection fit for a transaction pooler, where a prepared statement stays behind on a
// backend that others get, unless the connection string chooses a mode (default_query_exec_mode). In simple_protocol
// pgx writes parameters into the text, for which it wants two settings: as the session's own they outlive RESET ALL.
func withoutNamedStatements(cfg *pgx.ConnConfig) {
	switch cfg.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement: // pgx's own choice
		cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	case pgx.QueryExecModeSimpleProtocol:
		cfg.RuntimeParams["client_encoding"], cfg.RuntimeParams["standard_conforming_strings"] = "UTF8", "on"
	case pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe:
	}
}

// BeginLight begins a transaction for what must never wait long: it sees one moment, a lock that somebody else holds
// ends it after 500 ms, and no statement of it takes longer than 2 s.
const BeginLight = `BEGIN ISOLATION LEVEL REPEATABLE READ;
	SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '2s';`

// BeginHolding begins a transaction that holds what others wait for. It is READ COMMITTED, whatever the database's
// default is: at a stricter level whoever has written to one of its rows meanwhile would end it. PostgreSQL ends it by
// itself when its client, stopped or with its machine, stands still in it.
const BeginHolding = `BEGIN ISOLATION LEVEL READ COMMITTED;
	SET LOCAL idle_in_transaction_session_timeout = '10s';`

// Prepare is for every new connection that writes, or that streams are read on: it must lead to a primary.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT pg_is_in_recovery()`
	if err := speak(ctx, conn); err != nil {
		return err
	}
	var standby bool
	switch err := conn.QueryRow(ctx, query).Scan(&standby); {
	case err != nil:
		return fmt.Errorf("ask whether this is a primary: %w", err)
	case standby:
		return ErrStandby
	}
	return nil
}
