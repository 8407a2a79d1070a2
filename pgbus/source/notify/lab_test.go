package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/source"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// A recorder is a sink that keeps what it is told, in words.
type recorder struct {
	source.Ignore

	told chan string
}

func (r *recorder) tellf(format string, args ...any) { r.told <- fmt.Sprintf(format, args...) }

func (r *recorder) Event(e source.Event) { r.tellf("%s", event(e.Topology, e.Seq, e.Type)) }

func event(id stream.TopologyID, seq stream.Seq, kind string) string {
	return fmt.Sprintf("event %s %d %s", id, seq, kind)
}

func (r *recorder) Raw(id stream.TopologyID, text string) { r.tellf("raw %s %s", id, text) }

func (r *recorder) Work() { r.tellf("work") }

func (r *recorder) SettingChanged() { r.tellf("setting changed") }

func (r *recorder) Subscribed(ids []stream.TopologyID, why stream.Cause) {
	r.tellf("%s", subscribedTo(why, ids...))
}

func subscribedTo(why stream.Cause, ids ...stream.TopologyID) string {
	return fmt.Sprintf("subscribed: %s %v", stream.ReadCauses[why], slices.Sorted(slices.Values(ids)))
}

func (r *recorder) State(s source.State) {
	if s.Connected {
		r.tellf("connected%s", s.Detail)
	} else {
		r.tellf("%s%s", away, s.Detail)
	}
}

const away = "away: "

// next gives what is told next.
func (r *recorder) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-r.told:
		return s
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is told")
		return ""
	}
}

// expect fails unless what is told next is this. "…" at an end stands for whatever follows.
func (r *recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		got := r.next(t)
		if beginning, ok := strings.CutSuffix(w, "…"); got != w && (!ok || !strings.HasPrefix(got, beginning)) {
			t.Fatalf("told %q, want %q", got, w)
		}
	}
}

// until skips what is told before this. Six tries in vain are enough.
func (r *recorder) until(t *testing.T, want func(told string) bool) string {
	t.Helper()
	for tries := 0; tries < 6; {
		told := r.next(t)
		switch {
		case want(told):
			return told
		case strings.HasPrefix(told, away):
			tries++
		}
	}
	t.Fatal("it does not connect")
	return ""
}

// untilTold skips what is told before this.
func (r *recorder) untilTold(t *testing.T, want string) {
	t.Helper()
	r.until(t, func(told string) bool { return told == want })
}

// untilBack skips what is said of tries in vain, and gives what is told next.
func (r *recorder) untilBack(t *testing.T) string {
	t.Helper()
	return r.until(t, func(told string) bool { return !strings.HasPrefix(told, away) })
}

// A network is what the LISTEN connection goes through.
type network struct {
	gone   atomic.Bool // new connections are refused
	writes atomic.Int64
	// onWrite, which may be nil, is called with what is sent, before it is.
	onWrite atomic.Pointer[func([]byte)]

	mu    sync.Mutex
	conns []*wire // also those that are closed
}

// A wire is one connection.
type wire struct {
	net.Conn

	of     *network
	silent atomic.Bool // what is sent does not arrive
}

var errNetwork = errors.New("no network")

func (n *network) through(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if n.gone.Load() {
			return nil, errNetwork
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: conn, of: n}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.conns = append(n.conns, w)
		return w, nil
	}
}

func (w *wire) Write(b []byte) (int, error) {
	w.of.writes.Add(1)
	if f := w.of.onWrite.Load(); f != nil {
		(*f)(b)
	}
	if w.silent.Load() {
		return len(b), nil
	}
	return w.Conn.Write(b)
}

// each calls f with each connection that there has been.
func (n *network) each(f func(*wire)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.conns {
		f(w)
	}
}

// once calls f when something is sent that contains text, and never again.
func (n *network) once(text string, f func()) {
	var sent atomic.Bool
	onWrite := func(b []byte) {
		if bytes.Contains(b, []byte(text)) && sent.CompareAndSwap(false, true) {
			f()
		}
	}
	n.onWrite.Store(&onWrite)
}

// labs counts them: each has a name of its own.
var labs atomic.Int64

// A lab is a listener whose topologies nobody else looks at.
type lab struct {
	*Listener

	name  string // application_name of the LISTEN connections, and a channel beside those of topologies
	db    *pgtest.DB
	admin *pgx.Conn
	pool  *pgxpool.Pool // of one connection: the listener's
	net   *network
	sink  *recorder
	stats *stream.Stats
}

// newLab makes a listener on the shared database.
func newLab(t *testing.T, changes ...func(*Config)) *lab {
	t.Helper()
	return newLabOn(t, pgtest.Shared(t), changes...)
}

// newLabOn makes a listener. Its pings are an hour apart: whatever is done sooner is done because it was asked for.
func newLabOn(t *testing.T, db *pgtest.DB, changes ...func(*Config)) *lab {
	t.Helper()
	l := &lab{
		name: fmt.Sprint("lab_", labs.Add(1)), db: db, net: &network{},
		sink: &recorder{told: make(chan string, 10_000)}, stats: metrictest.Stats(),
	}
	l.admin = l.db.Conn(t)
	pool, err := pgxpool.ParseConfig(l.db.URL)
	must(t, err)
	pool.MaxConns = 1
	l.pool = poolOf(t, pool)
	conn, err := pgx.ParseConfig(l.db.URL)
	must(t, err)
	conn.RuntimeParams["application_name"] = l.name
	conn.DialFunc = l.net.through(conn.DialFunc)
	conn.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { l.sink.tellf("notice %s", n.Message) }
	cfg := Config{
		Conn: conn, Pool: l.pool, Keyed: true, Channels: []string{l.name}, Ping: time.Hour, Stats: l.stats,
	}
	for _, change := range changes {
		change(&cfg)
	}
	l.Listener = New(cfg)
	return l
}

func poolOf(t *testing.T, cfg *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// start runs the listener until the test ends.
func (l *lab) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx, l.sink)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		pgtest.Eventually(t, "the server to see that the connections are closed", func() bool { return l.servers(t) == 0 })
		close(l.sink.told)
		for s := range l.sink.told { // PostgreSQL warns of what makes no sense, as ROLLBACK without a transaction
			if strings.HasPrefix(s, "notice") {
				t.Error(s)
			}
		}
	})
}

// newConnected makes a listener that is connected.
func newConnected(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.connect(t)
	return l
}

// connect runs the listener until the test ends, and returns when it is connected.
func (l *lab) connect(t *testing.T) {
	t.Helper()
	l.start(t)
	l.sink.expect(t, "connected", "setting changed", "work")
}

// follow makes topologies, and returns when the listener has subscribed to them.
func (l *lab) follow(t *testing.T, n int) []stream.TopologyID {
	t.Helper()
	ids := make([]stream.TopologyID, 0, n)
	for range n {
		id := l.topology(t)
		l.Follow(id)
		l.sink.expect(t, subscribedTo(stream.ReadCatchUp, id))
		ids = append(ids, id)
	}
	return ids
}

func (l *lab) topology(t *testing.T) stream.TopologyID {
	t.Helper()
	const insert = `INSERT INTO topologies (name) VALUES (gen_random_uuid()::text) RETURNING id::text`
	return pgtest.Scan[stream.TopologyID](t, l.admin, insert)
}

// emit gives what the listener tells of the event, if it does.
func (l *lab) emit(t *testing.T, id stream.TopologyID) string {
	t.Helper()
	return event(id, pgtest.Scan[stream.Seq](t, l.admin, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id), "x")
}

func (l *lab) head(t *testing.T, id stream.TopologyID) stream.Seq {
	t.Helper()
	return pgtest.Scan[stream.Seq](t, l.admin, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
}

// notify NOTIFYs by hand.
func (l *lab) notify(t *testing.T, channel, payload string) {
	t.Helper()
	pgtest.Exec(t, l.admin, `SELECT pg_notify($1, $2)`, channel, payload)
}

// nothing fails when anything is told that is not followed by what comes now: notifications come in commit order.
func (l *lab) nothing(t *testing.T) {
	t.Helper()
	l.notify(t, l.name, "")
	l.sink.expect(t, "work")
}

// listening gives the topologies that the connection LISTENs to, when it has done all that it was asked for.
func (l *lab) listening(t *testing.T) (ids []stream.TopologyID) {
	t.Helper()
	const query = `SELECT substr(c, 10) FROM pg_listening_channels() c WHERE c LIKE 'topology.%' ORDER BY c COLLATE "C"`
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 { // what the first one LISTENs to or UNLISTENs is seen by the second
		must(t, l.Attach(ctx, nil, func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, query)
			if err == nil {
				ids, err = pgx.CollectRows(rows, pgx.RowTo[stream.TopologyID])
			}
			return err
		}))
	}
	return ids
}

// expectListening fails unless the connection LISTENs to these topologies, and says so.
func (l *lab) expectListening(t *testing.T, want ...stream.TopologyID) {
	t.Helper()
	slices.Sort(want)
	if got := l.listening(t); !slices.Equal(got, want) {
		t.Fatalf("it LISTENs to %v, want %v", got, want)
	}
	if n := metrictest.Value(l.stats.Channels); n != int64(len(want)) {
		t.Fatalf("it counts %d channels, want %d", n, len(want))
	}
}

// servers counts the LISTEN connections at the server.
func (l *lab) servers(t *testing.T) int {
	t.Helper()
	const query = `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`
	return pgtest.Scan[int](t, l.admin, query, l.name)
}

// terminate ends the LISTEN connection at the server.
func (l *lab) terminate(t *testing.T) {
	t.Helper()
	const query = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE application_name = $1 AND datname = current_database()`
	if n := pgtest.Scan[int](t, l.admin, query, l.name); n != 1 {
		t.Fatalf("%d connections LISTEN", n)
	}
}

// server is the pool's connection's backend.
func (l *lab) server(t *testing.T) (pid int) {
	t.Helper()
	must(t, l.pool.QueryRow(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid))
	return pid
}

// none is a read that reads nothing.
func none(context.Context, *pgx.Conn) error { return nil }
