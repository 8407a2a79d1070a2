package pgbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/pgbus/wait"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// onWAL gives a database whose triggers leave the events to the WAL.
func onWAL(t *testing.T, db *pgtest.DB) *pgtest.DB {
	t.Helper()
	must(t, setting.Set(t.Context(), db.Conn(t), setting.WAL))
	return db
}

// A record is a log that tests look into.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) has(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.text.String(), what)
}

func (r *record) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// A follower reads a subscription and fails its test when an event is not last+1.
type follower struct {
	mu   sync.Mutex
	last stream.Seq
	err  error
	done chan struct{}
}

func follow(t *testing.T, sub *stream.Subscription) *follower {
	t.Helper()
	f := &follower{done: make(chan struct{})}
	if sub.Snapshot != nil {
		f.last = sub.Snapshot.Seq
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(f.done)
		for {
			frames, err := next(ctx, sub.Cursor)
			if ctx.Err() != nil {
				return
			}
			f.mu.Lock()
			for _, fr := range frames {
				if fr.Seq != 0 && fr.Seq != f.last+1 {
					err = fmt.Errorf("%d came after %d", fr.Seq, f.last)
				}
				f.last = max(f.last, fr.Seq)
			}
			f.err = err
			f.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-f.done })
	return f
}

func (f *follower) reaches(t *testing.T, n stream.Seq) {
	t.Helper()
	pgtest.Eventually(t, fmt.Sprint("event ", n), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.err != nil {
			t.Fatal(f.err)
		}
		return f.last >= n
	})
}

func attach(t *testing.T, b *Bus, id stream.TopologyID) *stream.Subscription {
	t.Helper()
	var sub *stream.Subscription
	pgtest.Eventually(t, "an attach", func() bool {
		var err error
		sub, err = b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		if errors.Is(err, stream.ErrUnavailable) { // a busy machine took longer than a client waits, who comes back
			return false
		}
		must(t, err)
		return true
	})
	return sub
}

func TestEventsOfAnySizeComeFromTheWALWithoutAQuery(t *testing.T) {
	t.Parallel()
	db := onWAL(t, pgtest.New(t))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Heartbeat, c.Poll = time.Hour, time.Hour })
	sub := attach(t, b, id)
	caughtUp(t, b, id)
	for i, size := range []int{0, 8000, 5 << 20} {
		want := stream.Seq(2 + i)
		const emit = `SELECT topology_emit($1::text::uuid, 'x.y', jsonb_build_object('é"\', repeat('x', $2)))`
		pgtest.Exec(t, conn, emit, id, size)
		frames, err := next(t.Context(), sub.Cursor)
		must(t, err)
		if len(frames) != 1 || string(frames[0].Bytes) != string(mustPage(t, b, id, want-1).Bytes) {
			t.Errorf("event %d of %d bytes is not the journal's", want, size)
		}
	}
	for i, cause := range stream.ReadCauses {
		if stream.Cause(i) == stream.ReadCatchUp || stream.Cause(i) == stream.ReadReconnect {
			continue // at the stream's beginning
		}
		most := int64(0)
		if stream.Cause(i) == stream.ReadHeartbeat { // once when a bus starts, perhaps with an event still on its way
			most = 1
		}
		if n := metrictest.Value(b.stats.JournalReads[i]); n > most {
			t.Errorf("%d journal reads, cause %s", n, cause)
		}
	}
	if b.Mode() != setting.WAL {
		t.Error(b.Mode())
	}
}

func TestTenThousandEventsOfOneTransactionComeInOrder(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		ids := makeTopologies(t, conn, 2)
		b := startBus(t, db, change)
		f := follow(t, attach(t, b, ids[0]))
		g := follow(t, attach(t, b, ids[1]))
		pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op)
			SELECT ($1::text[])[1 + i % 2]::uuid, 'add_lan' FROM generate_series(1, 10000) i`, ids)
		f.reaches(t, 5001)
		g.reaches(t, 5001)
	})
}

func TestWhatPeopleNOTIFYComesOnEveryBusThatLISTENs(t *testing.T) {
	t.Parallel()
	db := onWAL(t, pgtest.New(t))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, nil)
	sub := attach(t, b, id)
	pgtest.Exec(t, conn, `SELECT pg_notify('topology.' || $1::text, 'by hand')`, id)
	frames, err := next(t.Context(), sub.Cursor)
	if err != nil || len(frames) != 1 || frames[0].Seq != 0 || !strings.Contains(string(frames[0].Bytes), "by hand") {
		t.Errorf("%v, %v", frames, err)
	}
}

func TestTheEndOfATopologyComesFromTheWAL(t *testing.T) {
	t.Parallel()
	db := onWAL(t, pgtest.New(t))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Heartbeat = time.Hour })
	sub := attach(t, b, id)
	pgtest.Exec(t, conn, `DELETE FROM topologies`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if frames, err := next(ctx, sub.Cursor); err != nil || !frames[0].Final {
		t.Fatalf("%v, %v", frames, err)
	}
	if _, err := next(ctx, sub.Cursor); err != stream.ErrDeleted { //nolint:errorlint // the sentinel itself
		t.Error(err)
	}
}

// writers commit events to the topologies until stop is called, which gives the heads that they leave.
func writers(
	t *testing.T,
	db *pgtest.DB,
	ids []stream.TopologyID,
	n int,
) (stop func() map[stream.TopologyID]stream.Seq) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range n {
		conn := db.Conn(t)
		wg.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				if _, err := conn.Exec(t.Context(), emitOne, ids[i%len(ids)]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	end := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(end)
	admin := db.Conn(t)
	return func() map[stream.TopologyID]stream.Seq {
		end()
		const head = `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`
		heads := map[stream.TopologyID]stream.Seq{}
		for _, id := range ids {
			heads[id] = pgtest.Scan[stream.Seq](t, admin, head, id)
		}
		return heads
	}
}

func TestAStreamThatIsCutAgainAndAgainUnderWritersLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: it kills backends again and again")
	}
	db := onWAL(t, pgtest.New(t))
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 5)
	b := startBus(t, db, func(c *Config) { c.Heartbeat = time.Hour })
	followers := map[stream.TopologyID]*follower{}
	for _, id := range ids {
		followers[id] = follow(t, attach(t, b, id))
	}
	const terminate = `
SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE database = current_database()`
	stop := writers(t, db, ids, 3)
	for range 5 {
		pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
		if n := pgtest.Scan[int](t, conn, terminate); n != 1 {
			t.Errorf("%d slots, want 1", n)
		}
		pgtest.Eventually(t, "the cut", func() bool { return !metrictest.Is(b.stats.Streaming) })
	}
	for id, head := range stop() {
		followers[id].reaches(t, head)
	}
	if n := metrictest.Value(b.stats.Resets); n != 0 {
		t.Errorf("%d feeds were thrown away", n)
	}
}

func TestSwitchingTheBusBackAndForthUnderWritersLosesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: it switches again and again")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 5)
	b := startBus(t, db, func(c *Config) { c.Heartbeat = time.Hour })
	followers := map[stream.TopologyID]*follower{}
	for _, id := range ids {
		followers[id] = follow(t, attach(t, b, id))
	}
	stop := writers(t, db, ids, 3)
	for range 3 {
		must(t, setting.Set(t.Context(), conn, setting.WAL))
		pgtest.Eventually(t, "the bus wal", func() bool { return b.Mode() == setting.WAL })
		must(t, setting.Set(t.Context(), conn, setting.Notify))
		pgtest.Eventually(t, "the bus notify", func() bool { return b.Mode() == setting.Notify })
	}
	for id, head := range stop() {
		followers[id].reaches(t, head)
	}
	if n := metrictest.Value(b.stats.Resets); n != 0 {
		t.Errorf("%d feeds were thrown away", n)
	}
	pgtest.Eventually(t, "the slot to be gone", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`) == 0
	})
}

// A transaction that began on the bus wal does not NOTIFY when the bus is notify by the time that it commits.
func TestATransactionThatBeganBeforeTheSwitchIsHeardOf(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the WAL source has a shorter one: left out with -short")
	}
	db := onWAL(t, pgtest.New(t))
	conn, early := db.Conn(t), db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Heartbeat = time.Hour })
	f := follow(t, attach(t, b, id))
	pgtest.Exec(t, early, `BEGIN`)
	pgtest.Exec(t, early, emitOne, id)
	must(t, setting.Set(t.Context(), conn, setting.Notify))
	pgtest.Eventually(t, "the server to follow", func() bool { return !b.sources.mode.walWanted() })
	ended := make(chan struct{})
	go func() { // three looks of the stream whether it may end
		defer close(ended)
		wait.Pause(t.Context(), 3500*time.Millisecond)
	}()
	<-ended
	if !metrictest.Is(b.stats.Streaming) {
		t.Fatal("the stream ended before the transaction")
	}
	pgtest.Exec(t, early, `COMMIT`)
	f.reaches(t, 2)
	pgtest.Eventually(t, "the bus notify", func() bool { return b.Mode() == setting.Notify })
}

func TestAForcedBusThatIsNotTheDatabasesWorksWithAWarning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ forced, says string }{
		{setting.Notify, setting.WAL}, {setting.WAL, setting.Notify}, {setting.Poll, setting.WAL},
	} {
		t.Run(c.forced, func(t *testing.T) {
			t.Parallel()
			db := onWAL(t, pgtest.New(t))
			conn := db.Conn(t)
			must(t, setting.Set(t.Context(), conn, c.says))
			id := makeTopologies(t, conn, 1)[0]
			var log record
			b := startBus(t, db, func(cfg *Config) { cfg.Bus, cfg.Heartbeat, cfg.Logger = c.forced, time.Hour, log.logger() })
			f := follow(t, attach(t, b, id))
			for n := stream.Seq(2); n < 5; n++ {
				pgtest.Exec(t, conn, emitOne, id)
				f.reaches(t, n)
			}
			want := "bus: forced " + c.forced + ", the database says " + c.says
			pgtest.Eventually(t, want, func() bool { // events come, too, while the setting is not known yet
				return b.Notice() == want && metrictest.Is(b.stats.BusForced) && log.has(want)
			})
			must(t, b.Ready())
			if c.forced == setting.WAL {
				pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
				return
			}
			must(t, setting.Set(t.Context(), conn, setting.Notify))
			pgtest.Eventually(t, "the end of the warning",
				func() bool { return (b.Notice() == "") == (c.forced == setting.Notify) })
		})
	}
}

func TestWithoutAPublicationStreamsRunOnPollAndTheLogSaysWhatToDo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits for a slot: left out with -short")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, `UPDATE topology_settings SET bus = 'wal'`)
	var log record
	b := startBus(t, db, func(c *Config) { c.Bus, c.Heartbeat, c.Logger = setting.WAL, time.Hour, log.logger() })
	f := follow(t, attach(t, b, id))
	for n := stream.Seq(2); n < 5; n++ {
		pgtest.Exec(t, conn, emitOne, id)
		f.reaches(t, n)
	}
	pgtest.Eventually(t, "advice", func() bool { return log.has("run `topostream bus wal`") })
	pgtest.Exec(t, conn, `CREATE PUBLICATION topostream FOR TABLE topology_events WITH (publish = 'insert')`)
	b.sources.mode.changed.Set() // not to wait for the next try
	pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
}

// A slot is made only when every transaction that is open in the cluster has ended.
func TestWhileASlotWaitsStreamsRunOnPollAndTheServerSaysSo(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	cluster := pgtest.Cluster(t)
	db := onWAL(t, pgtest.NewOn(t, cluster.URL("postgres")))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	var log record
	b := startBus(t, db, func(c *Config) { c.Heartbeat, c.Logger = time.Hour, log.logger() })
	f := follow(t, attach(t, b, id))
	elsewhere, err := pgx.Connect(t.Context(), cluster.URL("postgres"))
	must(t, err)
	defer elsewhere.Close(t.Context())
	pgtest.Exec(t, elsewhere, `BEGIN; CREATE TABLE held (n int)`)
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots`)
	want := fmt.Sprintf(`waits_for="[pid %d]"`, elsewhere.PgConn().PID())
	pgtest.Eventually(t, "the server to say what the slot waits for",
		func() bool { return metrictest.Is(b.stats.SlotWaiting) && log.has(want) })
	if !strings.HasPrefix(b.Mode(), "poll: the replication slot waits for transactions that are open") ||
		b.Ready() != nil {
		t.Errorf("%s, %v", b.Mode(), b.Ready())
	}
	for n := stream.Seq(2); n < 8; n++ {
		pgtest.Exec(t, conn, emitOne, id)
		f.reaches(t, n)
	}
	if metrictest.Is(b.stats.Streaming) {
		t.Error("the slot was made behind an open transaction: the test sees nothing")
	}
	pgtest.Exec(t, elsewhere, `COMMIT`)
	pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
	if metrictest.Is(b.stats.SlotWaiting) {
		t.Error("it still waits")
	}
	pgtest.Exec(t, conn, emitOne, id)
	f.reaches(t, 8)
}

// reload changes a setting of the cluster.
func reload(t *testing.T, conn *pgx.Conn, setting, value string) {
	t.Helper()
	pgtest.Exec(t, conn, `ALTER SYSTEM SET `+setting+` = '`+value+`'`)
	pgtest.Exec(t, conn, `SELECT pg_reload_conf()`)
	pgtest.Eventually(t, setting, func() bool {
		return pgtest.Scan[string](t, conn, `SELECT current_setting($1)`, setting) == value
	})
}

// hung commits an event whose commit waits for a synchronous standby that is not there: the WAL tells of it, and no
// statement sees it. It returns when the WAL has told b.
func hung(t *testing.T, db *pgtest.DB, b *Bus, id stream.TopologyID, seq stream.Seq) {
	t.Helper()
	writer := db.Conn(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = writer.Exec(ctx, emitOne, id) // the commit has taken place, whatever this says
	}()
	t.Cleanup(func() { cancel(); <-done })
	pgtest.Eventually(t, "the WAL to tell", func() bool { return b.inDoubt(id, seq) })
}

func TestAnEventThatTheWALToldBeforeItCouldBeSeenIsNotLost(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	for _, c := range []struct {
		attached string
		promoted bool // it is read as a standby is that has been promoted
	}{{"before", false}, {"after", false}, {"before", true}, {"after", true}} {
		attached := c.attached
		t.Run(fmt.Sprintf("attached %s, promoted %t", attached, c.promoted), func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.Cluster(t)
			db := onWAL(t, pgtest.NewOn(t, cluster.URL("postgres")))
			admin := db.Conn(t)
			id := makeTopologies(t, admin, 1)[0]
			var replica *pgxpool.Pool
			if c.promoted {
				var err error
				replica, err = postgres.NewReplicaPool(t.Context(), db.URL)
				must(t, err)
				t.Cleanup(replica.Close)
			}
			// nothing else makes up for it
			b := startBus(t, db, func(c *Config) { c.Replica, c.Heartbeat, c.Poll = replica, time.Hour, time.Hour })
			pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
			var f *follower
			if attached == "before" {
				f = follow(t, attach(t, b, id))
			}
			reload(t, admin, "synchronous_standby_names", "nobody")
			hung(t, db, b, id, 2)
			if head := pgtest.Scan[stream.Seq](t, admin, `SELECT seq FROM topology_heads`); head != 1 {
				t.Fatalf("the head is %d: the test sees nothing", head)
			}
			if attached == "before" && !c.promoted {
				f.reaches(t, 2) // it is durable
			}
			if attached == "after" {
				sub := attach(t, b, id)
				if sub.Snapshot.Seq != 1 {
					t.Errorf("a snapshot at %d", sub.Snapshot.Seq)
				}
				f = follow(t, sub)
			}
			for range 3 {
				compare(t, b)
			}
			if n := metrictest.Value(b.stats.Resets); n != 0 {
				t.Errorf("%d feeds were thrown away for being ahead of what can be seen", n)
			}
			reload(t, admin, "synchronous_standby_names", "") // the standby is given up
			f.reaches(t, 2)
			pgtest.Exec(t, admin, emitOne, id)
			f.reaches(t, 3)
			if n := metrictest.Value(b.stats.Resets); n != 0 {
				t.Errorf("%d feeds were thrown away", n)
			}
		})
	}
}

func TestOfSeveralHostsTheStreamReadsThePrimary(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: two clusters")
	}
	primary := pgtest.Cluster(t)
	db := onWAL(t, pgtest.NewOn(t, primary.URL("postgres")))
	standby := pgtest.Standby(t, primary)
	u, err := url.Parse(db.URL)
	must(t, err)
	second, err := url.Parse(standby.URL("postgres"))
	must(t, err)
	u.Host = second.Host + "," + u.Host
	b := startBus(t, db, func(c *Config) {
		c.Listen, err = pgx.ParseConfig(u.String())
		must(t, err)
	})
	pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
	const slots = `SELECT count(*) FROM pg_replication_slots WHERE temporary AND slot_type = 'logical'`
	if n := pgtest.Scan[int](t, db.Conn(t), slots); n != 1 {
		t.Errorf("%d slots on the primary, want 1", n)
	}
}

func TestAServerLeavesNoSlotBehind(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	cluster := pgtest.Cluster(t)
	db := onWAL(t, pgtest.NewOn(t, cluster.URL("postgres")))
	conn := db.Conn(t)
	pool, err := postgres.NewPool(t.Context(), db.URL)
	must(t, err)
	defer pool.Close()
	listen, err := pgx.ParseConfig(db.URL)
	must(t, err)
	b := New(Config{Pool: pool, Listen: listen, Stats: metrictest.Stats()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	pgtest.Eventually(t, "the stream", func() bool { return metrictest.Is(b.stats.Streaming) })
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots WHERE temporary`); n != 1 {
		t.Errorf("%d temporary slots, want 1", n)
	}
	cancel()
	must(t, <-done)
	pgtest.Eventually(t, "the slot to be gone", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots`) == 0
	})
	must(t, cluster.Restart(t.Context(), pgcluster.Fast)) // which a sender that stays would hold up
}

func TestAClusterThatLogsTooLittleServesStreamsByThePollAndTheLogSaysWhatToDo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	cluster := pgtest.Cluster(t, "wal_level=replica")
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, `CREATE PUBLICATION topostream FOR TABLE topology_events WITH (publish = 'insert')`)
	pgtest.Exec(t, conn, `UPDATE topology_settings SET bus = 'wal'`)
	var log record
	b := startBus(t, db, func(c *Config) { c.Bus, c.Heartbeat, c.Logger = setting.WAL, time.Hour, log.logger() })
	f := follow(t, attach(t, b, id))
	for n := stream.Seq(2); n < 5; n++ {
		pgtest.Exec(t, conn, emitOne, id)
		f.reaches(t, n)
	}
	pgtest.Eventually(t, "advice", func() bool {
		return log.has("run `topostream bus status`, which says what to change")
	})
	if !strings.HasPrefix(b.Mode(), "poll: ") || b.Ready() != nil {
		t.Errorf("%s, %v", b.Mode(), b.Ready())
	}
}
