package mutator

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// shorter is how much of something a test does: less where tests are to be short.
func shorter(much, less int) int {
	if testing.Short() {
		return less
	}
	return much
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A logBook keeps what a worker logs.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// says waits for a line that holds all of these.
func (b *logBook) says(t testing.TB, parts ...string) {
	t.Helper()
	pgtest.Eventually(t, strings.Join(parts, " … ")+" in the log", func() bool {
		for line := range strings.Lines(b.String()) {
			all := true
			for _, part := range parts {
				all = all && strings.Contains(line, part)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// A network lies between a worker and its database.
type network struct {
	down    atomic.Bool            // connections that are open then are cut, and none can be made
	silent  atomic.Bool            // a connection ends when PostgreSQL has let it in
	leadsTo atomic.Pointer[string] // another address than the one that is asked for

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (n *network) dial(ctx context.Context, kind, addr string) (net.Conn, error) {
	if n.down.Load() {
		return nil, errors.New("the network is down")
	}
	if other := n.leadsTo.Load(); other != nil {
		addr = *other
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, kind, addr)
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.conns == nil {
			n.conns = map[net.Conn]struct{}{}
		}
		n.conns[conn] = struct{}{}
	}
	return conn, err
}

// letIn is for pgconn's AfterConnect.
func (n *network) letIn(_ context.Context, conn *pgconn.PgConn) error {
	if n.silent.Load() {
		_ = conn.Conn().(*net.TCPConn).CloseRead() //nolint:forcetypeassert // what a silent network gives is an EOF
	}
	return nil
}

func (n *network) cut() {
	n.down.Store(true)
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.conns {
		_ = conn.Close() // it may be closed
	}
	clear(n.conns)
}

// A testWorker runs until the test ends or stop is called, which waits.
type testWorker struct {
	*Worker

	log     *logBook
	stop    func()
	network network // of its pool
	listens network // of its LISTEN connection
}

func newWorker(t testing.TB, url string, change func(*Config)) *testWorker {
	t.Helper()
	tw := &testWorker{log: &logBook{}}
	listen, err := pgx.ParseConfig(url)
	must(t, err)
	listen.DialFunc, listen.AfterConnect = tw.listens.dial, tw.listens.letIn
	handler := slog.NewTextHandler(tw.log, &slog.HandlerOptions{Level: slog.LevelDebug})
	cfg := Config{Listen: listen, Logger: slog.New(handler)}
	if change != nil {
		change(&cfg)
	}
	pool, err := pgxpool.ParseConfig(url)
	must(t, err)
	pool.AfterConnect = postgres.Prepare
	pool.MaxConns = Connections(max(cfg.Concurrency, 4))
	pool.ConnConfig.DialFunc, pool.ConnConfig.AfterConnect = tw.network.dial, tw.network.letIn
	cfg.Pool, err = pgxpool.NewWithConfig(context.Background(), pool)
	must(t, err)
	t.Cleanup(cfg.Pool.Close)
	tw.Worker = New(cfg)
	return tw
}

func (tw *testWorker) run(t testing.TB) *testWorker {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tw.Run(ctx) }()
	tw.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(tw.log.String())
		}
	})
	t.Cleanup(tw.stop)
	return tw
}

// startWorker runs a worker that listens.
func startWorker(t testing.TB, db *pgtest.DB, change func(*Config)) *testWorker {
	t.Helper()
	tw := newWorker(t, db.URL, change).run(t)
	tw.log.says(t, "msg=listening")
	return tw
}

// asWorker makes a role with the grants of deploy/postgres for a worker, and gives the URL that it connects with.
func asWorker(t testing.TB, db *pgtest.DB) string {
	t.Helper()
	return as(t, db, "worker")
}

// as does that for any role of deploy/postgres/grants.sql.
func as(t testing.TB, db *pgtest.DB, role string) string {
	t.Helper()
	page, err := os.ReadFile("../../deploy/postgres/grants.sql")
	must(t, err)
	grants := regexp.MustCompile(`(?s)-- ` + role + `\n(.*?)\n\n`).FindSubmatch(page)
	if grants == nil {
		t.Fatalf("grants.sql has no grants for %s", role)
	}
	name := fmt.Sprintf("%s_%d", role, time.Now().UnixNano()) // roles are the cluster's, not the database's
	db.Exec(t, `CREATE ROLE `+name+` LOGIN PASSWORD 'x'`)
	t.Cleanup(func() {
		db.Exec(t, `DROP OWNED BY `+name)
		db.Exec(t, `DROP ROLE `+name)
	})
	db.Exec(t, strings.ReplaceAll(string(grants[1]), "topostream_"+role, name))
	u, err := url.Parse(db.URL)
	must(t, err)
	u.User = url.UserPassword(name, "x")
	return u.String()
}

// active makes n active topologies.
func active(t testing.TB, conn *pgx.Conn, n int) []stream.TopologyID {
	t.Helper()
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT gen_random_uuid()::text FROM generate_series(1, $1)`, n)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying' WHERE status = 'pending'`)
	const activate = `UPDATE topologies SET status = 'active' WHERE status = 'deploying' RETURNING id::text`
	rows, err := conn.Query(context.Background(), activate)
	must(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[stream.TopologyID])
	must(t, err)
	return ids
}

func enqueue(t testing.TB, conn *pgx.Conn, id stream.TopologyID, op, payload string) stream.MutationID {
	t.Helper()
	const insert = `
INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb) RETURNING id::text`
	return pgtest.Scan[stream.MutationID](t, conn, insert, id, op, payload)
}

// newLAN enqueues an edit that never fails.
func newLAN(t testing.TB, conn *pgx.Conn, id stream.TopologyID) stream.MutationID {
	t.Helper()
	return enqueue(t, conn, id, "add_lan", `{"name":"`+rand.Text()+`"}`)
}

// awaitState waits until a mutation is in a state, and gives its reason.
func awaitState(t testing.TB, conn *pgx.Conn, m stream.MutationID, state string) (reason string) {
	t.Helper()
	pgtest.Eventually(t, "the mutation to be "+state, func() bool { return stateOf(t, conn, m) == state })
	return pgtest.Scan[string](t, conn, `SELECT coalesce(reason, '') FROM mutations WHERE id = $1::text::uuid`, m)
}

// statusOf gives a topology's status and the reason for it.
func statusOf(t testing.TB, conn *pgx.Conn, id stream.TopologyID) string {
	t.Helper()
	const query = `SELECT status || ': ' || coalesce(reason, '') FROM topologies WHERE id = $1::text::uuid`
	return pgtest.Scan[string](t, conn, query, id)
}

func stateOf(t testing.TB, conn *pgx.Conn, m stream.MutationID) string {
	t.Helper()
	return pgtest.Scan[string](t, conn, `SELECT state FROM mutations WHERE id = $1::text::uuid`, m)
}

// An event is a row of the journal.
type event struct {
	Seq     int64
	Type    string
	Payload struct {
		MutationID stream.MutationID `json:"mutation_id"`
		State      string
		Reason     string
		Attempt    int
		Result     json.RawMessage
	}
}

func journal(t testing.TB, conn *pgx.Conn, id stream.TopologyID) []event {
	t.Helper()
	const query = `SELECT seq, type, payload FROM topology_events WHERE topology_id = $1::text::uuid ORDER BY seq`
	rows, err := conn.Query(context.Background(), query, id)
	must(t, err)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	must(t, err)
	return events
}

// story is the types of the events of one mutation, in order.
func story(events []event, m stream.MutationID) string {
	var types []string
	for _, e := range events {
		if e.Payload.MutationID == m {
			types = append(types, strings.TrimPrefix(e.Type, "mutation."))
		}
	}
	return strings.Join(types, " ")
}

// oneAtATime fails unless the journal is gapless, at most one mutation was ever applying, and each ended at most once.
func oneAtATime(t testing.TB, events []event) {
	t.Helper()
	var applying stream.MutationID
	ended := map[stream.MutationID]bool{}
	for i, e := range events {
		m := e.Payload.MutationID
		if e.Seq != events[0].Seq+int64(i) {
			t.Errorf("seq %d came after %d", e.Seq, events[i-1].Seq)
		}
		switch e.Type {
		case "mutation.applying":
			if applying != "" {
				t.Errorf("seq %d: %s is applying while %s is", e.Seq, m, applying)
			}
			applying = m
		case "mutation.applied", "mutation.failed", "mutation.requeued":
			if applying != m || ended[m] {
				t.Errorf("seq %d: %s of %s while %s is applying", e.Seq, e.Type, m, applying)
			}
			ended[m] = e.Type != "mutation.requeued"
			applying = ""
		}
	}
}

// An applier of a test: it tells that it was called, and answers when it is told to.
type applier struct {
	called   chan stream.Mutation
	answer   chan error
	stubborn bool // it goes on when its context has ended
}

func newApplier() *applier {
	return &applier{called: make(chan stream.Mutation), answer: make(chan error)}
}

func (a *applier) Apply(ctx context.Context, m stream.Mutation) error {
	if a.stubborn {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
	}
	gone := ctx.Done()
	select {
	case a.called <- m:
	case <-gone:
		return context.Cause(ctx)
	}
	select {
	case err := <-a.answer:
		return err
	case <-gone:
		return context.Cause(ctx)
	}
}

// receive waits for a value.
func receive[T any](t testing.TB, from <-chan T, what string) (v T) {
	t.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	select {
	case v = <-from:
	case <-timeout.C:
		t.Fatalf("waited for %s in vain", what)
	}
	return v
}

// never is a poll that helps nobody.
func never(c *Config) { c.Poll = time.Hour }
