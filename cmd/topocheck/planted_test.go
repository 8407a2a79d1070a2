package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topocheck/check"
	"topostream/harness/process"
	"topostream/harness/token"
	"topostream/pgbus/pgtest"
)

// An edit replaces a text in a file of the program's source.
type edit struct{ file, text, instead string }

// The program has nets beneath nets: what the catch-up or the reconnect catch-up would miss comes by the next event,
// which finds a hole, by the heartbeat, or by a client that knows more. A bug that they mend is a delay, and no
// violation. So those two are planted in a program without these nets, which is clean without the bug: a hole is read
// only where a read is under way already, that is beside a catch-up or a large event.
func withoutNets() []edit {
	return []edit{
		{"pgbus/source/poll/poll.go", "sink.Event(source.Event{Topology: at.Topology, Seq: h.Seq})", "_ = source.Event{}"},
		{"pgbus/subscribe.go", "if h.Seq > a.feed.Last() {\n\t\t\tb.backfillOne(a, stream.ReadHole)\n\t\t}", ""},
		{"pgbus/document.go", "b.backfillOne(a, stream.ReadCatchUp)", "_ = a"},
		{"pgbus/sink.go", "s.backfillOne(a, s.cause)", "s.again(a, e.Seq)"},
		{"pgbus/backfill.go", "case stream.Hole:\n\t\tb.backfillOne(a, stream.ReadHole)",
			"case stream.Hole:\n\t\tb.again(a, fr.Seq)"},
		{"pgbus/backfill.go", "// A feedRead is", `func (b *Bus) again(a *attachment, seq stream.Seq) {
	b.backfill.mu.Lock()
	queued := a.backfill.queued
	a.backfill.again = a.backfill.again || queued
	b.backfill.mu.Unlock()
	if !queued && seq == a.feed.Last()+1 {
		b.backfillOne(a, stream.ReadHole)
	}
}

// A feedRead is`},
	}
}

// A scenario is what happens to the servers while the checker runs.
type scenario func(ctx context.Context, t *testing.T, servers []*server, m check.Monitor) error

// TestTheCheckerFindsBugsPlantedInTheServer takes out of the program what keeps the promise, one by one. The same
// scenarios leave the program without the bug clean, so that it is the bug which is found.
func TestTheCheckerFindsBugsPlantedInTheServer(t *testing.T) {
	t.Parallel()
	whole(t)
	for name, c := range map[string]struct {
		nets     []edit
		bug      []edit
		scenario scenario
		want     check.Kind
	}{
		// PostgreSQL before 19 loses nothing on a connection that listens already, and a server's LISTEN connection listens
		// to nothing only until its first attach: so the servers are started again in the middle of the run. The time
		// between snapshot and COMMIT, in which that attach loses, is stretched, because a busy machine commits too seldom
		// to meet a millisecond. Requests wait longer for LISTEN than they would, because an attach by the pool is caught
		// up otherwise, and the channel of the settings, which every LISTEN connection has first, is left out. Without
		// lowest, an attach begins at its snapshot and reads nothing older.
		"no catch-up after the attach": {
			append(withoutNets(),
				edit{"pgbus/mode.go", "listenGrace = 500 * time.Millisecond", "listenGrace = 10 * time.Second"},
				edit{"pgbus/source/notify/connection.go", "settings + `LISTEN \"` + settingsChannel + `\";`", "settings"},
				edit{"pgbus/source/notify/connection.go", "_, err = c.conn.Exec(ctx, \"COMMIT\")",
					"time.Sleep(200 * time.Millisecond)\n\t\t_, err = c.conn.Exec(ctx, \"COMMIT\")"},
			),
			[]edit{
				{"pgbus/attach.go", "b.backfillAll(attached, stream.ReadCatchUp)", "_ = attached"},
				{"pgbus/attach.go", "b.newFeed(a, lowest(requests, l.Head), l.Head.Seq)",
					"b.newFeed(a, l.Head.Seq, l.Head.Seq)"},
			},
			restarts, check.Lost,
		},
		"no dedupe": {
			nil,
			[]edit{
				{"stream/feed.go", "case fr.Seq <= f.last:\n", "case fr.Seq <= f.last:\n\t\tf.push(fr)\n"},
				{"stream/cursor.go", " || fr.Seq != 0 && fr.Seq <= c.last ||", " ||"},
			},
			undisturbed, check.Doubled,
		},
		// Two writers then take the same number, and the journal's key refuses one of them.
		"no lock on the head": {
			nil,
			[]edit{
				{"sql/001_core.sql",
					"WHERE h.topology_id IN (SELECT topology_id FROM named) ORDER BY h.topology_id FOR NO KEY UPDATE)",
					"WHERE h.topology_id IN (SELECT topology_id FROM named))"},
				{"sql/001_core.sql", "WHERE h.topology_id = _id FOR NO KEY UPDATE;", "WHERE h.topology_id = _id;"},
			},
			undisturbed, check.Refused,
		},
		"an older row of the list after the newer": {
			nil,
			[]edit{{"pgbus/list/state.go", "s.rows[r.ID] = kept\n\ts.append(s.encoder.Row(kept.json), ", `s.rows[r.ID] = kept
	if old != nil {
		defer s.append(s.encoder.Row(old.json), stream.RowChange{
			Topology: r.ID, Was: status, Is: status, Removed: s.encoder.Removed(r.ID),
		})
	}
	s.append(s.encoder.Row(kept.json), `}},
			undisturbed, check.Back,
		},
		"a changed row of the list that a filter drops": {
			nil,
			[]edit{{"stream/list.go", "\t\treturn fr.Bytes\n",
				"\t\tif !f.All() && c.Is == c.Was {\n\t\t\treturn nil\n\t\t}\n\t\treturn fr.Bytes\n"}},
			undisturbed, check.Stale,
		},
		"no catch-up after a reconnect": {
			withoutNets(), []edit{{"pgbus/sink.go", "s.backfillAll(attachments, why)", "_ = attachments"}},
			lostListens, check.Lost,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			binary := planted(t, append(c.nets, c.bug...))
			for range 6 { // a race that a run of some seconds may miss
				// what is lost does not come
				report := runPlantedWith(t, binary, c.scenario, func(c *check.Config) { c.CatchUp = 15 * time.Second })
				if report.Violations[c.want] > 0 {
					return
				}
				t.Logf("violations %v", report.Violations)
			}
			t.Errorf("no run found the bug; want %s", c.want)
		})
		if c.nets != nil {
			t.Run(name+": clean without the bug", isClean(c.nets, c.scenario))
		}
	}
	t.Run("clean without a bug", isClean(nil, undisturbed))
}

// isClean runs a scenario on the program without its nets, which must go well.
func isClean(nets []edit, s scenario) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		if report := runPlanted(t, planted(t, nets), s); !report.Clean() {
			t.Errorf("violations %v", report.Violations)
		}
	}
}

// planted builds the program with edits. An edit whose text is not there, or there twice, fails the test: the program
// has changed, and the bug must be planted elsewhere.
func planted(t *testing.T, edits []edit) (binary string) {
	t.Helper()
	long(t)
	root, err := filepath.Abs(module)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var overlay struct{ Replace map[string]string } // as go build -overlay reads it
	overlay.Replace = map[string]string{}
	for i, e := range edits {
		path := filepath.Join(root, e.file)
		from := path
		if edited, ok := overlay.Replace[path]; ok {
			from = edited
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(content), e.text); n != 1 {
			t.Fatalf("%s holds %q %d times, not once", e.file, e.text, n)
		}
		overlay.Replace[path] = filepath.Join(dir, fmt.Sprint(i, filepath.Ext(path)))
		instead := strings.Replace(string(content), e.text, e.instead, 1)
		if err := os.WriteFile(overlay.Replace[path], []byte(instead), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(overlay)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return build(t, "-overlay", file)
}

// A server is one that can be started again at its address.
type server struct {
	*process.Process

	databaseURL string
}

const plantedServers = 2

func runPlanted(t *testing.T, binary string, s scenario) *check.Report {
	t.Helper()
	return runPlantedWith(t, binary, s, func(*check.Config) {})
}

func runPlantedWith(t *testing.T, binary string, s scenario, change func(*check.Config)) *check.Report {
	t.Helper()
	db := pgtest.NewEmpty(t)
	servers := make([]*server, plantedServers)
	urls := make([]string, plantedServers)
	for i := range servers {
		address := pgtest.FreeAddress(t)
		servers[i], urls[i] = newServer(t, binary, address, db.URL), "http://"+address
	}
	cfg := check.Config{
		URLs:        func() []string { return urls },
		DatabaseURL: db.URL,
		Token:       token.Issuer(testSecret).Token,
		Limited:     token.Issuer(testSecret).Limited,
		Seed:        uint64(time.Now().UnixNano()),
		Topologies:  1,
		Writers:     4,
		Clients:     8,
		Duration:    6 * time.Second,
		CatchUp:     time.Minute,
		Idle:        5 * time.Second,
		Faults:      func(ctx context.Context, m check.Monitor) error { return s(ctx, t, servers, m) },
	}
	change(&cfg)
	report, err := check.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	report.Write(&text)
	t.Log(text.String())
	return report
}

func newServer(t *testing.T, binary, address, databaseURL string) *server {
	t.Helper()
	s := &server{startServer(t, binary, databaseURL, "--migrate", "--addr", address, "--drain", "100ms"), databaseURL}
	serving(t, s.Process)
	return s
}

// kill ends it without a word.
func (s *server) kill() { _ = s.Stop(syscall.SIGKILL) } // no exit code is expected

func undisturbed(context.Context, *testing.T, []*server, check.Monitor) error { return nil }

// restarts kills each server and starts it again, once, in the middle of the writing.
func restarts(ctx context.Context, _ *testing.T, servers []*server, m check.Monitor) error {
	for _, s := range servers {
		if !wait(ctx, 500*time.Millisecond) {
			return nil
		}
		ended := m.Began("server.kill")
		s.kill()
		err := s.Start()
		ended()
		if err != nil {
			return err
		}
	}
	return nil
}

// lostListens terminates the LISTEN connections' backends, until the run is over.
func lostListens(ctx context.Context, _ *testing.T, servers []*server, m check.Monitor) error {
	const terminate = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE application_name = 'topostream listen' AND datname = current_database()`
	conn, err := pgx.Connect(ctx, servers[0].databaseURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for wait(ctx, 500*time.Millisecond) {
		ended := m.Began("listen.terminate")
		_, err := conn.Exec(ctx, terminate)
		ended()
		if err != nil && ctx.Err() == nil {
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
