package pgcluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What lies in DataDir beside the log.
const (
	lockName     = "topostream.lock"
	passwordName = "password"
	dataName     = "data"
)

func (c *Cluster) data() string { return filepath.Join(c.cfg.DataDir, dataName) }

// prepareDir makes DataDir, 0700 and the account's, locks it for this process and makes sure that the account gets at
// it.
func (c *Cluster) prepareDir(ctx context.Context) error {
	if err := c.makeDir(); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	// PostgreSQL is started in DataDir and told where its data is, and stopLeftover looks for that path: it must be the
	// same each time.
	target, err := filepath.EvalSymlinks(c.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	c.cfg.DataDir = target
	if err := c.refuseForeign(); err != nil {
		return err
	}
	if err := c.takeLock(); err != nil {
		return err
	}
	if err := os.Chmod(target, 0o700); err != nil { //nolint:gosec // a directory needs x
		return fmt.Errorf("data directory: %w", err)
	}
	if err := c.account.own(target); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return c.checkAccess(ctx)
}

// makeDir makes DataDir. Where it belongs to another account, its parents are made so that the account can go through
// them.
func (c *Cluster) makeDir() error {
	dir, err := filepath.Abs(c.cfg.DataDir)
	if err != nil {
		return err
	}
	c.cfg.DataDir = dir
	if c.account.credential != nil {
		if err := makeOpen(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o700)
}

// makeOpen is MkdirAll for directories that everybody may go through, whatever the umask.
func makeOpen(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil // not ours to open
	}
	if err := makeOpen(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // see above
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // see above
}

// refuseForeign protects a directory that somebody named by mistake: we change its owner and mode, and delete data
// below it.
func (c *Cluster) refuseForeign() error {
	entries, err := os.ReadDir(c.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == lockName || e.Name() == passwordName {
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty, and topostream did not make what is in it: "+
			"give an empty or a new directory by --data-dir", c.cfg.DataDir)
	}
	return nil
}

// takeLock keeps every other topostream away from DataDir while this one lives.
func (c *Cluster) takeLock() error {
	if c.lock != nil {
		return nil
	}
	path := filepath.Join(c.cfg.DataDir, lockName)
	lock, err := tryLock(path)
	if errors.Is(err, errLocked) {
		return fmt.Errorf("another topostream %suses %s: stop it, or give this one another directory by --data-dir",
			lockHolder(path), c.cfg.DataDir)
	}
	c.lock = lock
	return err
}

func (c *Cluster) releaseLock() {
	if c.lock != nil {
		unlock(c.lock)
		c.lock = nil
	}
}

// checkAccess tries, as the account, what PostgreSQL will do, for messages that say which directory is closed.
func (c *Cluster) checkAccess(ctx context.Context) error {
	if c.account.credential == nil {
		return nil
	}
	postgres := c.cfg.Binaries.Bin("postgres")
	for _, try := range []struct{ dir, problem string }{
		{"/", fmt.Sprintf("the user %s, as whom PostgreSQL runs because you are root, cannot run %s",
			c.account.name, postgres)},
		{c.cfg.DataDir, fmt.Sprintf("the user %s, as whom PostgreSQL runs because you are root, cannot reach %s: "+
			"choose a --data-dir whose parents are open to it, for example below /var/lib", c.account.name, c.cfg.DataDir)},
	} {
		cmd := exec.CommandContext(ctx, postgres, "--version")
		cmd.Dir, cmd.SysProcAttr = try.dir, &syscall.SysProcAttr{Credential: c.account.credential}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", try.problem, err)
		}
	}
	return nil
}

// initdb makes the cluster, or takes the one that is there.
func (c *Cluster) initdb(ctx context.Context) error {
	passwordFile := filepath.Join(c.cfg.DataDir, passwordName)
	if _, err := os.Stat(c.data()); err == nil {
		return c.reopen(ctx, passwordFile)
	}
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails (crypto/rand)
	c.password = base64.RawURLEncoding.EncodeToString(raw)
	if err := os.WriteFile(passwordFile, []byte(c.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	if err := c.account.own(passwordFile); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	// A killed initdb leaves a directory that looks whole (PG_VERSION is the first file that it writes), and one whose
	// parent was killed goes on writing. So each attempt has a name of its own, and only a finished one gets the right
	// name.
	remains, _ := filepath.Glob(c.data() + ".making-*") // the pattern is well-formed
	for _, dir := range remains {
		_ = os.RemoveAll(dir) // it is in nobody's way
	}
	making := c.data() + ".making-" + strconv.Itoa(os.Getpid())
	args := []string{
		"-D", making, "-U", "postgres", "--auth=scram-sha-256", "--pwfile=" + passwordFile,
		"-E", "UTF8", "--locale=C", "--no-sync",
	}
	if c.cfg.WALDir != "" {
		args = append(args, "--waldir="+c.cfg.WALDir)
	}
	if err := c.run(ctx, "initdb", args...); err != nil {
		return err
	}
	if err := os.Rename(making, c.data()); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func (c *Cluster) reopen(ctx context.Context, passwordFile string) error {
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
		return fmt.Errorf("%s was made by PostgreSQL %s, and the one found here is %d: "+
			"choose another --data-dir or set TOPOSTREAM_PG_BIN", c.cfg.DataDir, v, c.cfg.Binaries.Version)
	}
	return c.stopLeftover(ctx)
}

const leftoverTimeout = 30 * time.Second

// stopLeftover ends a PostgreSQL that a killed parent left running. We hold the lock, so that parent is gone.
func (c *Cluster) stopLeftover(ctx context.Context) error {
	b, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return nil // none
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		return nil // PostgreSQL judges a broken pid file itself
	}
	// The number may long be another program's, even another PostgreSQL's: a container gives the same ones at each start.
	runs := func() bool { return strings.Contains(commandLine(ctx, pid)+" ", "-D "+c.data()+" ") }
	if !runs() {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop the PostgreSQL (pid %d) that a killed topostream left on %s: %w", pid, c.cfg.DataDir, err)
	}
	waitCtx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	// Not kill(pid, 0): where nobody reaps, in a container, it answers for a zombie, too, which has no command line any
	// more.
	if err := every(waitCtx, 30*time.Millisecond, func() bool { return !runs() }); err != nil {
		return fmt.Errorf("the PostgreSQL (pid %d) that a killed topostream left on %s does not stop: %w",
			pid, c.cfg.DataDir, err)
	}
	return nil
}

// commandLine is what a process was started with, its words parted by spaces; empty if there is no such process.
func commandLine(ctx context.Context, pid int) string {
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
		return strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
	}
	out, err := exec.CommandContext(ctx, "ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() // where there is no /proc
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
