package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topobench/check"
	"topostream/pgbus/pgtest"
)

// An edit of the program's source.
type edit struct{ file, text, instead string }

// The program has nets beneath nets: what the catch-up, the dedupe or the reconnect catch-up would miss comes by the next event, which finds a hole, or
// by the heartbeat. A bug that they mend is a delay, and no violation. So each is planted in a program without these nets.
func withoutNets() []edit {
	return []edit{
		{"stream/feed.go", "case fr.Seq != f.last+1:\n\t\tf.mu.Unlock()\n\t\treturn Hole\n", "case false:\n"},
		{"pgbus/heads.go", "b.fillAll(behind, cause)", "_ = behind"},
	}
}

// A scenario is what happens to the server while the checker runs.
type scenario func(t *testing.T, ctx context.Context, s *server, m check.Monitor) error

// TestTheCheckerFindsBugsPlantedInTheServer takes out of the program what keeps the promise, one by one. The same scenarios leave the
// program as it is clean, so that it is the bug which is found.
func TestTheCheckerFindsBugsPlantedInTheServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edits    []edit
		scenario scenario
		want     []check.Kind // any of these
	}{
		// PostgreSQL before 19 loses nothing on a connection that listens already, and a server's LISTEN connection listens to nothing only until its
		// first attach: so the server is started again and again. Without lowest, that attach begins at its snapshot and reads nothing older.
		"no catch-up after the attach": {
			append(withoutNets(),
				edit{"pgbus/attach.go", "b.fillAll(attached, stream.ReadCatchUp)", "_ = attached"},
				edit{"pgbus/attach.go", "b.newFeed(id, lowest(p.waiters, r.head), r.head.seq)", "b.newFeed(id, r.head.seq, r.head.seq)"}),
			restarts, []check.Kind{check.Lost},
		},
		"no dedupe": {
			[]edit{
				{"stream/feed.go", "case fr.Seq <= f.last:\n", "case fr.Seq <= f.last:\n\t\tf.push(fr)\n"},
				{"stream/cursor.go", " || fr.Seq != 0 && fr.Seq <= c.last {", " {"},
			},
			undisturbed, []check.Kind{check.Doubled},
		},
		"no lock on the head": {
			[]edit{
				{"sql/001_core.sql", "WHERE h.topology_id IN (SELECT topology_id FROM named) ORDER BY h.topology_id FOR NO KEY UPDATE)", "WHERE h.topology_id IN (SELECT topology_id FROM named))"},
				{"sql/001_core.sql", "WHERE h.topology_id = _id FOR NO KEY UPDATE;", "WHERE h.topology_id = _id;"},
			},
			undisturbed, []check.Kind{check.Refused},
		},
		"no catch-up after a reconnect": {
			append(withoutNets(), edit{"pgbus/listener.go", "s.fillAll(topics, cause)", "_ = cause"}),
			lostListens, []check.Kind{check.Lost},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := runPlanted(t, planted(t, c.edits), c.scenario)
			found := false
			for _, kind := range c.want {
				found = found || report.Violations[kind] > 0
			}
			if !found {
				t.Errorf("violations %v; want one of %v", report.Violations, c.want)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		for name, s := range map[string]scenario{"restarts": restarts, "undisturbed": undisturbed, "lost LISTEN connections": lostListens} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if report := runPlanted(t, planted(t, nil), s); !report.Clean() {
					t.Errorf("violations %v", report.Violations)
				}
			})
		}
	})
}

// planted builds the program with edits. An edit whose text is not there, or there twice, fails the test: the program has changed, and the bug must be planted
// elsewhere.
func planted(t *testing.T, edits []edit) (binary string) {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"cmd/topostream", "pgbus", "stream", "sql"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(module, part))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range edits {
		path := filepath.Join(dir, e.file)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(content), e.text); n != 1 {
			t.Fatalf("%s holds %q %d times, not once", e.file, e.text, n)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(content), e.text, e.instead, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return build(t, dir)
}

// A server is a process that can be started again at its address.
type server struct {
	binary, address, databaseURL string

	mu  sync.Mutex
	cmd *exec.Cmd
	out lockedBuffer
}

func runPlanted(t *testing.T, binary string, s scenario) *check.Report {
	t.Helper()
	db := pgtest.NewEmpty(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &server{binary: binary, address: l.Addr().String(), databaseURL: db.URL}
	_ = l.Close() // the server takes the port
	srv.start(t)
	t.Cleanup(func() {
		srv.stop(syscall.SIGTERM)
		if t.Failed() {
			out := srv.out.String()
			t.Log(out[max(0, len(out)-4000):])
		}
	})
	pgtest.Eventually(t, "the server to serve", func() bool { return strings.Contains(srv.out.String(), "msg=serving") })
	report, err := check.Run(t.Context(), check.Config{
		URLs:        func() []string { return []string{"http://" + srv.address} },
		DatabaseURL: db.URL, Token: sign([]byte(testSecret)), Seed: uint64(time.Now().UnixNano()),
		Topologies: 1, Writers: 4, Clients: 8, Duration: 8 * time.Second, Settle: 15 * time.Second, Idle: 5 * time.Second,
		Faults: func(ctx context.Context, m check.Monitor) error { return s(t, ctx, srv, m) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	report.Write(&text)
	t.Log(text.String())
	return report
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd = exec.Command(s.binary, "serve", "--migrate", "--addr", s.address, "--keepalive", "1s", "--drain", "100ms")
	s.cmd.Env = append(os.Environ(), "TOPOSTREAM_DATABASE_URL="+s.databaseURL, "TOPOSTREAM_JWT_SECRET="+testSecret)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		t.Error(err)
	}
}

func (s *server) stop(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.cmd.Process.Signal(sig) // it may have ended
	_ = s.cmd.Wait()              // it was stopped
}

func undisturbed(*testing.T, context.Context, *server, check.Monitor) error { return nil }

// restarts kills the server and starts it again, until the run is over.
func restarts(t *testing.T, ctx context.Context, s *server, m check.Monitor) error {
	for wait(ctx, time.Second) {
		ended := m.Began("server.kill")
		s.stop(os.Kill)
		s.start(t)
		ended()
	}
	return nil
}

// lostListens terminates the LISTEN connection's backend, until the run is over.
func lostListens(_ *testing.T, ctx context.Context, s *server, m check.Monitor) error {
	const terminate = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'topostream listen' AND datname = current_database()`
	conn, err := pgx.Connect(ctx, s.databaseURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for wait(ctx, 500*time.Millisecond) {
		ended := m.Began("listen.terminate")
		_, err := conn.Exec(ctx, terminate)
		ended()
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("terminate: %w", err)
		}
	}
	return nil
}

// wait lets time pass and tells whether the run goes on.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
