package pgbus

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// A pair is a primary and its standby, with the same database.
type pair struct {
	primary, standby *pgcluster.Cluster
	db               *pgtest.DB // on the primary
	replicaURL       string
	conn, replica    *pgx.Conn
}

func newPair(t *testing.T) *pair {
	t.Helper()
	if testing.Short() {
		t.Skip("long: a primary and its standby")
	}
	if v := pgtest.Version(t); v < 16 {
		t.Skipf("PostgreSQL %d: a standby decodes its WAL from 16 on", v)
	}
	p := &pair{primary: pgtest.Cluster(t)}
	p.standby = pgtest.Standby(t, p.primary)
	p.db = onWAL(t, pgtest.NewOn(t, p.primary.URL("postgres")))
	p.conn = p.db.Conn(t)
	u, err := url.Parse(p.db.URL)
	must(t, err)
	to, err := url.Parse(p.standby.URL(strings.TrimPrefix(u.Path, "/")))
	must(t, err)
	p.replicaURL = to.String()
	pgtest.Eventually(t, "the database on the standby", func() bool {
		conn, err := pgx.Connect(t.Context(), p.replicaURL)
		if err != nil {
			return false
		}
		p.replica = conn
		var bus string
		return conn.QueryRow(t.Context(), `SELECT topology_bus()`).Scan(&bus) == nil && bus == setting.WAL
	})
	t.Cleanup(func() { _ = p.replica.Close(t.Context()) }) // it may be broken by then
	return p
}

// replayed waits until the standby has what the primary has.
func (p *pair) replayed(t *testing.T) {
	t.Helper()
	at := pgtest.Scan[string](t, p.conn, `SELECT pg_current_wal_lsn()::text`)
	pgtest.Eventually(t, "replay", func() bool {
		return pgtest.Scan[bool](t, p.replica, `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, at)
	})
}

// bus reads streams from the standby.
func (p *pair) bus(t *testing.T, change func(*Config)) *Bus {
	t.Helper()
	pool, err := postgres.NewReplicaPool(t.Context(), p.replicaURL)
	must(t, err)
	t.Cleanup(pool.Close)
	b := startBus(t, p.db, func(c *Config) {
		c.Replica = pool
		if change != nil {
			change(c)
		}
	})
	pgtest.Eventually(t, "the standby's WAL", func() bool { return metrictest.Is(b.stats.Streaming) })
	return b
}

func TestStreamsAreReadFromAStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ids := makeTopologies(t, p.conn, 2)
	p.replayed(t)
	b := p.bus(t, func(c *Config) { c.Heartbeat = time.Hour })
	sub := attach(t, b, ids[0])
	f := follow(t, attach(t, b, ids[1]))
	const slots = `SELECT count(*) FROM pg_replication_slots`
	if n, m := pgtest.Scan[int](t, p.conn, slots), pgtest.Scan[int](t, p.replica, slots); n != 0 || m != 1 {
		t.Errorf("%d slots on the primary, %d on the standby", n, m)
	}
	// What people NOTIFY comes from the primary.
	pgtest.Eventually(t, "LISTEN", func() bool { return metrictest.Value(b.stats.Channels) == 2 })
	pgtest.Exec(t, p.conn, `SELECT pg_notify('topology.' || $1::text, 'by hand')`, ids[0])
	if frames, err := next(t.Context(), sub.Cursor); err != nil || frames[0].Seq != 0 ||
		!strings.Contains(string(frames[0].Bytes), "by hand") {
		t.Errorf("%v, %v", frames, err)
	}
	stop := writers(t, p.db, ids, 2)
	for range 3 {
		pgtest.Eventually(t, "the standby's WAL", func() bool { return metrictest.Is(b.stats.Streaming) })
		pgtest.Exec(t, p.replica, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots`)
		pgtest.Eventually(t, "the cut", func() bool { return !metrictest.Is(b.stats.Streaming) })
	}
	f.reaches(t, stop()[ids[1]])
	if n := metrictest.Value(b.stats.Resets); n != 0 {
		t.Errorf("%d feeds were thrown away", n)
	}
}

func TestTheTriggersOwnNotificationsDoNotRunAheadOfAStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	id := makeTopologies(t, p.conn, 1)[0]
	must(t, setting.Set(t.Context(), p.conn, setting.Notify)) // and the server reads the WAL all the same
	p.replayed(t)
	b := p.bus(t, func(c *Config) { c.Heartbeat = time.Hour })
	f := follow(t, attach(t, b, id))
	pgtest.Eventually(t, "LISTEN", func() bool { return metrictest.Value(b.stats.Channels) == 1 })
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_pause()`)
	pgtest.Exec(t, p.conn, emitOne, id)
	pgtest.Exec(t, p.conn, `SELECT pg_notify('topology.' || $1::text, 'behind it')`, id)
	pgtest.Eventually(t, "the notification behind it", func() bool { return metrictest.Value(b.stats.RawEvents) == 1 })
	compare(t, b)
	if last := b.registry.find(id).feed.Last(); last != 1 || metrictest.Value(b.stats.Resets) != 0 {
		t.Errorf("the feed is at %d, and the standby at 1; %d resets", last, metrictest.Value(b.stats.Resets))
	}
	must(t, b.watchLag(t.Context()))
	if metrictest.Value(b.stats.ReplicaBehind) == 0 {
		t.Error("the lag does not show")
	}
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_resume()`)
	f.reaches(t, 2)
}

func TestANumberAheadOfTheStandbyIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	id := makeTopologies(t, p.conn, 1)[0]
	p.replayed(t)
	b := p.bus(t, func(c *Config) { c.LagWait, c.AttachWait = 2*time.Second, 2*time.Second })
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_pause()`)
	pgtest.Exec(t, p.conn, emitOne, id)
	ahead := stream.AttachRequest{Topology: id, Resume: true, After: 2}
	if sub, err := b.Attach(t.Context(), ahead); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("%+v, %v", sub, err)
	}
	if sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: 1<<32 + 1}); err != nil ||
		sub.Snapshot == nil {
		t.Errorf("another epoch: %+v, %v", sub, err)
	}
	// A topology that the standby does not have is no unknown one.
	fresh := makeTopologiesNamed(t, p.conn, "fresh")
	if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: fresh}); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("a fresh topology: %v", err)
	}
	if j, err := b.Journal(t.Context(), stream.JournalRequest{Topology: fresh, Limit: 10, Most: 1 << 20}); err != nil ||
		j.Head != 1 {
		t.Errorf("a fresh topology's journal: %+v, %v", j, err)
	}
	unknown := stream.AttachRequest{Topology: "00000000-0000-4000-8000-000000000000"}
	if _, err := b.Attach(t.Context(), unknown); err != stream.ErrNotFound { //nolint:errorlint // the sentinel itself
		t.Errorf("an unknown topology: %v", err)
	}
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_resume()`)
	sub, err := b.Attach(t.Context(), ahead)
	if err != nil || sub.Snapshot != nil {
		t.Fatalf("%+v, %v", sub, err)
	}
	pgtest.Exec(t, p.conn, emitOne, id)
	if frames, err := next(t.Context(), sub.Cursor); err != nil || frames[0].Seq != 3 {
		t.Errorf("%v, %v", frames, err)
	}
	if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: fresh}); err != nil {
		t.Errorf("a fresh topology: %v", err)
	}
}

// What the primary has is no unknown topology, also when it cannot say so: a client would stop asking.
func TestNoTopologyIsUnknownToAStandbyWhosePrimaryCannotBeAsked(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.replayed(t)
	b := p.bus(t, nil)
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_pause()`)
	fresh := stream.AttachRequest{Topology: makeTopologiesNamed(t, p.conn, "fresh")}
	history := stream.JournalRequest{Topology: fresh.Topology, Limit: 10, Most: 1 << 20}
	unavailable := func(what string) {
		t.Helper()
		var why *stream.UnavailableError
		if _, err := b.Attach(t.Context(), fresh); !errors.As(err, &why) ||
			!strings.Contains(why.Reason, "the primary cannot be asked") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := b.Journal(t.Context(), history); !errors.As(err, &why) {
			t.Errorf("%s: the journal: %v", what, err)
		}
	}
	tx, err := p.conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE topologies IN ACCESS EXCLUSIVE MODE`)
	must(t, err)
	unavailable("a primary that does not answer")
	if n := p.asksAtOnce(t, 20, func() { _, _ = b.Attach(t.Context(), fresh) }); n != 1 {
		t.Errorf("the primary is asked by %d connections at once for one topology", n)
	}
	must(t, tx.Rollback(t.Context()))
	must(t, p.primary.Stop(t.Context(), pgcluster.Fast))
	unavailable("a primary that is away")
	must(t, p.primary.Restart(t.Context(), pgcluster.Fast))
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_resume()`)
	pgtest.Eventually(t, "the fresh topology", func() bool {
		sub, err := b.Attach(t.Context(), fresh)
		if err != nil && !errors.Is(err, stream.ErrUnavailable) {
			t.Fatal(err)
		}
		if err == nil {
			sub.Close()
		}
		return err == nil
	})
}

// asksAtOnce runs do n times at once, and gives how many connections waited in the primary at most for a lock.
func (p *pair) asksAtOnce(t *testing.T, n int, do func()) (most int) {
	t.Helper()
	conn := p.db.Conn(t)
	var running sync.WaitGroup
	for range n {
		running.Go(do)
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return most
		default:
			most = max(most, pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'SELECT EXISTS%'`))
		}
	}
}

func TestATopologyThatIsMadeAnewIsWaitedForWhereTheStandbyHasItDeleted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	id := makeTopologies(t, p.conn, 1)[0]
	pgtest.Exec(t, p.conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, id)
	p.replayed(t)
	b := p.bus(t, func(c *Config) { c.AttachWait = time.Second })
	if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id}); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a deleted topology: %v", err)
	}
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_pause()`)
	pgtest.Exec(t, p.conn, `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'anew')`, id)
	if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id}); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("made anew: %v", err)
	}
	pgtest.Exec(t, p.replica, `SELECT pg_wal_replay_resume()`)
	if sub := attach(t, b, id); sub.Snapshot == nil || sub.Snapshot.Seq != 3 { // made, deleted, and made
		t.Errorf("%+v", sub.Snapshot)
	}
}

func makeTopologiesNamed(t *testing.T, conn *pgx.Conn, name string) stream.TopologyID {
	t.Helper()
	return pgtest.Scan[stream.TopologyID](t, conn, `INSERT INTO topologies (name) VALUES ($1) RETURNING id::text`, name)
}

func TestAStandbyServesStreamsWhileThePrimaryIsAwayAndOutlivesItsOwnRestart(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ids := makeTopologies(t, p.conn, 2)
	p.replayed(t)
	var log record
	b := p.bus(t, func(c *Config) { c.Logger = log.logger() })
	f := follow(t, attach(t, b, ids[0]))
	must(t, p.primary.Stop(t.Context(), pgcluster.Fast))
	pgtest.Eventually(t, "the server to say what is missing",
		func() bool { return log.has("what people NOTIFY does not reach") })
	attach(t, b, ids[1])
	if err := b.Ready(); err != nil || b.Mode() != setting.WAL {
		t.Errorf("%v, %s", err, b.Mode())
	}
	must(t, p.primary.Restart(t.Context(), pgcluster.Fast))
	conn := p.db.Conn(t)
	pgtest.Exec(t, conn, emitOne, ids[0])
	f.reaches(t, 2)
	must(t, p.standby.Restart(t.Context(), pgcluster.Fast))
	for n := stream.Seq(3); n < 6; n++ {
		pgtest.Exec(t, conn, emitOne, ids[0])
		f.reaches(t, n)
	}
	pgtest.Eventually(t, "the standby's WAL", func() bool { return metrictest.Is(b.stats.Streaming) })
}

func TestAStandbyThatIsPromotedUnderAServerBeginsANewEpoch(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	id := makeTopologies(t, p.conn, 1)[0]
	p.replayed(t)
	b := p.bus(t, func(c *Config) { c.Heartbeat = time.Second })
	sub := attach(t, b, id)
	must(t, p.standby.Promote(t.Context())) // nothing but the pool to read with leads there
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := next(ctx, sub.Cursor)
		if err == nil {
			continue
		}
		if err != stream.ErrReset { //nolint:errorlint // the sentinel itself
			t.Fatal(err)
		}
		break
	}
	if snap := attach(t, b, id).Snapshot; snap.Seq.Epoch() == 0 {
		t.Errorf("a snapshot at %d, want one of a new epoch", snap.Seq)
	}
}
