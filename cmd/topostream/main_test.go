package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	gosse "github.com/tmaxmax/go-sse"

	"topostream/pgbus/pgcluster"
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

// startServer runs the whole program in this process and gives its address.
func startServer(t *testing.T, databaseURL string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out lockedBuffer
	address := make(chan string, 1)
	done := make(chan error, 1)
	cmd := serveCmd{
		database: database{databaseURL}, Addr: "127.0.0.1:0", JWTSecret: testSecret, Keepalive: time.Second, WriteTimeout: 5 * time.Second,
		Drain: time.Second, FeedMemory: 64 << 20, MutationRetention: defaultMutationRetention, LogFormat: "text",
		ready: func(a string) { address <- a },
	}
	for _, f := range flags {
		cmd.Bus = f
	}
	go func() { done <- cmd.Run(ctx, output{io.Discard, &out}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if strings.Contains(out.String(), testSecret) {
			t.Error("the log holds the secret")
		}
		if t.Failed() {
			t.Log(out.String())
		}
	})
	select {
	case a := <-address:
		return "http://" + a
	case err := <-done:
		done <- nil
		t.Fatalf("serve: %v\n%s", err, out.String())
	}
	return ""
}

func testToken(t *testing.T) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"token", "--jwt-secret", testSecret}, &out, &errOut); code != exitOK {
		t.Fatal(errOut.String())
	}
	return strings.TrimSpace(out.String())
}

// A client follows one topology as a browser does: it reconnects by itself and sends the last id that it has.
type client struct {
	t         *testing.T
	url       string
	token     string
	last      string
	seqs      []uint64 // journaled events, in the order they came
	snapshots []uint64
	raw       []string
}

// follow reads until the journaled event until has come, or f says stop. It fails on whatever breaks the promise.
func (c *client) follow(ctx context.Context, until uint64, stop func() bool) {
	c.t.Helper()
	for ctx.Err() == nil {
		if c.connect(ctx, until, stop) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	c.t.Errorf("the client did not get %d: it has %d events, the last is %s", until, len(c.seqs), c.last)
}

func (c *client) connect(ctx context.Context, until uint64, stop func() bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		c.t.Error(err)
		return true
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+c.token)
	if c.last != "" {
		req.Header.Set("Last-Event-ID", c.last)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end or given up
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		c.t.Errorf("%s: %s", res.Status, body)
		return true
	}
	for e, err := range gosse.Read(res.Body, &gosse.ReadConfig{MaxEventSize: maxEvent}) {
		if err != nil {
			return false
		}
		if c.event(e) >= until {
			return true
		}
		if stop != nil && stop() {
			return false
		}
	}
	return false
}

func (c *client) event(e gosse.Event) uint64 {
	var body struct {
		Seq       uint64
		Journaled bool
	}
	if err := json.Unmarshal([]byte(e.Data), &body); err != nil {
		c.t.Errorf("%s: %v", e.Data, err)
	}
	switch {
	case e.Type == "snapshot":
		c.snapshots = append(c.snapshots, body.Seq)
		c.last = e.LastEventID
	case body.Journaled:
		var before uint64
		if c.last != "" {
			_, _ = fmt.Sscan(c.last, &before)
		}
		if body.Seq != before+1 || e.LastEventID != fmt.Sprint(body.Seq) {
			c.t.Errorf("event %d (id %s) came after %s", body.Seq, e.LastEventID, c.last)
		}
		c.seqs = append(c.seqs, body.Seq)
		c.last = e.LastEventID
	default:
		c.raw = append(c.raw, e.Data)
	}
	return body.Seq
}

func demo(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var id string
	if err := conn.QueryRow(t.Context(), `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// write commits n events, trying again while the database is away, and gives the head afterwards.
func write(t *testing.T, url, id string, n int) (head uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var conn *pgx.Conn
	for n > 0 {
		var err error
		if conn == nil || conn.IsClosed() {
			if conn, err = pgx.Connect(ctx, url); err != nil {
				if ctx.Err() != nil {
					t.Fatal(err)
				}
				continue
			}
		}
		if err = conn.QueryRow(ctx, `SELECT topology_emit($1::text::uuid, 'test', '{}')`, id).Scan(&head); err == nil {
			n--
		}
	}
	_ = conn.Close(ctx)
	return head
}

func TestEveryEventReachesAClientThroughDatabaseFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*testing.T, *pgcluster.Cluster, *pgx.Conn){
		"LISTEN and pool backends terminated": func(t *testing.T, _ *pgcluster.Cluster, admin *pgx.Conn) {
			_, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
			if err != nil {
				t.Error(err)
			}
		},
		"fast restart": func(t *testing.T, c *pgcluster.Cluster, _ *pgx.Conn) {
			if err := c.Restart(t.Context(), pgcluster.Fast); err != nil {
				t.Error(err)
			}
		},
		"immediate restart": func(t *testing.T, c *pgcluster.Cluster, _ *pgx.Conn) {
			if err := c.Restart(t.Context(), pgcluster.Immediate); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := pgtest.Cluster(t)
			db := pgtest.NewOn(t, cluster.URL("postgres"))
			conn := db.Conn(t)
			id := demo(t, conn)
			server := startServer(t, db.URL)
			c := &client{t: t, url: server + "/api/v1/topologies/" + id + "/events", token: testToken(t)}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			head := write(t, db.URL, id, 20)
			c.follow(ctx, head, nil)
			for range 3 {
				var wg sync.WaitGroup
				wg.Go(func() { head = write(t, db.URL, id, 200) })
				fault(t, cluster, db.Conn(t))
				wg.Wait()
				c.follow(ctx, head, nil)
			}
			if len(c.snapshots) != 1 {
				t.Errorf("%d snapshots: one is enough for a client that resumes", len(c.snapshots))
			}
		})
	}
}

func TestAClientThatIsCutAtAnyMomentEndsWithTheJournal(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"notify", "poll"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			id := demo(t, db.Conn(t))
			server := startServer(t, db.URL, bus)
			c := &client{t: t, url: server + "/api/v1/topologies/" + id + "/events", token: testToken(t), last: "0"}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			const events = 1000
			var wg sync.WaitGroup
			wg.Go(func() { write(t, db.URL, id, events) })
			n := 0
			c.follow(ctx, events+1, func() bool { n++; return n%7 == 0 })
			wg.Wait()
			if len(c.seqs) != events+1 || len(c.snapshots) != 0 {
				t.Errorf("%d events and %d snapshots, want %d and none", len(c.seqs), len(c.snapshots), events+1)
			}
		})
	}
}

func TestWhatAPersonTypesInPsqlReachesTheStream(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	c := &client{t: t, url: server + "/api/v1/topologies/" + id + "/events", token: testToken(t)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c.follow(ctx, 1, nil) // the snapshot; the feed stays attached
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		out, err := db.Psql(t, `
UPDATE topologies SET status = 'deploying' WHERE name = 'demo';
INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name":"lan-9"}' FROM topologies WHERE name = 'demo';
NOTIFY "topology.`+id+`", '{"type":"mutation.applied","payload":{"mutation_id":"by-hand"}}';
NOTIFY "topology.`+id+`", 'any text at all';
NOTIFY "topology.`+id+`", '~00000000000000000000000000000000:99 {"forged":true}';
SELECT topology_emit(id, 'decky.service_added', '{"decky_name":"web-1","services":["ssh"]}') FROM topologies WHERE name = 'demo';`)
		if err != nil {
			t.Errorf("psql: %v: %s", err, out)
		}
	}()
	c.follow(ctx, 4, nil)
	<-typed
	if fmt.Sprint(c.seqs) != "[2 3 4]" {
		t.Errorf("journaled: %v", c.seqs)
	}
}

func TestChecksComeInTheOrder401Then403Then404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	const unknown = "00000000-0000-4000-8000-000000000000"
	var limited, errOut bytes.Buffer
	if code := run(t.Context(), []string{"token", "--jwt-secret", testSecret, "--topology", unknown}, &limited, &errOut); code != exitOK {
		t.Fatal(errOut.String())
	}
	for _, c := range []struct {
		token, id string
		want      int
	}{
		{"", id, 401}, {"", unknown, 401}, {"", "x", 401},
		{strings.TrimSpace(limited.String()), id, 403}, {strings.TrimSpace(limited.String()), unknown, 404},
		{testToken(t), unknown, 404}, {testToken(t), "x", 404},
	} {
		for _, path := range []string{"/events", "/journal", "/events/"} {
			res, err := http.Get(server + "/api/v1/topologies/" + c.id + path + "?token=" + c.token)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != c.want || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s%s: %s %s", c.id, path, res.Status, body)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestStartingErrorsSayTheFix(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for want, args := range map[string][]string{
		"cannot reach PostgreSQL":  {"--database-url", "postgres://x:y@127.0.0.1:1/z", "--jwt-secret", testSecret},
		"openssl rand":             {"--database-url", db.URL, "--jwt-secret", "short"},
		"TOPOSTREAM_JWT_SECRET":    {"--database-url", db.URL},
		"is not built yet":         {"--database-url", db.URL, "--jwt-secret", testSecret, "--mutator"},
		"user or the password":     {"--database-url", strings.Replace(db.URL, "//postgres:", "//postgres:wrong", 1), "--jwt-secret", testSecret},
		"--tls-cert and --tls-key": {"--database-url", db.URL, "--jwt-secret", testSecret, "--tls-cert", "x"},
		"missing flags":            {"--jwt-secret", testSecret},
	} {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code := run(ctx, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...), &out, &errOut)
		cancel()
		if code == exitOK || !strings.Contains(errOut.String(), want) {
			t.Errorf("%v: %d %s", args, code, errOut.String())
		}
	}
}
