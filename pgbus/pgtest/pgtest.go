// Package pgtest gives a test a database of its own on a real PostgreSQL, in one call: New.
//
// It uses the server of TEST_DATABASE_URL where that is set. Otherwise all test binaries of a run share one private
// cluster (run.go), of the installation in TEST_PG_BIN or of what the machine has; it ends by itself when the run has
// ended. Clusters are made in TEST_PG_DATA, or in memory where there is much of it. A test fails when it has waited for
// two minutes, or for TEST_PATIENCE.
package pgtest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"topostream/pgbus/pgcluster"
)

// A DB is a database of one test, migrated. It is dropped when the test has passed.
type DB struct {
	URL string
}

// run is the cluster of this run of tests.
var run struct { //nolint:gochecknoglobals // one for the process
	once  sync.Once
	url   string
	lease func() // referred to, so that its file is not closed as garbage
	err   error
}

// Main runs a package's tests and looks for goroutines that stayed. For TestMain.
func Main(m *testing.M) {
	if dir := os.Getenv(keeperEnv); dir != "" {
		if err := keep(dir); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if testing.Short() { // short tests wait more than they work
		if err := flag.Set("test.parallel", "8"); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines stayed:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func binaries(ctx context.Context) (pgcluster.Binaries, error) {
	if dir := os.Getenv("TEST_PG_BIN"); dir != "" {
		return pgcluster.At(ctx, dir)
	}
	return pgcluster.Find(ctx)
}

// settings keep a test cluster small; fsync stays on.
func settings() map[string]string {
	return map[string]string{
		"max_connections": "400", "shared_buffers": "32MB",
		// Each bus of a test that reads the WAL takes one.
		"wal_level": "logical", "max_wal_senders": "100", "max_replication_slots": "100",
		"dynamic_shared_memory_type": "mmap", // a cluster that is killed leaves nothing outside its directory
	}
}

func serverURL(t testing.TB) string {
	t.Helper()
	if u := os.Getenv("TEST_DATABASE_URL"); u != "" {
		return u
	}
	run.once.Do(func() { run.url, run.err = joinRun(context.Background()) })
	if run.err != nil {
		t.Fatal(run.err)
	}
	return run.url
}

// failed tells that a test with a database has failed.
var failed atomic.Bool //nolint:gochecknoglobals // one for the process

// failFast skips the test if another one has failed under -failfast: the testing package itself runs those that wait
// in t.Parallel.
func failFast(t testing.TB) {
	t.Helper()
	if failedFast() {
		t.Skip("another test has failed")
	}
	t.Cleanup(func() {
		if t.Failed() {
			failed.Store(true)
		}
	})
}

// failedFast tells that a test with a database has failed, and that nobody wants to know more.
func failedFast() bool {
	f := flag.Lookup("test.failfast")
	return failed.Load() && f != nil && f.Value.String() == "true"
}

// Bin is the path of one of PostgreSQL's programs, of the installation that the tests use.
func Bin(t testing.TB, name string) string {
	t.Helper()
	b, err := binaries(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bin(name)
}

// With gives a database's URL with one more parameter.
func With(t testing.TB, database, name, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set(name, value)
	u.RawQuery = query.Encode()
	return u.String()
}

// plain is the URL without the mode of TEST_EXEC_MODE, which is for the program's connections: a test's own statements
// are no part of what it shows.
func (db *DB) plain() string {
	u, err := url.Parse(db.URL)
	if err != nil {
		return db.URL
	}
	q := u.Query()
	q.Del(execMode)
	u.RawQuery = q.Encode()
	return u.String()
}

// Conn opens a connection that ends with the test.
func (db *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), db.plain())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may be broken by then
	return conn
}

// Pool opens a pool that ends with the test.
func (db *DB) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Exec runs one statement on a connection of its own.
func (db *DB) Exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), db.plain())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// script runs statements without parameters, in one transaction.
func (db *DB) script(t testing.TB, statements string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), db.plain())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.PgConn().Exec(context.Background(), statements).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// Psql runs a script through psql's own binary, with more arguments, and gives what it printed.
func (db *DB) Psql(t testing.TB, script string, more ...string) (string, error) {
	t.Helper()
	args := append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"}, more...)
	cmd := exec.CommandContext(t.Context(), Bin(t, "psql"), append(args, db.plain())...)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Version is the major version of the installation that the tests use.
func Version(t testing.TB) int {
	t.Helper()
	b, err := binaries(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return b.Version
}

// Cluster starts a private cluster for a test that restarts or freezes PostgreSQL. Settings are "name=value".
func Cluster(t testing.TB, more ...string) *pgcluster.Cluster {
	t.Helper()
	b, err := binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, pgcluster.Config{Binaries: b, DataDir: clusterDir(t), Settings: with(settings(), more)})
}

// with adds settings to a set, each "name=value".
func with(set map[string]string, more []string) map[string]string {
	for _, s := range more {
		name, value, _ := strings.Cut(s, "=")
		set[name] = value
	}
	return set
}

// start runs a cluster until the test ends.
func start(t testing.TB, cfg pgcluster.Config) *pgcluster.Cluster {
	t.Helper()
	c, err := pgcluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, c)
	return c
}

func stopLater(t testing.TB, c *pgcluster.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		c.Thaw()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := c.Stop(ctx, pgcluster.Immediate); err != nil {
			t.Error(err)
		}
	})
}

// Eventually asks again and again until the answer is yes, for at most two minutes: that is how long a test
// takes to fail, and says nothing of how long the answer may take. Under -failfast another failure ends it, too.
func Eventually(t testing.TB, what string, yes func() bool) {
	t.Helper()
	timeout := time.NewTimer(patience(t))
	defer timeout.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-again.C:
		case <-timeout.C:
			t.Fatalf("waited for %s in vain", what)
		}
		if failedFast() {
			t.Fatalf("another test has failed before %s", what)
		}
	}
}

func patience(t testing.TB) time.Duration {
	t.Helper()
	given := os.Getenv("TEST_PATIENCE")
	if given == "" {
		return 2 * time.Minute
	}
	d, err := time.ParseDuration(given)
	if err != nil {
		t.Fatalf("TEST_PATIENCE: %v", err)
	}
	return d
}

// FreeAddress is one of loopback that nobody serves on now, for a process that cannot be asked for its own, or that
// is started again at the same. It is below the ports that systems give out by themselves, so that nobody gets it by
// chance while the process is down, and no other test is given it before this one ends: the port above it is held.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := 15_000 + 2*rand.IntN(7_500)
		held, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1)) //nolint:noctx // it waits for nothing
		if err != nil {
			continue // another test has it
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)) //nolint:noctx // it is closed at once
		if err != nil {
			_ = held.Close()
			continue // somebody has it
		}
		t.Cleanup(func() { _ = held.Close() })
		_ = l.Close() // whoever asked takes it
		return l.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}

// OpenDir gives a directory that every user can go through: testing's own is closed to the user that PostgreSQL runs
// as when we are root.
func OpenDir(t testing.TB) string {
	t.Helper()
	return openDir(t, "")
}

func openDir(t testing.TB, in string) string {
	t.Helper()
	dir, err := os.MkdirTemp(in, "topostream-test-") //nolint:usetesting // see OpenDir
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see OpenDir
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Exec runs one statement. It does not end with the test's context, so that clean-up may use it.
func Exec(t testing.TB, conn *pgx.Conn, statement string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Scan reads one value.
func Scan[T any](t testing.TB, conn *pgx.Conn, query string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// Buffers is how many pages a query touches once its plans are made.
func Buffers(t testing.TB, conn *pgx.Conn, query string, args ...any) (pages int) {
	t.Helper()
	for range 2 {
		var plan []struct {
			Plan map[string]any `json:"Plan"`
		}
		text := Scan[string](t, conn, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+query, args...)
		if err := json.Unmarshal([]byte(text), &plan); err != nil {
			t.Fatal(err)
		}
		hit, _ := plan[0].Plan["Shared Hit Blocks"].(float64)
		read, _ := plan[0].Plan["Shared Read Blocks"].(float64)
		pages = int(hit + read)
	}
	return pages
}
