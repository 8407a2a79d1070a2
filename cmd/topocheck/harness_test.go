package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"topostream/cmd/topocheck/check"
	"topostream/harness/command"
	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const testSecret = "a secret of the tests, 32 bytes or more"

// lockedBuffer collects a program's output while it runs.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A watchedBuffer tells, after each write, what it holds.
type watchedBuffer struct {
	lockedBuffer

	seen func(text string)
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	n, err := b.lockedBuffer.Write(p)
	b.seen(b.String())
	return n, err
}

// build makes the binary that users have, of the module in dir.
func build(t *testing.T, dir string) (binary string) {
	t.Helper()
	long(t)
	binary = filepath.Join(pgtest.OpenDir(t), "topostream")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/topostream")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return binary
}

const module = "../.."

// alone leaves a whole campaign to the gate, which runs it with TOPOSTREAM_LONG=1 while nothing else runs: it
// leaves nothing to whatever runs beside it, and on a busy machine it has little to judge.
func alone(t *testing.T) {
	t.Helper()
	if os.Getenv("TOPOSTREAM_LONG") != "1" {
		t.Skip("a campaign: it runs alone, with TOPOSTREAM_LONG=1")
	}
}

// long leaves a campaign out of `go test -short`: what the checker judges by has short tests in its own package.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a campaign: left out with -short")
	}
}

// serve runs the program's server, with the worker in it, until the test ends, and gives its address.
func serve(t *testing.T, binary, databaseURL string, args ...string) (url string) {
	t.Helper()
	var out lockedBuffer
	cmd := exec.Command(binary, append([]string{"serve", "--mutator", "--addr", "127.0.0.1:0", "--keepalive", "1s",
		"--drain", "1s", "--max-streams-per-user", "0"}, args...)...)
	cmd.Env = append(os.Environ(), "TOPOSTREAM_DATABASE_URL="+databaseURL, "TOPOSTREAM_JWT_SECRET="+testSecret)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is stopped by a signal
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill() // it may have ended
			<-ended
		}
		if t.Failed() {
			t.Log(out.String()[max(0, len(out.String())-4000):])
		}
	})
	serving := regexp.MustCompile(`msg=serving addr=(\S+)`)
	pgtest.Eventually(t, "the server to serve", func() bool {
		select {
		case <-ended:
			t.Fatal(out.String())
		default:
		}
		if m := serving.FindStringSubmatch(out.String()); m != nil {
			url = "http://" + m[1]
		}
		return url != ""
	})
	return url
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
	var out, errOut lockedBuffer
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
