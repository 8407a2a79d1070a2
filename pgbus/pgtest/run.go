package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"topostream/pgbus/pgcluster"
)

// One cluster serves all test binaries of a run of `go test`, which are processes that know nothing of one another.
// The first that needs it starts a keeper, a copy of itself that outlives it; the others find the address that the
// keeper wrote. Each holds a shared lock on the file lease, which ends with its process however that ends. When
// nobody has held it for a while, the keeper stops the cluster.
const (
	keeperEnv   = "TOPOSTREAM_PGTEST_KEEPER"
	keeperStart = 90 * time.Second
	keeperStays = 5 * time.Second // between one test binary's end and the next one's start
)

// runDir is the directory of this run: its test binaries have one parent.
func runDir() string {
	return filepath.Join(clusterRoot(), fmt.Sprintf("topostream-test-run-%d-%d", os.Geteuid(), os.Getppid()))
}

// joinRun gives the address of the run's cluster, started if need be. It takes a lease, which run holds until the
// process ends.
func joinRun(ctx context.Context) (url string, err error) {
	dir := runDir()
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must reach what is in it
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"), syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unlock()
	if run.lease, err = lock(filepath.Join(dir, "lease"), syscall.LOCK_SH); err != nil {
		return "", err
	}
	address := filepath.Join(dir, "url")
	if b, err := os.ReadFile(address); err == nil {
		return string(b), nil
	}
	if err := startKeeper(dir); err != nil {
		return "", err
	}
	deadline := time.NewTimer(keeperStart)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-deadline.C:
			return "", errors.New("the run's cluster did not start in time")
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if b, err := os.ReadFile(address); err == nil {
			return string(b), nil
		}
		if b, err := os.ReadFile(filepath.Join(dir, "error")); err == nil {
			_ = os.RemoveAll(dir) // the next one tries again
			return "", errors.New(string(b))
		}
	}
}

// lock takes flock(2) on a file and gives what lets go of it.
func lock(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err == nil {
			return func() { _ = f.Close() }, nil // which unlocks
		}
		if !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
	}
}

func startKeeper(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "keeper.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	// Nothing of ours: `go test` waits until all who hold its pipes are gone, and Ctrl-C must leave time to stop
	// PostgreSQL.
	cmd := exec.Command(self) //nolint:noctx // it outlives this process
	cmd.Env = append(os.Environ(), keeperEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// keep is the keeper's life.
func keep(dir string) (err error) {
	ctx := context.Background()
	defer func() {
		if err != nil {
			err = errors.Join(err, replaceFile(filepath.Join(dir, "error"), err.Error()))
		}
	}()
	b, err := binaries(ctx)
	if err != nil {
		return err
	}
	cfg := pgcluster.Config{Binaries: b, DataDir: filepath.Join(dir, "cluster"), Settings: settings()}
	cluster, err := pgcluster.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		err = errors.Join(err, cluster.Stop(stop, pgcluster.Immediate))
	}()
	if err := replaceFile(filepath.Join(dir, "url"), cluster.URL("postgres")); err != nil {
		return err
	}
	for {
		released, err := lock(filepath.Join(dir, "lease"), syscall.LOCK_EX) // waits until nobody has a lease
		if err != nil {
			return err
		}
		released()
		time.Sleep(keeperStays)
		if done, err := closeRun(dir); done || err != nil {
			return err
		}
	}
}

// closeRun removes the run's directory if nobody has a lease and nobody is about to take one.
func closeRun(dir string) (done bool, err error) {
	unlock, err := lock(filepath.Join(dir, "lock"), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return false, nil // somebody joins
	}
	defer unlock()
	released, err := lock(filepath.Join(dir, "lease"), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return false, nil // somebody has joined
	}
	defer released()
	return true, os.RemoveAll(dir)
}

// replaceFile writes a file that others see whole or not at all.
func replaceFile(path, content string) error {
	part := path + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(part, []byte(strings.TrimSpace(content)), 0o600); err != nil {
		return err
	}
	return os.Rename(part, path)
}
