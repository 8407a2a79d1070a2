package pgcluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
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
}

// Mode is how Stop ends PostgreSQL.
type Mode syscall.Signal

// PostgreSQL's shutdown modes.
const (
	Fast      = Mode(syscall.SIGINT)
	Immediate = Mode(syscall.SIGQUIT)
)

// A Cluster is a running PostgreSQL of one's own. Its superuser is postgres, with a random password that is kept in DataDir.
type Cluster struct {
	cfg      Config
	account  *syscall.Credential // who PostgreSQL runs as; nil: who we are
	password string
	command  *exec.Cmd
	exited   chan struct{}
}

const startTimeout = 60 * time.Second

// Start makes the cluster if need be and starts it. It returns when PostgreSQL takes connections, or with the end of its log.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg}
	var err error
	if c.account, err = account(); err != nil {
		return nil, err
	}
	if err := c.prepareDir(); err != nil {
		return nil, err
	}
	if err := c.initdb(ctx); err != nil {
		return nil, err
	}
	if c.cfg.Port == 0 {
		if c.cfg.Port, err = freePort(ctx); err != nil {
			return nil, err
		}
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// account is who PostgreSQL runs as when we are root, which it refuses to be.
func account() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // nobody else
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.ParseUint(u.Uid, 10, 32)
		gid, errG := strconv.ParseUint(u.Gid, 10, 32)
		if errU == nil && errG == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody: make one")
}

func (c *Cluster) data() string { return filepath.Join(c.cfg.DataDir, "data") }

func (c *Cluster) prepareDir() error {
	if err := os.MkdirAll(c.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if c.account == nil {
		return nil
	}
	if err := os.Chown(c.cfg.DataDir, int(c.account.Uid), int(c.account.Gid)); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	probe := exec.Command("test", "-x", c.cfg.DataDir) //nolint:noctx // it ends at once
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: c.account}
	if err := probe.Run(); err != nil {
		return fmt.Errorf("the user that PostgreSQL runs as cannot reach %s: choose a --data-dir whose parents are open to it, for example below /var/lib", c.cfg.DataDir)
	}
	return nil
}

// run runs one of PostgreSQL's programs as its user.
func (c *Cluster) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, c.cfg.Binaries.Bin(name), args...)
	cmd.Dir = c.cfg.DataDir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *Cluster) initdb(ctx context.Context) error {
	passwordFile := filepath.Join(c.cfg.DataDir, "password")
	if _, err := os.Stat(filepath.Join(c.data(), "PG_VERSION")); err == nil {
		return c.reopen(passwordFile)
	}
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	c.password = base64.RawURLEncoding.EncodeToString(raw)
	if err := os.WriteFile(passwordFile, []byte(c.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	if c.account != nil {
		if err := os.Chown(passwordFile, int(c.account.Uid), int(c.account.Gid)); err != nil {
			return fmt.Errorf("keep the password: %w", err)
		}
	}
	// initdb leaves a half-made directory when it is killed; it is not ours to keep.
	if err := os.RemoveAll(c.data()); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return c.run(ctx, "initdb", "-D", c.data(), "-U", "postgres", "--auth=scram-sha-256", "--pwfile="+passwordFile, "-E", "UTF8", "--locale=C", "--no-sync")
}

func (c *Cluster) reopen(passwordFile string) error {
	b, err := os.ReadFile(passwordFile)
	if err != nil {
		return fmt.Errorf("the data directory has no password file: %w", err)
	}
	c.password = strings.TrimSpace(string(b))
	version, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if v := strings.TrimSpace(string(version)); v != strconv.Itoa(c.cfg.Binaries.Version) {
		return fmt.Errorf("%s was made by PostgreSQL %s, and the one found here is %d: choose another --data-dir or set TOPOSTREAM_PG_BIN", c.cfg.DataDir, v, c.cfg.Binaries.Version)
	}
	return c.stopLeftover()
}

// stopLeftover ends a PostgreSQL that a killed parent left running on the data directory.
func (c *Cluster) stopLeftover() error {
	b, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return nil //nolint:nilerr // none
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		return nil //nolint:nilerr // PostgreSQL judges a broken pid file itself
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || filepath.Base(exe) != "postgres" {
		return nil //nolint:nilerr // stale
	}
	alive := syscall.Kill(pid, syscall.SIGINT) == nil
	for deadline := time.Now().Add(30 * time.Second); alive && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		alive = syscall.Kill(pid, 0) == nil
	}
	if !alive {
		return nil
	}
	return fmt.Errorf("a PostgreSQL (pid %d) still runs on %s: stop it", pid, c.cfg.DataDir)
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil //nolint:forcetypeassert // it is TCP
}

func (c *Cluster) start(ctx context.Context) error {
	args := []string{"-D", c.data(), "-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(c.cfg.Port), "-c", "unix_socket_directories="}
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Settings)) {
		args = append(args, "-c", name+"="+c.cfg.Settings[name])
	}
	logPath := filepath.Join(c.cfg.DataDir, "log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	defer log.Close()
	// Not ctx: its end must not kill PostgreSQL. A process group of its own: Ctrl-C in the terminal reaches us, and we stop it in order.
	cmd := exec.Command(c.cfg.Binaries.Bin("postgres"), args...) //nolint:noctx // see above
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.cfg.DataDir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // Stop and the log tell
	}()
	c.command, c.exited = cmd, exited
	if err := c.awaitReady(ctx); err != nil {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // it may have exited
		<-exited
		return fmt.Errorf("PostgreSQL did not start: %w; its log ends:\n%s", err, tail(logPath))
	}
	return nil
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	retry := time.NewTicker(30 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.exited:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-retry.C:
		}
	}
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
	}).String()
}

// Version is the major version.
func (c *Cluster) Version() int { return c.cfg.Binaries.Version }

// Psql is the path of psql.
func (c *Cluster) Psql() string { return c.cfg.Binaries.Bin("psql") }

// Bin is the path of another of PostgreSQL's programs.
func (c *Cluster) Bin(name string) string { return c.cfg.Binaries.Bin(name) }

// Stop ends PostgreSQL and returns when it has ended; when ctx ends first, it is killed.
func (c *Cluster) Stop(ctx context.Context, mode Mode) error {
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

// Kill ends the postmaster by SIGKILL; its children notice by themselves.
func (c *Cluster) Kill() {
	_ = c.command.Process.Kill() // it may have exited
	<-c.exited
}

// Restart stops PostgreSQL and starts it on the same port.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	if err := c.Stop(ctx, mode); err != nil {
		return err
	}
	return c.start(ctx)
}

// Freeze stops the postmaster and all its backends by SIGSTOP (Linux); Thaw lets them go on.
func (c *Cluster) Freeze() { c.signalAll(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (c *Cluster) Thaw() { c.signalAll(syscall.SIGCONT) }

func (c *Cluster) signalAll(sig syscall.Signal) {
	pid := c.command.Process.Pid
	_ = syscall.Kill(pid, sig) // it may have exited
	children, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range children {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (name) state ppid …: the name may hold anything, so count from its closing parenthesis.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				_ = syscall.Kill(child, sig) // it may have exited
			}
		}
	}
}
