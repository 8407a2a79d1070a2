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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/process"
	"topostream/harness/proxy"
	"topostream/harness/token"
	"topostream/pgbus/pgcluster"
)

// Config says what Open puts on the stage. Zero values take the documented defaults.
type Config struct {
	PostgresBin string // directory of initdb; else what pgcluster.Find finds
	Topostream  string // the program; else it is built from the module that we are in; else the one in PATH
	Before      string // the version before it: the stage begins with that one, until Upgrade
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

	// Disks for the journal and for the WAL; where there are none they are nil, and NoDisk says why.
	JournalDisk, WALDisk *Disk
	NoDisk               error

	cfg       Config
	dir       string
	binary    string // of the servers, workers and commands that are started from now on
	upgrade   string // what takes its place at Upgrade; empty: nothing
	issuer    token.Issuer
	nodes     []*node // the primary, and a standby
	made      int     // number of nodes made so far
	started   int     // number of servers started so far
	addresses addresses
	checker   path // the checker's own way to the database
	processes []*process.Process
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
	for _, step := range []func(context.Context) error{s.makeDir, s.findProgram,
		s.findVersionBefore, s.startPostgres, s.migrate, s.startServers, s.startWorker} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("stage: %w", err)
		}
	}
	return s, nil
}

// makeDir makes the directory of everything. PostgreSQL's user must get through it to its own.
func (s *Stage) makeDir(context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "topostream-stage-"); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // see above; the secrets in it are 0600
		return err
	}
	raw := make([]byte, 48)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	s.issuer = []byte(base64.RawURLEncoding.EncodeToString(raw))
	return os.WriteFile(s.secretFile(), s.issuer, 0o600)
}

func (s *Stage) secretFile() string { return filepath.Join(s.dir, "jwt-secret") }

func (s *Stage) findProgram(ctx context.Context) (err error) {
	if s.cfg.Topostream != "" {
		path, err := exec.LookPath(s.cfg.Topostream)
		if err != nil {
			return fmt.Errorf("--topostream: %w", err)
		}
		s.binary, err = filepath.Abs(path)
		return err
	}
	var flags []string
	if s.cfg.Race {
		flags = []string{"-race"}
	}
	s.cfg.Logger.Info("building topostream", "race", s.cfg.Race)
	s.binary, err = process.Build(ctx, "", s.dir, "topostream", flags...)
	if err == nil {
		return nil
	}
	path, lookErr := exec.LookPath("topostream")
	if lookErr != nil || ctx.Err() != nil {
		return fmt.Errorf("topostream cannot be built here and is not in PATH: name it in --topostream: %w", err)
	}
	s.binary = path
	return nil
}

// findVersionBefore finds the program that the stage begins with.
func (s *Stage) findVersionBefore(context.Context) error {
	if s.cfg.Before == "" {
		return nil
	}
	before, err := filepath.Abs(s.cfg.Before)
	s.binary, s.upgrade = before, s.binary
	return err
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
	n, err := s.newNode()
	if err != nil {
		return err
	}
	cfg := pgcluster.Config{Binaries: binaries, DataDir: filepath.Join(n.dir, "data"),
		Settings: settings(binaries.Version)}
	if n.wal != nil {
		cfg.WALDir = n.walDir()
	}
	s.cfg.Logger.Info("starting PostgreSQL", "version", binaries.Version)
	if n.Cluster, err = pgcluster.Start(ctx, cfg); err != nil {
		return err
	}
	s.lead(n)
	for _, a := range []*address{&s.addresses.checker, &s.addresses.primary, &s.addresses.hosts[0]} {
		a.leadTo(n)
	}
	s.checker, err = s.openPath(ctx, "", &s.addresses.checker)
	return err
}

// migrate makes the database with its schema, and the journal on a disk of its own.
func (s *Stage) migrate(ctx context.Context) error {
	err := s.sql(ctx, "postgres", `CREATE DATABASE `+database)
	if err != nil {
		return err
	}
	if err := s.command(ctx, "migrate", "up"); err != nil {
		return err
	}
	if s.cfg.Bus == wal {
		if err := s.command(ctx, "bus", wal); err != nil {
			return err
		}
	}
	if s.JournalDisk == nil {
		return nil
	}
	if err := s.sql(ctx, "postgres", `CREATE TABLESPACE journal LOCATION '`+s.nodes[0].journalDir()+`'`); err != nil {
		return err
	}
	return s.sql(ctx, database,
		`ALTER TABLE topology_events SET TABLESPACE journal; ALTER INDEX topology_events_pkey SET TABLESPACE journal`)
}

// command runs one of the program's own commands.
func (s *Stage) command(ctx context.Context, args ...string) error {
	if out, err := s.program(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("topostream %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *Stage) program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env = append(os.Environ(), "TOPOSTREAM_DATABASE_URL="+s.DatabaseURL())
	return cmd
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

// DatabaseURL is the checker's way to the database, as its superuser; it holds the password. No fault breaks this way,
// and it leads to wherever a promotion has brought the database.
func (s *Stage) DatabaseURL() string { return s.checker.url }

// URL is the balancer's address.
func (s *Stage) URL() string { return "http://" + s.Balancer.Addr() }

// Polls tells whether the servers poll, and have no LISTEN connection.
func (s *Stage) Polls() bool { return s.cfg.Bus == poll }

// Issuer signs tokens that the servers take.
func (s *Stage) Issuer() token.Issuer { return s.issuer }

// process makes what runs the program with its connection string in the environment, where other users do not see it.
func (s *Stage) process(name, databaseURL string, args ...string) *process.Process {
	p := &process.Process{
		Name: name, Binary: s.binary, Args: args, LogPath: filepath.Join(s.dir, name+".log"),
		Env: []string{"TOPOSTREAM_DATABASE_URL=" + databaseURL, "GORACE=halt_on_error=0"},
	}
	s.processes = append(s.processes, p)
	return p
}

func (s *Stage) startServers(ctx context.Context) (err error) {
	if s.Balancer, err = proxy.Balance(ctx); err != nil {
		return err
	}
	for i := range s.cfg.Servers {
		if err := s.startServer(ctx, i); err != nil {
			return err
		}
	}
	return s.AwaitReady(ctx)
}

// startServer starts the next server, behind the balancer.
func (s *Stage) startServer(ctx context.Context, n int) error {
	to, err := s.serverPath(ctx, n)
	if err != nil {
		return err
	}
	args := append([]string{"serve", "--addr=127.0.0.1:0", "--jwt-secret-file=" + s.secretFile(),
		"--max-streams-per-user=0", "--drain=3s"}, s.cfg.ServeArgs...)
	if s.Polls() {
		args = append(args, "--bus="+poll)
	}
	s.started++
	name := fmt.Sprintf("server-%d", s.started)
	server := &Server{Name: name, Backend: proxy.NewBackend(), Database: to.link,
		listens: s.cfg.Bus == notify, client: s.client, process: s.process(name, to.url, args...)}
	if err := server.Start(ctx); err != nil {
		return err
	}
	s.Servers = append(s.Servers, server)
	s.Balancer.Add(server.Backend)
	return nil
}

func (s *Stage) startWorker(ctx context.Context) error {
	to, err := s.openPath(ctx, "", &s.addresses.primary)
	if err != nil {
		return err
	}
	s.Worker = &Worker{Name: "worker", process: s.process("worker", to.url, "mutator", "--lease=5s",
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

// KeepLogs has Close leave the logs behind.
func (s *Stage) KeepLogs() { s.cfg.Keep = true }

// Close ends everything. Its error says what did not end in order, and what logs tell of bugs; the logs are then kept.
func (s *Stage) Close(ctx context.Context) error {
	var errs []error
	for _, p := range s.processes {
		errs = append(errs, p.EndedByItself(), p.Stop(syscall.SIGTERM))
	}
	if s.Balancer != nil {
		s.Balancer.Close()
	}
	for _, p := range s.proxies {
		p.Close()
	}
	for _, p := range s.processes {
		lines, err := p.Alarms()
		errs = append(errs, err)
		for _, line := range lines {
			errs = append(errs, fmt.Errorf("a log tells of a bug: %s", line))
		}
	}
	for _, n := range s.nodes {
		errs = append(errs, n.close(ctx))
	}
	s.client.CloseIdleConnections()
	err := errors.Join(errs...)
	if s.dir == "" {
		return err
	}
	if err != nil || s.cfg.Keep {
		s.cfg.Logger.Warn("the logs are kept", "dir", s.dir)
		return errors.Join(err, os.RemoveAll(s.secretFile()))
	}
	return os.RemoveAll(s.dir)
}
