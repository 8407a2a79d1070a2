package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	gosse "github.com/tmaxmax/go-sse"

	scrape "topostream/harness/metric"
	child "topostream/harness/process"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

func TestMain(m *testing.M) {
	http.DefaultClient.Transport = contracted(http.DefaultTransport) // of http.Get, too
	pgtest.Main(m)
}

// maxEvent is the largest event with its frame: 16 MiB and some.
const maxEvent = 17 << 20

const testSecret = "a secret of the tests, 32 bytes or more"

// lockedBuffer collects a program's output while it runs.
type lockedBuffer = child.Output

// A testServer is the whole program, run in this process.
type testServer struct {
	url  string
	log  *lockedBuffer
	stop func() // ends it in order and waits; a second call does nothing
}

// startServer runs the program until the test ends and gives its address.
func startServer(t *testing.T, databaseURL string, bus ...string) string {
	t.Helper()
	return serve(t, databaseURL, func(c *serveCmd) {
		for _, b := range bus {
			c.Bus = b
		}
	}).url
}

func serve(t testing.TB, databaseURL string, change func(*serveCmd)) *testServer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out lockedBuffer
	address := make(chan string, 1)
	done := make(chan error, 1)
	cmd := serveCmd{
		database: database{
			databaseURL,
		},
		Addr:              "127.0.0.1:0",
		JWTSecret:         testSecret,
		Keepalive:         time.Second,
		WriteTimeout:      5 * time.Second,
		Drain:             time.Second,
		FeedMemory:        64 << 20,
		MutationRetention: defaultMutationRetention,
		logging:           logging{LogFormat: "text", LogLevel: "info"},
		Engine:            os.Getenv("TOPOSTREAM_TEST_ENGINE"),
		ready:             func(a string) { address <- a },
	}
	if change != nil {
		change(&cmd)
	}
	go func() { done <- cmd.Run(ctx, output{io.Discard, &out}) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if holdsSecret(out.String(), databaseURL) {
			t.Error("the log holds a secret")
		}
		if t.Failed() {
			t.Log(out.String())
		}
	})
	t.Cleanup(stop)
	select {
	case a := <-address:
		holdToContract(t, a)
		return &testServer{"http://" + a, &out, stop}
	case err := <-done:
		done <- nil
		t.Fatalf("serve: %v\n%s", err, out.String())
	}
	return nil
}

// holdsSecret tells whether a server's log holds a secret that the tests use: the gate sees what the tests print, and
// logs only of those that fail.
func holdsSecret(log, databaseURL string) bool {
	if u, err := url.Parse(databaseURL); err == nil && u.User != nil {
		if password, _ := u.User.Password(); password != "" && strings.Contains(log, password) {
			return true
		}
	}
	const token, ticket = `eyJ[\w-]+\.`, `(^|[^\w-])[\w-]{43}($|[^\w-])`
	return strings.Contains(log, testSecret) || regexp.MustCompile(token+"|"+ticket).MatchString(log)
}

func testToken(t testing.TB) string {
	t.Helper()
	return signed(t, auth.Claims{Subject: "operator", Role: stream.RoleViewer, TTL: time.Hour})
}

// signed is a token that says this.
func signed(t testing.TB, claims auth.Claims) (token string) {
	t.Helper()
	token, err := auth.Sign([]byte(testSecret), claims, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A client follows one topology as a browser does: it reconnects by itself and sends the last id that it has. It fails
// its test on whatever breaks the promise: an event that is not last+1, an id that is not the seq, data that is no
// JSON.
type client struct {
	t     *testing.T
	url   string
	token string

	mu        sync.Mutex
	last      string
	seqs      []uint64 // journaled events, in the order they came
	data      []string // their JSON
	snapshots []uint64
	raw       []gosse.Event // events that are not journaled
	connects  int           // but for those before the first snapshot, to which a busy server said: later
	came      chan struct{} // of one place: something came since it was read

	connected bool // what last is came from this connection
	forged    bool // somebody forges events with the right key: a snapshot may take them back
}

// newClient makes a client that has not connected yet. after is the id that it knows, empty for none.
func newClient(t *testing.T, server, id, after string) *client {
	t.Helper()
	return &client{
		t:     t,
		url:   server + "/api/v1/topologies/" + id + "/events",
		token: testToken(t),
		last:  after,
		came:  make(chan struct{}, 1),
	}
}

// follow reads until the journaled event until, or a snapshot at or above it, has come.
func (c *client) follow(ctx context.Context, until uint64) {
	c.t.Helper()
	for ctx.Err() == nil {
		if c.connect(ctx, until, nil) {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	c.t.Errorf("the client did not get %d: it has %d events, the last is %s", until, len(c.seqs), c.last)
}

// watch keeps the client connected until the test ends.
func (c *client) watch() *client {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil && !c.connect(ctx, math.MaxUint64, nil) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return c
}

// await waits until what a watched client has fulfils enough, which runs under the client's lock.
func (c *client) await(what string, enough func() bool) {
	c.t.Helper()
	timeout := time.NewTimer(2 * time.Minute)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		ok, last := enough(), c.last
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-c.came:
		case <-timeout.C:
			c.t.Fatalf("waited for %s in vain: the last id is %s, %d connects", what, last, c.connects)
		}
	}
}

// awaitSeq waits until a watched client has got n, by an event or by a snapshot.
func (c *client) awaitSeq(n uint64) {
	c.t.Helper()
	c.await(fmt.Sprint("seq ", n), func() bool { last, _ := strconv.ParseUint(c.last, 10, 64); return last >= n })
}

// connect reads one answer until the seq until has come (then it gives true), stop says so, or the stream ends.
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
	c.mu.Lock()
	if c.last != "" {
		req.Header.Set("Last-Event-ID", c.last)
	}
	c.mu.Unlock()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end or given up
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		c.t.Errorf("%s: %s", res.Status, body)
		return true
	}
	c.mu.Lock()
	c.connects++
	c.connected = false
	c.mu.Unlock()
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

// event takes one event in and gives its seq, 0 if it is not journaled.
func (c *client) event(e gosse.Event) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		select {
		case c.came <- struct{}{}:
		default:
		}
	}()
	var body struct {
		Seq       uint64
		Type      string
		Journaled bool
	}
	if err := json.Unmarshal([]byte(e.Data), &body); err != nil {
		c.t.Errorf("%s: %q: %v", e.Type, e.Data, err)
	}
	switch {
	case e.Type == "snapshot":
		last, err := strconv.ParseUint(c.last, 10, 64)
		if err == nil && body.Seq < last && body.Seq>>32 == last>>32 && c.connected && !c.forged {
			c.t.Errorf("a snapshot at %d came after %d", body.Seq, last)
		}
		if len(c.snapshots) == 0 && len(c.seqs) == 0 {
			c.connects = 1
		}
		c.snapshots = append(c.snapshots, body.Seq)
		c.last = e.LastEventID
	case body.Journaled:
		if before, err := strconv.ParseUint(c.last, 10, 64); err != nil || body.Seq != before+1 {
			c.t.Errorf("event %d came after %q", body.Seq, c.last)
		}
		if e.LastEventID != strconv.FormatUint(body.Seq, 10) || e.Type != body.Type {
			c.t.Errorf("event %s with id %s holds %s", e.Type, e.LastEventID, e.Data)
		}
		c.seqs = append(c.seqs, body.Seq)
		c.data = append(c.data, e.Data)
		c.last = e.LastEventID
	default:
		c.raw = append(c.raw, e)
	}
	c.connected = true
	return body.Seq
}

// demo makes a topology.
func demo(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return topology(t, conn, "demo")
}

func topology(t testing.TB, conn *pgx.Conn, name string) string {
	t.Helper()
	return pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ($1) RETURNING id::text`, name)
}

// emit commits one event and gives its seq.
func emit(t *testing.T, conn *pgx.Conn, id string) uint64 {
	t.Helper()
	return pgtest.Scan[uint64](t, conn, `SELECT topology_emit($1::text::uuid, 'test', '{}')`, id)
}

// write commits n events, trying again while the database is away, and gives the head afterwards.
func write(t *testing.T, url, id string, n int) (head uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var conn *pgx.Conn
	for n > 0 {
		var err error
		if conn == nil || conn.IsClosed() {
			if conn, err = pgx.Connect(ctx, url); err != nil {
				if ctx.Err() != nil {
					t.Error(err)
					return head
				}
				continue
			}
		}
		if err = conn.QueryRow(ctx, `SELECT topology_emit($1::text::uuid, 'test', '{}')`, id).Scan(&head); err == nil {
			n--
		}
	}
	_ = conn.Close(ctx) // its work is done
	return head
}

// journal gives the whole journal above after, as the events' JSON, through the server.
func journal(t *testing.T, server, id string, after uint64) (events []string) {
	t.Helper()
	for {
		var page struct {
			Head   uint64
			Events []json.RawMessage
		}
		getJSON(t, fmt.Sprintf("%s/api/v1/topologies/%s/journal?limit=1000&after=%d", server, id, after), &page)
		for _, e := range page.Events {
			events = append(events, string(e))
		}
		after += uint64(len(page.Events))
		if after >= page.Head || len(page.Events) == 0 {
			return events
		}
	}
}

func getJSON(t *testing.T, url string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken(t))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = res.Body.Close() }() // it is read
	if err := json.NewDecoder(res.Body).Decode(into); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
}

// metric reads one value of /metrics.
func metric(t *testing.T, server, series string) float64 {
	t.Helper()
	v, err := scrape.Read(context.WithoutCancel(t.Context()), server, series)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// awaitListen waits until the server LISTENs for n topologies. What somebody NOTIFYs by hand before is for nobody.
func awaitListen(t *testing.T, server string, n float64) {
	t.Helper()
	pgtest.Eventually(t, "LISTEN", func() bool {
		return metric(t, server, "topostream_listening") == 1 && metric(t, server, "topostream_channels") >= n
	})
}

// get asks with a header and gives the whole answer, which must have an end.
func get(t *testing.T, url string, header ...string) (status int, _ http.Header, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken(t))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = res.Body.Close() }() // it is read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", url, err))
	}
	return res.StatusCode, res.Header, string(b)
}

// live makes n active topologies.
func live(t testing.TB, conn *pgx.Conn, n int) []string {
	t.Helper()
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'live-' || i FROM generate_series(1, $1) i`, n)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active'`)
	return pgtest.Scan[[]string](t, conn, `SELECT array_agg(id::text ORDER BY id) FROM topologies`)
}

// eventually asks again and again until the answer is yes, and gives an error if it never is.
func eventually(within time.Duration, yes func() bool) error {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !yes() {
		select {
		case <-again.C:
		case <-timeout.C:
			return fmt.Errorf("not within %s", within)
		}
	}
	return nil
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }
