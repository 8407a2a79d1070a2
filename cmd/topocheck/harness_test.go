package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"topostream/cmd/topocheck/check"
	"topostream/harness/command"
	"topostream/harness/process"
	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const testSecret = "a secret of the tests, 32 bytes or more"

// A watchedBuffer tells, after each write, what it holds.
type watchedBuffer struct {
	process.Output

	seen func(text string)
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	n, err := b.Output.Write(p)
	b.seen(b.String())
	return n, err
}

// build makes the binary that users have.
func build(t *testing.T, flags ...string) (binary string) {
	t.Helper()
	long(t)
	binary, err := process.Build(t.Context(), module, pgtest.OpenDir(t), "topostream", flags...)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

const module = "../.."

// whole leaves a whole campaign to a step of the gate, which sets TOPOSTREAM_LONG=1: it leaves little to whatever runs
// beside it, and beside all other tests it has little to judge.
func whole(t *testing.T) {
	t.Helper()
	if os.Getenv("TOPOSTREAM_LONG") != "1" {
		t.Skip("a whole campaign: it runs with TOPOSTREAM_LONG=1")
	}
}

// long leaves a campaign to TOPOSTREAM_TESTS=all: what the checker judges by has quick tests in its own package.
func long(t *testing.T) {
	t.Helper()
	pgtest.Slow(t)
}

// startServer runs a server of the program until the test ends.
func startServer(t *testing.T, binary, databaseURL string, args ...string) *process.Process {
	t.Helper()
	p := &process.Process{
		Name: "the server", Binary: binary, LogPath: filepath.Join(t.TempDir(), "log"),
		Args: append([]string{"serve", "--keepalive", "1s", "--max-streams-per-user", "0"}, args...),
		Env:  []string{"TOPOSTREAM_DATABASE_URL=" + databaseURL, "TOPOSTREAM_JWT_SECRET=" + testSecret},
	}
	untilTheEnd(t, p)
	return p
}

// untilTheEnd runs a program until the test ends; what it said is shown where that failed.
func untilTheEnd(t *testing.T, p *process.Process) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if log, err := p.Log(); t.Failed() {
			t.Logf("%s, %v", log[max(0, len(log)-4000):], err)
		}
	})
}

// serving waits until a server serves, and gives its address.
func serving(t *testing.T, p *process.Process) (url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	addr, err := p.Serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + addr
}

// serve runs a server with the worker in it until the test ends, and gives its address.
func serve(t *testing.T, binary, databaseURL string) (url string) {
	t.Helper()
	return serving(t, startServer(t, binary, databaseURL, "--mutator", "--addr", "127.0.0.1:0", "--drain", "1s"))
}

// runCheck runs the program and gives its exit code, its report for people, and the report.
func runCheck(t *testing.T, url, databaseURL string, args ...string) (code int, text string, report check.Report) {
	t.Helper()
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "report.json")
	if err := os.WriteFile(secret, []byte(testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out, errOut process.Output
	code = run(ctx, append([]string{"--url", url, "--database-url", databaseURL, "--jwt-secret-file", secret,
		"--json", file, "--idle", "5s"}, args...), command.Output{Out: &out, Err: &errOut})
	if t.Cleanup(func() {
		if t.Failed() {
			t.Log(errOut.String() + out.String())
		}
	}); code == command.ExitUsage {
		t.Fatal(errOut.String())
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err, errOut.String())
	}
	if err := json.Unmarshal(body, &report); err != nil {
		t.Fatal(err)
	}
	return code, out.String(), report
}
