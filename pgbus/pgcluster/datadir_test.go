package pgcluster_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may be broken by then
	return conn
}

// query runs one statement that gives a text.
func query(t *testing.T, url, statement string) string {
	t.Helper()
	var s string
	if err := connect(t, url).QueryRow(t.Context(), statement).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// postmaster is the pid of the PostgreSQL on a data directory.
func postmaster(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestASecondStartLeavesTheFirstClusterAlone(t *testing.T) {
	t.Parallel()
	dir := pgtest.OpenDir(t)
	cfg := pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir}
	first := start(t, cfg)
	pid := postmaster(t, dir)
	// The same process and another one: an flock belongs to an open file, not to a process.
	_, err := pgcluster.Start(t.Context(), cfg)
	want := "another topostream (pid " + strconv.Itoa(os.Getpid()) + ") uses " + dir
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("the second start says: %v", err)
	}
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdDir+"="+dir)
	if out, err := other.CombinedOutput(); err == nil || !strings.Contains(string(out), "another topostream") {
		t.Errorf("another process says: %v: %s", err, out)
	}
	if got := query(t, first.URL("postgres"), `SELECT 'alive'`); got != "alive" || postmaster(t, dir) != pid {
		t.Errorf("the first PostgreSQL is not what it was")
	}
	if err := first.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Errorf("the first cannot restart: %v", err)
	}
	if _, err := pgcluster.Start(t.Context(), cfg); err == nil {
		t.Errorf("a restart gave the directory free")
	}
	if err := first.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Error(err)
	}
	start(t, cfg) // Stop gave it free
}

func TestWhatAKilledParentLeftRunningIsStoppedAndItsDataStays(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it kills what starts a cluster")
	}
	t.Parallel()
	dir := pgtest.OpenDir(t)
	h := startHolder(t, dir, "")
	if _, err := connect(t, h.url).Exec(t.Context(), `CREATE TABLE kept AS SELECT 'yes' AS really`); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.cmd.Wait() // it says that it was killed
	left := postmaster(t, dir)
	if err := syscall.Kill(left, 0); err != nil {
		t.Fatalf("PostgreSQL ended with its parent: the test tests nothing: %v", err)
	}
	c := start(t, pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir})
	if postmaster(t, dir) == left {
		t.Error("the leftover still runs")
	}
	if got := query(t, c.URL("postgres"), `SELECT really FROM kept`); got != "yes" {
		t.Errorf("the table holds %q", got)
	}
}

func TestAProcessThatOnlyHasTheOldNumberIsNotStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it starts a cluster twice")
	}
	t.Parallel()
	dir := pgtest.OpenDir(t)
	cfg := pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir}
	if err := start(t, cfg).Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	// The stranger calls itself as PostgreSQL's binary does: the name is no proof.
	stranger := exec.Command("sleep", "600")
	stranger.Args[0] = "postgres"
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = stranger.Wait()
	}()
	t.Cleanup(func() { _ = stranger.Process.Kill(); <-exited })
	pidFile := strconv.Itoa(stranger.Process.Pid) + "\n" + filepath.Join(dir, "data") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(pidFile), 0o644); err != nil {
		t.Fatal(err)
	}
	// Whether PostgreSQL starts then is its own decision: it does if the stranger is another user's.
	if c, err := pgcluster.Start(t.Context(), cfg); err == nil {
		if err := c.Stop(t.Context(), pgcluster.Fast); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-exited:
		t.Error("the stranger was stopped")
	default:
	}
}

func TestADirectoryOfSomebodyElseIsRefusedAndNotTouched(t *testing.T) {
	t.Parallel()
	dir := pgtest.OpenDir(t)
	treasure := filepath.Join(dir, "data", "treasure")
	if err := os.Mkdir(filepath.Dir(treasure), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(treasure, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var before, after syscall.Stat_t
	if err := syscall.Stat(dir, &before); err != nil {
		t.Fatal(err)
	}
	_, err := pgcluster.Start(t.Context(), pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("start says: %v", err)
	}
	if err := syscall.Stat(dir, &after); err != nil || before.Mode != after.Mode || before.Uid != after.Uid {
		t.Errorf("the directory was changed: mode %o, owner %d, %v", after.Mode, after.Uid, err)
	}
	if _, err := os.Stat(treasure); err != nil {
		t.Error(err)
	}
}

func TestAnInterruptedInitdbDoesNotSpoilTheDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it makes clusters again and again")
	}
	t.Parallel()
	dir := pgtest.OpenDir(t)
	cfg := pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir}
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() {
		_, err := pgcluster.Start(ctx, cfg)
		started <- err
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if half, _ := filepath.Glob(filepath.Join(dir, "data*", "PG_VERSION")); len(half) > 0 {
			break
		}
	}
	cancel()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("start says: %v", err)
	}
	// What one that was killed leaves: initdb writes PG_VERSION first.
	half := filepath.Join(dir, "data.making-1")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
	if remains, _ := filepath.Glob(filepath.Join(dir, "data.making*")); len(remains) > 0 {
		t.Errorf("left: %v", remains)
	}
}

func TestADirectoryOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	dir := pgtest.OpenDir(t)
	for name, content := range map[string]string{"password": "x", "data/PG_VERSION": "9\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err := pgcluster.Start(t.Context(), pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "was made by PostgreSQL 9") ||
		!strings.Contains(err.Error(), "TOPOSTREAM_PG_BIN") {
		t.Errorf("start says: %v", err)
	}
}

func TestARelativeDirectoryWorks(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it starts a cluster")
	}
	t.Parallel()
	dir := pgtest.OpenDir(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(here, dir)
	if err != nil {
		t.Fatal(err)
	}
	start(t, pgcluster.Config{Binaries: mustBinaries(t), DataDir: relative})
}

func TestAsRootOnlyTheLastDirectoryIsClosed(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it starts a cluster")
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: PostgreSQL runs as whoever starts it, and nobody else needs its parents")
	}
	top := pgtest.OpenDir(t)
	dir := filepath.Join(top, "made", "too", "leaf")
	h := startHolder(t, dir, "umask 077;")
	for path, want := range map[string]os.FileMode{
		dir: 0o700, filepath.Dir(dir): 0o755, filepath.Join(top, "made"): 0o755,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
	h.stop(t)
}

func TestAsRootAClosedParentIsNamed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: PostgreSQL runs as whoever starts it")
	}
	closed := filepath.Join(pgtest.OpenDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "dev")
	_, err := pgcluster.Start(t.Context(), pgcluster.Config{Binaries: mustBinaries(t), DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "cannot reach "+dir) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("start says: %v", err)
	}
}
