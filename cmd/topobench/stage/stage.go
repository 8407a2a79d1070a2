// Package stage is where a fault campaign plays: a PostgreSQL of its own, two or more `topostream serve` processes
// behind a balancer, each with its own path to the database, and a worker, all real processes on loopback. Whatever the
// stage opens, Close ends.
package stage

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"

	"topostream/cmd/topobench/proxy"
	"topostream/pgbus/pgcluster"
)

// Config says what Open puts on the stage. Zero values take the documented defaults.
type Config struct {
	PostgresBin string // directory of initdb; else what pgcluster.Find finds
	Topostream  string // the program; else it is built from the module that we are in; else the one in PATH
	Race        bool   // build it with -race
	Servers     int    // 2
	Bus         string // notify, wal (which the database is then told) or poll (which the servers are); notify
	Keep        bool   // leave the logs behind
	ServeArgs   []string
	Logger      *slog.Logger
}

// A Stage is what Open started.
type Stage struct {
	Postgres *pgcluster.Cluster
	Servers  []*Server
	Worker   *Worker
	Balancer *proxy.Balancer

	// Disks for the journal and for PostgreSQL's log; nil, and why, where there are none.
	JournalDisk, WALDisk *Disk
	NoDisk               error

	cfg       Config
	dir       string
	binary    string
	secret    []byte
	processes []*process
	proxies   []*proxy.Proxy
	client    *http.Client
}

// database is the name of the stage's database.
const database = "topostream"

// Buses.
const (
	notify = "notify"
	wal    = "wal"
	poll   = "poll"
)

// settings are those of a production cluster that is small. It can be restored from and followed: nothing is switched
// off that durability needs.
func settings(version int) map[string]string {
	s := map[string]string{
		"max_connections": "300", "shared_buffers": "128MB", "wal_level": "logical", "max_wal_size": "256MB",
		"min_wal_size":     "64MB",
		"deadlock_timeout": "500ms", "log_line_prefix": "%m [%p] %a ", "autovacuum_naptime": "10s",
	}
	if version >= 17 {
		s["max_notify_queue_pages"] = "256"
	}
	return s
}

// Open builds the stage. When it fails, nothing is left.
func Open(ctx context.Context, cfg Config) (_ *Stage, err error) {
	if cfg.Servers == 0 {
		cfg.Servers = 2
	}
	if cfg.Bus == "" {
		cfg.Bus = notify
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Stage{cfg: cfg, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []func(context.Context) error{s.makeDir, s.findProgram, s.startPostgres, s.migrate,
		s.startServers, s.startWorker} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("stage: %w", err)
		}
	}
	return s, nil
}

// makeDir makes the directory of everything. PostgreSQL's user must get through it to its own.
func (s *Stage) makeDir(context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "topobench-"); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // see above; the secrets in it are 0600
		return err
	}
	raw := make([]byte, 48)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	s.secret = []byte(base64.RawURLEncoding.EncodeToString(raw))
	return os.WriteFile(s.secretFile(), s.secret, 0o600)
}

func (s *Stage) secretFile() string { return filepath.Join(s.dir, "jwt-secret") }

func (s *Stage) findProgram(ctx context.Context) error {
	if s.cfg.Topostream != "" {
		path, err := exec.LookPath(s.cfg.Topostream)
		if err != nil {
			return fmt.Errorf("--topostream: %w", err)
		}
		s.binary, err = filepath.Abs(path)
		return err
	}
	s.binary = filepath.Join(s.dir, "topostream")
	args := []string{"build", "-o", s.binary}
	if s.cfg.Race {
		args = append(args, "-race")
	}
	s.cfg.Logger.Info("building topostream", "race", s.cfg.Race)
	out, err := exec.CommandContext(ctx, "go", append(args, "topostream/cmd/topostream")...).CombinedOutput()
	if err == nil {
		return nil
	}
	path, lookErr := exec.LookPath("topostream")
	if lookErr != nil || ctx.Err() != nil {
		return fmt.Errorf("topostream cannot be built here and is not in PATH: name it in --topostream: %w: %s", err,
			strings.TrimSpace(string(out)))
	}
	s.binary = path
	return nil
}

func (s *Stage) startPostgres(ctx context.Context) (err error) {
	var binaries pgcluster.Binaries
	if s.cfg.PostgresBin != "" {
		binaries, err = pgcluster.At(ctx, s.cfg.PostgresBin)
	} else {
		binaries, err = pgcluster.Find(ctx)
	}
	if err != nil {
		return err
	}
	cfg := pgcluster.Config{Binaries: binaries, DataDir: filepath.Join(s.dir, "postgres"),
		Settings: settings(binaries.Version)}
	if s.JournalDisk, s.NoDisk = mountDisk(s.journalDir()); s.NoDisk == nil {
		if s.WALDisk, err = mountDisk(filepath.Join(s.dir, "wal")); err != nil {
			return err
		}
		cfg.WALDir = filepath.Join(s.dir, "wal", "pg_wal")
	}
	s.cfg.Logger.Info("starting PostgreSQL", "version", binaries.Version)
	s.Postgres, err = pgcluster.Start(ctx, cfg)
	return err
}

func (s *Stage) journalDir() string { return filepath.Join(s.dir, "journal") }

// migrate makes the database with its schema, and the journal on a disk of its own.
func (s *Stage) migrate(ctx context.Context) error {
	err := s.sql(ctx, "postgres", `CREATE DATABASE `+database)
	if err != nil {
		return err
	}
	commands := [][]string{{"migrate", "up"}}
	if s.cfg.Bus == wal {
		commands = append(commands, []string{"bus", wal})
	}
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, s.binary, args...)
		cmd.Env = append(os.Environ(), "TOPOSTREAM_DATABASE_URL="+s.DatabaseURL())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("topostream %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	if s.JournalDisk == nil {
		return nil
	}
	if err := s.sql(ctx, "postgres", `CREATE TABLESPACE journal LOCATION '`+s.journalDir()+`'`); err != nil {
		return err
	}
	return s.sql(ctx, database,
		`ALTER TABLE topology_events SET TABLESPACE journal; ALTER INDEX topology_events_pkey SET TABLESPACE journal`)
}

func (s *Stage) sql(ctx context.Context, database, statement string) error {
	conn, err := pgx.Connect(ctx, s.Postgres.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// DatabaseURL is the straight way to the database, as its superuser; it holds the password.
func (s *Stage) DatabaseURL() string { return s.Postgres.URL(database) }

// URL is the balancer's address.
func (s *Stage) URL() string { return "http://" + s.Balancer.Addr() }

// Secret is the servers' JWT secret.
func (s *Stage) Secret() []byte { return s.secret }

// Token gives a token of role admin.
func (s *Stage) Token() (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "topobench", "role": "admin", "iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}).SignedString(s.secret)
}

// tokenLife is longer than any campaign: that a stream ends with its token is no fault.
const tokenLife = 12 * time.Hour

// databasePath opens a proxy to PostgreSQL and gives a connection string over it.
func (s *Stage) databasePath(ctx context.Context) (*proxy.Proxy, *proxy.Link, string, error) {
	straight, err := url.Parse(s.DatabaseURL())
	if err != nil {
		return nil, nil, "", err
	}
	target := proxy.Target{Addr: straight.Host, Link: proxy.NewLink()}
	p, err := proxy.Listen(ctx, func() []proxy.Target { return []proxy.Target{target} })
	if err != nil {
		return nil, nil, "", err
	}
	s.proxies = append(s.proxies, p)
	straight.Host = p.Addr()
	return p, target.Link, straight.String(), nil
}

// process makes what runs the program with its connection string in the environment, where other users do not see it.
func (s *Stage) process(name, databaseURL string, args ...string) *process {
	p := &process{
		name: name, binary: s.binary, args: args, logPath: filepath.Join(s.dir, name+".log"),
		env: []string{"TOPOSTREAM_DATABASE_URL=" + databaseURL, "GORACE=halt_on_error=0"},
	}
	s.processes = append(s.processes, p)
	return p
}

func (s *Stage) startServers(ctx context.Context) error {
	backends := make([]*proxy.Backend, 0, s.cfg.Servers)
	for i := range s.cfg.Servers {
		name := fmt.Sprintf("server-%d", i+1)
		p, link, databaseURL, err := s.databasePath(ctx)
		if err != nil {
			return err
		}
		args := append([]string{"serve", "--addr=127.0.0.1:0", "--jwt-secret-file=" + s.secretFile(),
			"--max-streams-per-user=0", "--drain=3s"}, s.cfg.ServeArgs...)
		if s.cfg.Bus == poll {
			args = append(args, "--bus="+poll)
		}
		server := &Server{Name: name, Backend: proxy.NewBackend(), Database: link, database: p,
			listens: s.cfg.Bus == notify, client: s.client, process: s.process(name, databaseURL, args...)}
		if err := server.Start(ctx); err != nil {
			return err
		}
		s.Servers = append(s.Servers, server)
		backends = append(backends, server.Backend)
	}
	var err error
	if s.Balancer, err = proxy.Balance(ctx, backends...); err != nil {
		return err
	}
	return s.AwaitReady(ctx)
}

func (s *Stage) startWorker(ctx context.Context) error {
	_, _, databaseURL, err := s.databasePath(ctx)
	if err != nil {
		return err
	}
	s.Worker = &Worker{Name: "worker", process: s.process("worker", databaseURL, "mutator", "--lease=5s",
		"--max-attempts=100")}
	return s.Worker.Start()
}

const readyEvery = 100 * time.Millisecond

// AwaitReady waits until every server is ready, LISTENs and gets connections from the balancer. When ctx ends first,
// the error says what is missing.
func (s *Stage) AwaitReady(ctx context.Context) error {
	ticker := time.NewTicker(readyEvery)
	defer ticker.Stop()
	for {
		missing := s.unready(ctx)
		if missing == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %w", missing, context.Cause(ctx))
		}
	}
}

func (s *Stage) unready(ctx context.Context) error {
	for _, server := range s.Servers {
		if err := server.Ready(ctx); err != nil {
			return err
		}
	}
	if up := s.Balancer.Up(); up < len(s.Servers) {
		return fmt.Errorf("the balancer leaves %d of %d servers out", len(s.Servers)-up, len(s.Servers))
	}
	return nil
}

// Dir is where logs are until Close.
func (s *Stage) Dir() string { return s.dir }

// Close ends everything. Its error says what did not end in order, and what logs tell of bugs; the logs are then kept.
func (s *Stage) Close(ctx context.Context) error {
	var errs []error
	for _, p := range s.processes {
		errs = append(errs, p.stop(syscall.SIGTERM))
	}
	if s.Balancer != nil {
		s.Balancer.Close()
	}
	for _, p := range s.proxies {
		p.Close()
	}
	for _, p := range s.processes {
		lines, err := p.alarms()
		errs = append(errs, err)
		for _, line := range lines {
			errs = append(errs, fmt.Errorf("a log tells of a bug: %s", line))
		}
	}
	if s.Postgres != nil {
		stop, cancel := context.WithTimeout(ctx, stopPatience)
		defer cancel()
		s.Postgres.Thaw()
		errs = append(errs, s.Postgres.Stop(stop, pgcluster.Immediate))
	}
	for _, d := range []*Disk{s.JournalDisk, s.WALDisk} {
		if d != nil {
			errs = append(errs, d.unmount())
		}
	}
	s.client.CloseIdleConnections()
	err := errors.Join(errs...)
	if s.dir == "" {
		return err
	}
	if err != nil || s.cfg.Keep {
		s.cfg.Logger.Warn("the logs are kept", "dir", s.dir)
		return errors.Join(err, os.RemoveAll(filepath.Join(s.dir, "postgres", "data")), os.RemoveAll(s.secretFile()))
	}
	return os.RemoveAll(s.dir)
}
