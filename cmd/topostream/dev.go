//go:build !nodev

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/sql"
	"topostream/stream"
	"topostream/stream/auth"
)

// withDev is the command dev, which the binaries of a release do not have: build tag nodev.
type withDev struct {
	Dev devCmd `cmd:"" help:"Everything in one process on a private PostgreSQL of its own: try it, develop against it."`
}

const firstStep = "Begin with `topostream dev`."

type devCmd struct {
	Addr    string `default:"127.0.0.1:8080" help:"Address to serve on."`
	DataDir string `type:"path" help:"Where the private PostgreSQL and its data live; it is made if need be. Default: ~/.local/share/topostream/dev, for root /var/lib/topostream/dev." placeholder:"DIR"`

	DownloadURL string `hidden:"" help:"Where PostgreSQL binaries come from when the machine has none."`
	DownloadDir string `hidden:"" type:"path" help:"Where they are kept. Default: topostream in the user's cache, /var/cache for root."`
}

const devTokenTTL = 30 * 24 * time.Hour

// Run starts a private PostgreSQL, migrates it, makes a demo topology and serves it.
func (c *devCmd) Run(ctx context.Context, o output) error {
	dir, err := c.dataDir()
	if err != nil {
		return err
	}
	if err := checkAddress(ctx, c.Addr); err != nil {
		return err
	}
	binaries, err := c.binaries(ctx, o.err)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.err, "starting a private PostgreSQL in %s …\n", dir)
	cluster, err := pgcluster.Start(ctx, pgcluster.Config{
		Binaries: binaries, DataDir: dir,
		Settings: map[string]string{"wal_level": "logical"}, // for topostream bus wal
	})
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if err := cluster.Stop(stop, pgcluster.Fast); err != nil {
			fmt.Fprintln(o.err, "topostream: stop PostgreSQL:", err)
		}
	}()
	log := newLogger(o.err, "text", slog.LevelInfo)
	databaseURL, id, err := prepareDemo(ctx, cluster, log)
	if err != nil {
		return err
	}
	secret, err := devSecret(filepath.Join(dir, "topostream-jwt-secret"))
	if err != nil {
		return err
	}
	token, err := auth.Sign(secret, auth.Claims{Subject: "dev", Role: stream.RoleAdmin, TTL: devTokenTTL}, time.Now())
	if err != nil {
		return err
	}
	serve := c.server(databaseURL, secret)
	serve.ready = func(addr string) {
		welcome(o.out, reachable(addr), id, token, psqlCommand(cluster), databaseURL)
	}
	running := func(ctx context.Context) error { return serve.Run(ctx, o) }
	return alongside(running, func(ctx context.Context) error { return keep(ctx, cluster, log) })(ctx)
}

// server is serve with the limits that it has by default, and a worker in it.
func (c *devCmd) server(databaseURL string, secret []byte) *serveCmd {
	return &serveCmd{
		database:          database{databaseURL},
		Addr:              c.Addr,
		JWTSecret:         string(secret),
		Keepalive:         15 * time.Second,
		WriteTimeout:      30 * time.Second,
		Drain:             time.Second,
		FeedMemory:        256 << 20,
		Retention:         24 * time.Hour,
		MutationRetention: defaultMutationRetention,
		MaxInFlight:       defaultMaxInFlight,
		MaxStreamsPerUser: defaultMaxStreamsPerUser,
		RateLimit:         defaultRateLimit,
		Mutator:           true,
	}
}

// keepTrying is for how long starting a PostgreSQL again that has ended by itself is tried: one that was killed leaves
// processes that notice only when they are done, and with them a block of memory that the next one will not share.
const keepTrying = 30 * time.Second

// keep starts PostgreSQL again when it ends by itself, until ctx ends or it cannot be started.
func keep(ctx context.Context, cluster *pgcluster.Cluster, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cluster.Ended():
		}
		log.Warn("PostgreSQL has ended by itself, and is started again", "its log", cluster.Log())
		if err := startAgain(ctx, cluster); err != nil && ctx.Err() == nil {
			return fmt.Errorf("PostgreSQL has ended by itself: %w", err)
		}
	}
}

func startAgain(ctx context.Context, cluster *pgcluster.Cluster) error {
	last := time.Now().Add(keepTrying)
	for {
		err := cluster.Restart(ctx, pgcluster.Fast)
		if err == nil || time.Now().After(last) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// checkAddress finds out that the address cannot be served on before PostgreSQL is started for nothing.
func checkAddress(ctx context.Context, addr string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return &listenError{"--addr", err}
	}
	return l.Close()
}

func welcome(w io.Writer, addr string, id stream.TopologyID, token, psql, databaseURL string) {
	install := ""
	if psql == plainPsql {
		install = "There is no psql on this machine yet: install it, for example `apt-get install postgresql-client`.\n"
	}
	//nolint:dupword // a label and its command
	fmt.Fprintf(w, `
The topology "demo" is %[2]s.

  Console  http://%[1]s/#token=%[3]s&topology=%[2]s
  curl     curl -N -H 'Authorization: Bearer %[3]s' http://%[1]s/api/v1/topologies/%[2]s/events
  psql     %[4]s '%[5]s' -c "SELECT topology_emit(id, 'hello', jsonb_build_object('from', 'psql')) FROM topologies WHERE name = 'demo'"

%[6]sOpen the console, type the psql line in a second terminal and see the event arrive.
Ctrl-C ends everything; the data stays.
`, addr, id, token, psql, databaseURL, install)
}

const plainPsql = "psql"

// psqlCommand is psql as a shell takes it. A downloaded PostgreSQL has none.
func psqlCommand(cluster *pgcluster.Cluster) string {
	path := cluster.Psql()
	if _, err := os.Stat(path); err != nil {
		return plainPsql
	}
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._-@+", r)
	}
	if strings.TrimFunc(path, plain) != "" {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

func (c *devCmd) dataDir() (string, error) {
	if c.DataDir != "" {
		return filepath.Abs(c.DataDir)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/topostream/dev", nil // root's home is closed to the user that PostgreSQL runs as
	}
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "topostream", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home directory: give --data-dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "topostream", "dev"), nil
}

func (c *devCmd) binaries(ctx context.Context, progress io.Writer) (pgcluster.Binaries, error) {
	b, err := pgcluster.Find(ctx)
	if errors.Is(err, pgcluster.ErrNoBinaries) {
		return pgcluster.Download(ctx,
			pgcluster.DownloadConfig{URL: c.DownloadURL, CacheDir: c.DownloadDir, Progress: progress})
	}
	return b, err
}

// prepareDemo makes the database topostream with the newest schema and an active topology demo in it. What is there
// already stays, so that it may be cut off at any point and begun again.
func prepareDemo(ctx context.Context, cluster *pgcluster.Cluster, log *slog.Logger) (
	databaseURL string, id stream.TopologyID, err error,
) {
	of := func(name string) startup {
		connect := func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, cluster.URL(name)) }
		return startup{connect: connect, log: log, again: within(commandPatience)}
	}
	if err := of("postgres").do(ctx, func(conn *pgx.Conn) error { return createDemoDatabase(ctx, conn) }); err != nil {
		return "", "", err
	}
	err = of("topostream").do(ctx, func(conn *pgx.Conn) error {
		if err := sql.Up(ctx, conn); err != nil {
			return err
		}
		id, err = demoTopology(ctx, conn)
		return err
	})
	return cluster.URL("topostream"), id, err
}

func createDemoDatabase(ctx context.Context, admin *pgx.Conn) error {
	const (
		exists = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'topostream')`
		create = `CREATE DATABASE topostream`
	)
	var there bool
	if err := admin.QueryRow(ctx, exists).Scan(&there); err != nil || there {
		return err
	}
	if _, err := admin.Exec(ctx, create); err != nil {
		return fmt.Errorf("create the database topostream: %w", err)
	}
	return nil
}

func demoTopology(ctx context.Context, conn *pgx.Conn) (id stream.TopologyID, err error) {
	const (
		insert = `INSERT INTO topologies (name) SELECT 'demo' WHERE NOT EXISTS (SELECT FROM topologies WHERE name = 'demo')`
		deploy = `UPDATE topologies SET status = 'deploying' WHERE name = 'demo' AND status = 'pending'`
		active = `UPDATE topologies SET status = 'active' WHERE name = 'demo' AND status = 'deploying'`
		demo   = `SELECT id::text FROM topologies WHERE name = 'demo'`
	)
	for _, statement := range []string{insert, deploy, active} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("make the demo topology: %w", err)
		}
	}
	if err := conn.QueryRow(ctx, demo).Scan(&id); err != nil {
		return "", fmt.Errorf("find the demo topology: %w", err)
	}
	return id, nil
}

// devSecret reads the secret of earlier starts, so that yesterday's console address still works, or makes one.
func devSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return b, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	raw := make([]byte, 48)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	secret := []byte(base64.RawURLEncoding.EncodeToString(raw))
	// Whole or not there: half a secret would be refused at each start from now on.
	making := path + ".making"
	if err := os.WriteFile(making, secret, 0o600); err != nil {
		return nil, fmt.Errorf("keep the secret: %w", err)
	}
	if err := os.Rename(making, path); err != nil {
		return nil, fmt.Errorf("keep the secret: %w", err)
	}
	return secret, nil
}
