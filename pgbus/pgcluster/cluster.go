package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config says what Start runs.
type Config struct {
	Binaries Binaries
	DataDir  string            // made, 0700, if it is not there
	Port     int               // on 127.0.0.1; 0: a free one
	Settings map[string]string // of postgresql.conf
	WALDir   string            // where a new cluster's pg_wal is; empty: in DataDir
	Env      []string          // NAME=value, beside our own environment
}

// Mode is how Stop ends PostgreSQL.
type Mode syscall.Signal

// PostgreSQL's shutdown modes.
const (
	Fast      = Mode(syscall.SIGINT)
	Immediate = Mode(syscall.SIGQUIT)
)

// A Cluster is a running PostgreSQL of one's own. Its superuser is postgres, with a random password that is kept in
// DataDir.
type Cluster struct {
	cfg      Config
	account  account
	lock     *os.File // held from Start to Stop
	password string
	command  *exec.Cmd
	exited   chan struct{}
}

const startTimeout = 60 * time.Second

// Start makes the cluster if need be and starts it. It returns when PostgreSQL takes connections, or with the end of
// its log. DataDir is locked until Stop: a second Start on it fails while this one lives. What a killed process left
// running on it is stopped first.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	account, err := chooseAccount()
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, account: account}
	if err := c.open(ctx); err != nil {
		c.releaseLock()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) open(ctx context.Context) error {
	if err := c.prepareDir(ctx); err != nil {
		return err
	}
	if err := c.initdb(ctx); err != nil {
		return err
	}
	if c.cfg.Port == 0 {
		return c.startOnFreePort(ctx, FreePort)
	}
	return c.start(ctx)
}

// run runs one of PostgreSQL's programs as the account. When ctx ends, the program gets SIGTERM, and 5 s to clean up.
func (c *Cluster) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, c.cfg.Binaries.Bin(name), args...)
	cmd.Dir = c.cfg.DataDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account.credential}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", name, ctx.Err())
		}
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *Cluster) start(ctx context.Context) error {
	args := make([]string, 0, 8+2*len(c.cfg.Settings))
	args = append(args, "-D", c.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port="+strconv.Itoa(c.cfg.Port),
		"-c", "unix_socket_directories=")
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Settings)) {
		args = append(args, "-c", name+"="+c.cfg.Settings[name])
	}
	logPath := c.Log()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	defer log.Close()
	// Not ctx: its end must not kill PostgreSQL. A process group of its own: Ctrl-C in the terminal reaches us, and we
	// stop it in order.
	cmd := exec.Command(c.cfg.Binaries.Bin("postgres"), args...) //nolint:noctx // see above
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.cfg.DataDir, log, log
	cmd.Env = append(os.Environ(), c.cfg.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account.credential, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended is in the log
	}()
	c.command, c.exited = cmd, exited
	if err := c.awaitReady(ctx); err != nil {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // it may have exited
		<-exited
		end := tail(logPath)
		// src/backend/postmaster/postmaster.c; initdb made messages English.
		if strings.Contains(end, "could not create any TCP/IP sockets") {
			return fmt.Errorf("PostgreSQL did not start on port %d: %w, %w", c.cfg.Port, errPortTaken, err)
		}
		return fmt.Errorf("PostgreSQL did not start: %w; its log ends:\n%s", err, end)
	}
	return nil
}

// awaitReady tries to connect until PostgreSQL lets us in or ends.
func (c *Cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Another program that has the port may accept a connection and say nothing. So an attempt ends with PostgreSQL, too.
	ended := errors.New("it ended")
	attempt, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func(exited <-chan struct{}) {
		select {
		case <-exited:
			stop(ended)
		case <-attempt.Done():
		}
	}(c.exited)
	var last error
	err := every(attempt, 30*time.Millisecond, func() bool {
		conn, err := pgx.Connect(attempt, c.URL("postgres"))
		if last = err; err != nil {
			return false
		}
		_ = conn.Close(attempt) // it has shown what it is for
		return true
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(attempt), ended):
		return ended
	}
	return fmt.Errorf("%w: %w", err, last)
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// URL is a connection string of the superuser; it holds the password.
func (c *Cluster) URL(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", c.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.cfg.Port)), Path: "/" + database,
		RawQuery: "sslmode=disable", // it has no TLS, and to be told so costs each client a connection
	}).String()
}

// Version is the major version.
func (c *Cluster) Version() int { return c.cfg.Binaries.Version }

// Dir is the directory that everything of the cluster is in.
func (c *Cluster) Dir() string { return c.cfg.DataDir }

// Psql is the path of psql.
func (c *Cluster) Psql() string { return c.cfg.Binaries.Bin("psql") }

// Bin is the path of another of PostgreSQL's programs.
func (c *Cluster) Bin(name string) string { return c.cfg.Binaries.Bin(name) }

// Stop ends PostgreSQL, returns when it has ended, and gives DataDir free; when ctx ends first, PostgreSQL is killed.
func (c *Cluster) Stop(ctx context.Context, mode Mode) error {
	defer c.releaseLock()
	return c.halt(ctx, mode)
}

func (c *Cluster) halt(ctx context.Context, mode Mode) error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	if err := c.command.Process.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal PostgreSQL: %w", err)
	}
	select {
	case <-c.exited:
		return nil
	case <-ctx.Done():
		c.Kill()
		return fmt.Errorf("PostgreSQL did not stop in time and was killed: %w", ctx.Err())
	}
}

// Kill ends the postmaster by SIGKILL; its children notice by themselves. DataDir stays locked: Stop or Restart
// follows.
func (c *Cluster) Kill() {
	_ = c.command.Process.Kill() // it may have exited
	<-c.exited
}

// Restart stops PostgreSQL and starts it on the same port.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	if err := c.halt(ctx, mode); err != nil {
		return err
	}
	if err := c.takeLock(); err != nil { // after a Stop
		return err
	}
	return c.start(ctx)
}

// SetEnv changes Config.Env for the next start.
func (c *Cluster) SetEnv(env ...string) { c.cfg.Env = env }

// Running tells whether the postmaster lives.
func (c *Cluster) Running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// Ended is closed when the postmaster ends, until the next start.
func (c *Cluster) Ended() <-chan struct{} { return c.exited }

// Log is the path of the log since the last start.
func (c *Cluster) Log() string { return filepath.Join(c.cfg.DataDir, "log") }

// Freeze stops the postmaster and all its backends by SIGSTOP (Linux); Thaw lets them go on.
func (c *Cluster) Freeze() {
	// A process may take its time to stop, and the first one to be told may have made another meanwhile.
	for c.signalAll(syscall.SIGSTOP) > 0 {
		time.Sleep(10 * time.Millisecond)
	}
}

// Thaw undoes Freeze.
func (c *Cluster) Thaw() { c.signalAll(syscall.SIGCONT) }

// signalAll signals PostgreSQL's first process and its children, and gives how many of them were not stopped yet.
func (c *Cluster) signalAll(sig syscall.Signal) (running int) {
	first := strconv.Itoa(c.command.Process.Pid)
	_ = syscall.Kill(c.command.Process.Pid, sig) // it may have exited
	processes, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range processes {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (name) state ppid …: the name may hold anything, so count from its closing parenthesis.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		pid := filepath.Base(filepath.Dir(path))
		if len(fields) < 2 || pid != first && fields[1] != first {
			continue
		}
		if !slices.Contains([]string{"T", "t", "Z", "X"}, fields[0]) { // stopped, or it has ended
			running++
		}
		if child, err := strconv.Atoi(pid); err == nil && pid != first {
			_ = syscall.Kill(child, sig) // it may have exited
		}
	}
	return running
}
