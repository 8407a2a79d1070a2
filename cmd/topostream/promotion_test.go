package main

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// A pair is a primary with a standby, and a database on both.
type pair struct {
	t                *testing.T
	primary, standby *pgcluster.Cluster
	db               *pgtest.DB // on the primary
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, primary: pgtest.Cluster(t)}
	(&pgtest.DB{URL: p.primary.URL("postgres")}).Exec(t, `CREATE DATABASE streams`) // which ends with its cluster
	p.db = &pgtest.DB{URL: p.primary.URL("streams")}
	if err := sql.Up(t.Context(), p.db.Conn(t)); err != nil {
		t.Fatal(err)
	}
	p.standby = pgtest.Standby(t, p.primary)
	return p
}

// hosts is a connection string with these clusters' hosts.
func hosts(t *testing.T, attrs string, clusters ...*pgcluster.Cluster) string {
	t.Helper()
	var all *url.URL
	for _, c := range clusters {
		u, err := url.Parse(c.URL("streams"))
		if err != nil {
			t.Fatal(err)
		}
		if all == nil {
			all = u
			continue
		}
		all.Host += "," + u.Host
	}
	if attrs != "" {
		all.RawQuery += "&target_session_attrs=" + attrs
	}
	return all.String()
}

func (p *pair) both() string {
	p.t.Helper()
	return hosts(p.t, "read-write", p.primary, p.standby)
}

func (p *pair) connStandby() *pgx.Conn { return (&pgtest.DB{URL: p.standby.URL("streams")}).Conn(p.t) }

// admin is a connection to a cluster's database for administration.
func admin(t *testing.T, c *pgcluster.Cluster) *pgx.Conn {
	t.Helper()
	return (&pgtest.DB{URL: c.URL("postgres")}).Conn(t)
}

// caughtUp waits until the standby has replayed what the primary has written.
func (p *pair) caughtUp() {
	p.t.Helper()
	lsn := pgtest.Scan[string](p.t, admin(p.t, p.primary), `SELECT pg_current_wal_flush_lsn()::text`)
	conn := admin(p.t, p.standby)
	pgtest.Eventually(p.t, "the standby to catch up", func() bool {
		return pgtest.Scan[bool](p.t, conn, `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, lsn)
	})
}

// cut ends replication: what is committed from here on is lost with the primary.
func (p *pair) cut() {
	p.t.Helper()
	conn := admin(p.t, p.standby)
	pgtest.Exec(p.t, conn, `ALTER SYSTEM SET primary_conninfo = ''`)
	pgtest.Exec(p.t, conn, `SELECT pg_reload_conf()`)
	pgtest.Eventually(p.t, "the end of replication", func() bool {
		return pgtest.Scan[int](p.t, conn, `SELECT count(*) FROM pg_stat_wal_receiver`) == 0
	})
}

func (p *pair) promote() {
	p.t.Helper()
	if err := p.standby.Promote(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// history is a topology's journal in the database, as the seqs and their JSON.
func history(t *testing.T, conn *pgx.Conn, id string) map[uint64]string {
	t.Helper()
	const query = `SELECT seq, topology_event_json(topology_id, seq, type, payload, at) FROM topology_events
		WHERE topology_id = $1::text::uuid`
	rows, err := conn.Query(t.Context(), query, id)
	if err != nil {
		t.Fatal(err)
	}
	events := map[uint64]string{}
	var (
		seq   uint64
		event string
	)
	if _, err := pgx.ForEachRow(rows, []any{&seq, &event}, func() error { events[seq] = event; return nil }); err != nil {
		t.Fatal(err)
	}
	return events
}

// tookTheNewHistory fails unless the client, which stayed connected or resumed, went from the old epoch to the new one
// by a snapshot and then got exactly the new journal.
func (c *client) tookTheNewHistory(promoted *pgx.Conn, id string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	snapshot := c.snapshots[len(c.snapshots)-1]
	if snapshot>>32 == 0 {
		c.t.Fatalf("snapshots at %v: none is of a new epoch", c.snapshots)
	}
	now := history(c.t, promoted, id)
	for i, seq := range c.seqs {
		switch {
		case seq>>32 == 0: // of the old history, before the snapshot; the test says what may be lost
		case seq <= snapshot:
			c.t.Errorf("event %d came twice: the snapshot is at %d", seq, snapshot)
		case now[seq] != c.data[i]:
			c.t.Errorf("event %d is %s, in the journal %s", seq, c.data[i], now[seq])
		}
	}
	if last, _ := strconv.ParseUint(c.last, 10, 64); last-snapshot != uint64(
		len(slices.DeleteFunc(slices.Clone(c.seqs), func(s uint64) bool { return s>>32 == 0 }))) {
		c.t.Errorf("between the snapshot at %d and %s are not all events: %v", snapshot, c.last, c.seqs)
	}
}

// committer writes events to many places and remembers what PostgreSQL said it had committed.
type committer struct {
	mu   sync.Mutex
	acks []uint64
	stop chan struct{}
	wg   sync.WaitGroup
}

func commitTo(t *testing.T, databaseURL, id string) *committer {
	t.Helper()
	c := &committer{stop: make(chan struct{})}
	c.wg.Go(func() {
		var conn *pgx.Conn
		for {
			select {
			case <-c.stop:
				if conn != nil {
					_ = conn.Close(t.Context()) // its work is done
				}
				return
			default:
			}
			var err error
			if conn == nil || conn.IsClosed() {
				if conn, err = pgx.Connect(t.Context(), databaseURL); err != nil {
					conn = nil
					continue
				}
			}
			var seq uint64
			if conn.QueryRow(t.Context(), `SELECT topology_emit($1::text::uuid, 'test', '{}')`, id).Scan(&seq) == nil {
				c.mu.Lock()
				c.acks = append(c.acks, seq)
				c.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { c.end() })
	return c
}

func (c *committer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acks)
}

func (c *committer) end() []uint64 {
	c.mu.Lock()
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.mu.Unlock()
	c.wg.Wait()
	return c.acks
}

func TestAfterThePromotionOfASynchronousStandbyNothingCommittedIsLostAndEveryClientGetsASnapshot(t *testing.T) {
	t.Parallel()
	slow(t)
	p := newPair(t)
	conn := p.db.Conn(t)
	ids := live(t, conn, 2)
	id, idle := ids[0], ids[1]
	pgtest.Exec(t, conn, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	pgtest.Exec(t, conn, `SELECT pg_reload_conf()`)
	pgtest.Eventually(t, "a synchronous standby", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == 1
	})
	both := p.both()
	servers := []*testServer{
		serve(t, both, func(c *serveCmd) { c.Mutator = true }),
		serve(t, both, func(c *serveCmd) { c.Bus = "poll" }),
	}
	mutate(t, buildProgram(t), both)
	clients := make([]*client, 0, len(servers)*len(ids))
	for _, s := range servers {
		for _, of := range ids {
			c := newClient(t, s.url, of, "").watch()
			c.awaitSeq(1)
			clients = append(clients, c)
		}
	}
	awaitMutation(t, conn, enqueueLAN(t, conn, idle, "before"), "applied")
	old := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)

	writer := commitTo(t, both, id)
	pgtest.Eventually(t, "writes", func() bool { return writer.count() >= 200 })
	p.primary.Kill()
	p.promote()
	before := writer.count()
	pgtest.Eventually(t, "writes to the promoted one", func() bool { return writer.count() >= before+200 })
	acks := writer.end()

	promoted := p.connStandby()
	pgtest.Exec(t, promoted, `ALTER SYSTEM RESET synchronous_standby_names`)
	now := history(t, promoted, id)
	for _, seq := range acks {
		if now[seq] == "" {
			t.Errorf("event %d was committed and is lost", seq)
		}
	}
	awaitMutation(t, promoted, enqueueLAN(t, promoted, idle, "after"), "applied") // a worker followed
	for i, c := range clients {
		c.awaitSeq(
			pgtest.Scan[uint64](t, promoted, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, ids[i%2]))
		c.tookTheNewHistory(promoted, ids[i%2])
		c.mu.Lock()
		if c.connects != 1 || len(c.snapshots) != 2 {
			t.Errorf("%d connects and snapshots at %v, want one connect and a snapshot of each epoch", c.connects, c.snapshots)
		}
		for j, seq := range c.seqs {
			if seq>>32 == 0 && i%2 == 0 && now[seq] != c.data[j] {
				t.Errorf("a client heard %s, and the promoted one has %q", c.data[j], now[seq])
			}
		}
		c.mu.Unlock()
	}
	head := slices.Max(acks)
	for _, s := range append(servers, serve(t, both, nil)) { // and one that is started when the first host is dead
		resumed := newClient(t, s.url, id, strconv.FormatUint(old, 10))
		resumed.follow(t.Context(), head)
		resumed.tookTheNewHistory(promoted, id)
		pgtest.Eventually(t, "readiness",
			func() bool { status, _, _ := get(t, s.url+"/readyz"); return status == http.StatusOK })
	}
	if log := servers[0].log.String(); !strings.Contains(log, "a new history") {
		t.Errorf("the log does not say that the database has a new history:\n%s", log)
	}
}

func TestWhatAnAsynchronousStandbyLostIsANewEpochAlsoWhenItsHeadHasPassedTheClients(t *testing.T) {
	t.Parallel()
	slow(t)
	p := newPair(t)
	conn := p.db.Conn(t)
	id := demo(t, conn)
	both := p.both()
	servers := []string{startServer(t, both), startServer(t, both, "poll")}
	clients := make([]*client, 0, len(servers))
	for _, s := range servers {
		clients = append(clients, newClient(t, s, id, "").watch())
	}
	kept := emit(t, conn, id)
	for _, c := range clients {
		c.awaitSeq(kept)
	}
	writer := p.connStandby() // on the standby while it is one, and through the promotion
	pgtest.Exec(
		t,
		conn,
		`UPDATE pg_database SET datallowconn = false WHERE datname = 'streams'`,
	) // no server comes to the promoted one until the end of this
	p.caughtUp()
	p.cut()
	lost := kept
	for range 50 {
		lost = emit(t, conn, id)
	}
	for _, c := range clients {
		c.awaitSeq(lost)
	}
	p.primary.Kill()
	p.promote()
	head := pgtest.Scan[uint64](t, writer, `SELECT seq FROM topology_heads`)
	if head != kept {
		t.Fatalf("the promoted one has %d, want %d: nothing was lost", head, kept)
	}
	for head < lost+20 {
		head = emit(t, writer, id) // the numbers of what was lost, and more
	}
	if head>>32 != 0 {
		t.Fatalf("the head is %d: a server came too early", head)
	}
	pgtest.Exec(t, writer, `UPDATE pg_database SET datallowconn = true WHERE datname = 'streams'`)
	pgtest.Eventually(t, "the new epoch", func() bool { head = emit(t, writer, id); return head>>32 > 0 })
	for _, c := range clients {
		c.awaitSeq(head)
		c.tookTheNewHistory(writer, id)
	}
	for _, s := range servers {
		for _, after := range []uint64{1, kept, kept + 1, lost, lost + 1, lost + 10, head & 0xffffffff} {
			resumed := newClient(t, s, id, strconv.FormatUint(after, 10))
			resumed.follow(t.Context(), emit(t, writer, id))
			if len(resumed.snapshots) != 1 {
				t.Errorf("who resumed after %d got the snapshots %v", after, resumed.snapshots)
			}
			resumed.tookTheNewHistory(writer, id)
		}
	}
}

// The primary's host is not gone but silent, as a machine is that has lost its network: nothing refuses a connection,
// and nothing answers.
func TestAPrimaryThatFallsSilentIsLeftForThePromotedStandby(t *testing.T) {
	t.Parallel()
	slow(t)
	p := newPair(t)
	id := demo(t, p.db.Conn(t))
	both := p.both()
	servers := []string{startServer(t, both), startServer(t, both, "poll")}
	p.caughtUp()
	clients := make([]*client, 0, len(servers))
	for _, s := range servers {
		c := newClient(t, s, id, "").watch()
		c.awaitSeq(1)
		clients = append(clients, c)
	}
	p.primary.Freeze()
	p.promote()
	promoted := p.connStandby()
	emit(t, promoted, id)
	pgtest.Eventually(t, "LISTEN on the promoted one", func() bool {
		reconnects := metric(t, servers[0], `topostream_listen_reconnects_total{cause="ping"}`) + metric(t, servers[0],
			`topostream_listen_reconnects_total{cause="broken"}`)
		return reconnects >= 1 && metric(t, servers[0], "topostream_listening") == 1
	})
	for i, c := range clients {
		c.awaitSeq(emit(t, promoted, id))
		c.tookTheNewHistory(promoted, id)
		pgtest.Eventually(t, "readiness",
			func() bool { status, _, _ := get(t, servers[i]+"/readyz"); return status == http.StatusOK })
	}
	started := startServer(t, both)
	newClient(t, started, id, "").follow(t.Context(), emit(t, promoted, id))
}

func TestAStandbyThatIsBehindIsNeverReadFrom(t *testing.T) {
	t.Parallel()
	slow(t)
	p := newPair(t)
	conn := p.db.Conn(t)
	id := demo(t, conn)
	p.caughtUp()
	p.cut()
	server := serve(t, hosts(t, "", p.primary, p.standby), nil) // without target_session_attrs
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(emit(t, conn, id))
	alone := serve(t, p.standby.URL("streams"), nil)
	pgtest.Eventually(t, "a server of a standby alone to say so", func() bool {
		status, _, _ := get(t, alone.url+"/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(alone.log.String(), "is a standby")
	})

	p.primary.Kill()
	pgtest.Eventually(t, "the server to look for another host", func() bool {
		return strings.Count(server.log.String(), "cannot compare heads") >= 2 &&
			strings.Count(server.log.String(), "the LISTEN connection is lost") >= 2
	})
	if err := p.primary.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	c.awaitSeq(emit(t, p.db.Conn(t), id))
	c.stayedConnected()
}
