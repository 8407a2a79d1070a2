package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/setting"
	"topostream/sql"
)

// journal is no bus: the triggers write the journal, and nobody reads it.
const journal = "journal alone"

// A place is a database of the run's own, migrated, with its topologies.
type place struct {
	url        string
	dir        string // for logs
	version    string
	topologies []string  // by name
	conn       *pgx.Conn // a superuser's
	undo       []func(context.Context) error
}

// openPlace makes a database on a server, or on a private cluster. The caller closes it.
func openPlace(ctx context.Context, cfg Config) (_ *place, err error) {
	p := &place{}
	defer func() {
		if err != nil {
			err = p.close(err)
		}
	}()
	if err := p.makeDir(); err != nil {
		return nil, err
	}
	server := cfg.DatabaseURL
	if server == "" {
		if server, err = p.startCluster(ctx); err != nil {
			return nil, err
		}
	}
	if err := p.createDatabase(ctx, server); err != nil {
		return nil, err
	}
	if p.conn, err = pgx.Connect(ctx, p.url); err != nil {
		return nil, err
	}
	p.undo = append(p.undo, p.conn.Close)
	if err := sql.Up(ctx, p.conn); err != nil {
		return nil, err
	}
	return p, p.makeTopologies(ctx, cfg.Topologies)
}

// close undoes what openPlace did, also when ctx has ended, and adds what went wrong to err.
func (p *place) close(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, undo := range slices.Backward(p.undo) {
		err = errors.Join(err, undo(ctx))
	}
	p.undo = nil
	return err
}

// makeDir makes the run's directory.
func (p *place) makeDir() (err error) {
	if p.dir, err = os.MkdirTemp("", "topobench-"); err != nil {
		return err
	}
	p.undo = append(p.undo, func(context.Context) error { return os.RemoveAll(p.dir) })
	if err := os.Chmod(p.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must go through it when we are root
		return err
	}
	p.dir, err = filepath.EvalSymlinks(p.dir)
	return err
}

// startCluster runs a cluster whose commits are durable, as PostgreSQL's own settings have it.
func (p *place) startCluster(ctx context.Context) (string, error) {
	binaries, err := pgcluster.Find(ctx)
	if err != nil {
		return "", err
	}
	cluster, err := pgcluster.Start(ctx, pgcluster.Config{Binaries: binaries, DataDir: filepath.Join(p.dir, "cluster"),
		Settings: map[string]string{
			"wal_level": "logical", "max_connections": "200", "shared_buffers": "256MB",
			"max_wal_size": "8GB", "checkpoint_timeout": "1h", // no checkpoint falls into one round and not into the next
		}})
	if err != nil {
		return "", err
	}
	p.undo = append(p.undo, func(ctx context.Context) error { return cluster.Stop(ctx, pgcluster.Fast) })
	return cluster.URL("postgres"), nil
}

func (p *place) createDatabase(ctx context.Context, server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return errors.New("--database-url: give it as postgres://user:password@host:port/database")
	}
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	p.undo = append(p.undo, conn.Close)
	if err := conn.QueryRow(ctx, `SHOW server_version`).Scan(&p.version); err != nil {
		return err
	}
	u.Path = fmt.Sprintf("/topobench_%d", time.Now().UnixNano())
	name := pgx.Identifier{u.Path[1:]}.Sanitize()
	if _, err := conn.Exec(ctx, `CREATE DATABASE `+name); err != nil {
		return fmt.Errorf("make a database for the run: %w", err)
	}
	p.undo = append(p.undo, func(ctx context.Context) error {
		return eventually(ctx, "the last replication slot to go", func() (bool, error) {
			_, err := conn.Exec(ctx, `DROP DATABASE `+name+` WITH (FORCE)`)
			// object_in_use: FORCE ends connections, and no slots
			if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55006" {
				return false, nil
			}
			return err == nil, err
		})
	})
	p.url = u.String()
	return nil
}

// makeTopologies makes n of them, bench-000001 and so on.
func (p *place) makeTopologies(ctx context.Context, n int) error {
	const insert = `
INSERT INTO topologies (name) SELECT 'bench-' || lpad(n::text, 6, '0') FROM generate_series(1, $1) n RETURNING id::text`
	rows, err := p.conn.Query(ctx, insert, n)
	if err != nil {
		return fmt.Errorf("make the topologies: %w", err)
	}
	if p.topologies, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return fmt.Errorf("make the topologies: %w", err)
	}
	// What the inserts left behind shall not be cleaned up in the middle of a round.
	_, err = p.conn.Exec(ctx, `VACUUM (ANALYZE) topologies, topology_heads, topology_events`)
	return err
}

// use has the triggers do what a bus needs: NOTIFY, or nothing but write the journal.
func (p *place) use(ctx context.Context, bus string) error {
	if bus == setting.Notify {
		return setting.Set(ctx, p.conn, setting.Notify)
	}
	return setting.Set(ctx, p.conn, setting.WAL)
}
