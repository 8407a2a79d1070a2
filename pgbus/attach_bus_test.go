package pgbus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// The attach of the experiment (attach_race_test.go) is the bus's own here: a fresh bus, and so a fresh LISTEN
// connection, each time, with no heartbeat that could make up for a catch-up that is missing.
func TestTheBusItselfLosesNothingWhenItAttachesUnderWriters(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: a hundred fresh buses")
	}
	// one that polls has nothing but its poll
	for bus, attaches := range map[string]int{setting.Notify: 100, setting.WAL: 30} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			must(t, setting.Set(t.Context(), db.Conn(t), bus))
			attachUnderWriters(t, db, attaches)
		})
	}
}

func attachUnderWriters(t *testing.T, db *pgtest.DB, attaches int) {
	t.Helper()
	admin := db.Conn(t)
	id := makeTopologies(t, admin, 1)[0]
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for range 2 {
		writer := db.Conn(t)
		writers.Go(func() {
			for ctx.Err() == nil {
				_, _ = writer.Exec(ctx, `SELECT topology_emit($1::text::uuid, 'race', '{}')`, id) // the last one is cancelled
			}
		})
	}
	defer writers.Wait()
	defer stop()
	for range attaches {
		attachOnceUnderWriters(t, db, admin, id)
	}
}

func attachOnceUnderWriters(t *testing.T, db *pgtest.DB, admin *pgx.Conn, id stream.TopologyID) {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), db.URL)
	must(t, err)
	defer pool.Close()
	listen, err := pgx.ParseConfig(db.URL)
	must(t, err)
	b := New(Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Heartbeat: time.Hour, Poll: time.Hour,
		Stats: metrictest.Stats()})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() { cancel(); must(t, <-done) }()
	told(t, b)

	sub, err := b.Attach(ctx, stream.AttachRequest{Topology: id})
	must(t, err)
	defer sub.Close()
	head := pgtest.Scan[stream.Seq](t, admin, `SELECT seq FROM topology_heads`)
	for last := sub.Snapshot.Seq; last < head; {
		frames, err := next(ctx, sub.Cursor)
		if err != nil {
			t.Fatalf("after %d of %d, attached at %d: %v", last, head, sub.Snapshot.Seq, err)
		}
		for _, fr := range frames {
			if fr.Seq != last+1 {
				t.Fatalf("%d came after %d", fr.Seq, last)
			}
			last = fr.Seq
		}
	}
	if n := metrictest.Value(b.stats.JournalReads[stream.ReadHeartbeat]); n > 1 { // it compares once when the bus starts
		t.Errorf("%d reads by the heartbeat", n)
	}
}

// backfillingBus runs nothing of a bus but what brings feeds up to the head: no heartbeat, no poll and no
// notification makes up for a read that was not asked for.
func backfillingBus(t *testing.T, db *pgtest.DB) *Bus {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), db.URL)
	must(t, err)
	listen, err := pgx.ParseConfig(db.URL)
	must(t, err)
	b := New(Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Stats: metrictest.Stats()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.backfillLoop(ctx) }()
	t.Cleanup(func() { cancel(); <-done; b.close(); pool.Close() })
	return b
}

// attachNow does what the attach loop does for one topology.
func attachNow(t *testing.T, b *Bus, id stream.TopologyID) *attachment {
	t.Helper()
	_, q, err := b.registry.acquire(stream.AttachRequest{Topology: id})
	must(t, err)
	ids, _ := b.registry.take(time.Now())
	b.attachBatch(t.Context(), ids)
	return (<-q.done).attachment
}

// attachAt does what an attach transaction that saw the head at seq is followed by.
func attachAt(t *testing.T, b *Bus, id stream.TopologyID, seq stream.Seq) *attachment {
	t.Helper()
	_, q, err := b.registry.acquire(stream.AttachRequest{Topology: id})
	must(t, err)
	ids, _ := b.registry.take(time.Now())
	var h postgres.History
	pgtest.Eventually(t, "the history", func() bool { // on a busy machine a read may take longer than it may
		_, h, err = b.reader.Lights(t.Context(), ids)
		return err == nil
	})
	b.attached(ids, []journal.Light{{Topology: id, Head: journal.Head{Seq: seq, First: 1}, Alive: true}}, h, true)
	return (<-q.done).attachment
}

func TestTheLastEventBeforeListenTookEffectComesByTheCatchUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := backfillingBus(t, db)
	pgtest.Exec(t, conn, emitOne, id) // after the light snapshot, and before LISTEN took effect
	comes(t, attachAt(t, b, id, 1), 2)
}

func TestWhatWasMissedWhileASourceWasAwayComesByTheReadAfterIt(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{setting.Notify, setting.WAL} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			must(t, setting.Set(t.Context(), conn, bus))
			id := makeTopologies(t, conn, 1)[0]
			b := backfillingBus(t, db)
			a := attachNow(t, b, id)
			caughtUp(t, b, a.id)
			pgtest.Exec(t, conn, emitOne, id) // nobody is told of it
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				if bus == setting.Notify {
					b.sources.listener.Run(ctx, notifySink{sink{b, stream.ReadHole}})
					return
				}
				b.sources.mode.set(bus)
				b.sources.wal.Run(ctx, walSink{sink{b, stream.ReadHole}})
			}()
			comes(t, a, 2)
			cancel()
			<-done
		})
	}
}

// queued tells whether the attachment's journal is still to be read.
func queued(b *Bus, a *attachment) bool {
	b.backfill.mu.Lock()
	defer b.backfill.mu.Unlock()
	return a.backfill.queued
}

// caughtUp waits for the read that follows the attach of the bus's first topology. It is queued only after the client
// has its place.
func caughtUp(t *testing.T, b *Bus, id stream.TopologyID) {
	t.Helper()
	pgtest.Eventually(t, "the catch-up", func() bool {
		return metrictest.Value(b.stats.JournalReads[stream.ReadCatchUp]) > 0 && !queued(b, b.registry.find(id))
	})
}

// comes fails unless exactly the event seq follows the one before it.
func comes(t *testing.T, a *attachment, seq stream.Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	frames, err := next(ctx, a.feed.Cursor(seq-1))
	if err != nil || len(frames) != 1 || frames[0].Seq != seq {
		t.Errorf("%v, %v, want event %d", frames, err, seq)
	}
}

func TestWhatNoNotificationToldComesByTheHeartbeat(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)
	caughtUp(t, b, id)
	// As a trigger that NOTIFYs nothing.
	pgtest.Exec(t, conn, `INSERT INTO topology_events SELECT topology_id, 2, 'x', '{}', now() FROM topology_heads`)
	pgtest.Exec(t, conn, `UPDATE topology_heads SET seq = 2`)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if frames, err := next(ctx, sub.Cursor); err != nil || len(frames) != 1 || frames[0].Seq != 2 {
		t.Errorf("%v, %v, want event 2", frames, err)
	}
	if metrictest.Value(b.stats.JournalReads[stream.ReadHeartbeat]) == 0 {
		t.Error("it did not come by the heartbeat")
	}
}

func TestAHistoryThatWasTakenBackIsNotServedFromOldPages(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		id := makeTopologies(t, conn, 1)[0]
		const emit = `
SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object('life', $2::text)) FROM generate_series(1, $3::int)`
		pgtest.Exec(t, conn, emit, id, "old", 79)
		b := startBus(t, db, func(c *Config) { change(c); c.Heartbeat = 50 * time.Millisecond })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		fresh, err := b.Attach(ctx, stream.AttachRequest{Topology: id})
		must(t, err)
		old, err := b.Attach(ctx, stream.AttachRequest{Topology: id, Resume: true, After: 10})
		must(t, err)
		_, err = next(ctx, old.Cursor) // which reads and keeps a page
		must(t, err)
		pgtest.Exec(t, conn, `UPDATE topology_heads SET seq = 50`)
		pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE seq > 50`)
		if _, err := next(ctx, fresh.Cursor); err != stream.ErrReset { //nolint:errorlint // the sentinel itself
			t.Fatalf("%v, want a reset", err)
		}
		pgtest.Exec(t, conn, emit, id, "new", 10)
		sub, err := b.Attach(ctx, stream.AttachRequest{Topology: id, Resume: true, After: 45})
		must(t, err)
		for last := stream.Seq(45); last < 60; {
			frames, err := next(ctx, sub.Cursor)
			must(t, err)
			for _, fr := range frames {
				if want := string(mustPage(t, b, id, last).Bytes); fr.Seq != last+1 || string(fr.Bytes) != want {
					t.Fatalf("%s, want %s", fr.Bytes, want)
				}
				last = fr.Seq
			}
		}
	})
}

// mustPage reads the event after n from the database itself.
func mustPage(t *testing.T, b *Bus, id stream.TopologyID, n stream.Seq) stream.Frame {
	t.Helper()
	var frame stream.Frame
	reqs := []journal.PageRequest{{Topology: id, After: n}}
	must(t,
		b.reader.Rows(t.Context(), journal.Live, reqs, 1, pageBytes, func(_ int, row journal.Row) { frame = *row.Frame }))
	return frame
}

func TestANumberAheadOfTheHeadGetsASnapshotHoweverManyCome(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		id := makeTopologies(t, db.Conn(t), 1)[0]
		b := startBus(t, db, change)
		_, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		must(t, err)
		const clients = 2000
		errs := make(chan error, clients)
		for range clients {
			go func() {
				sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: 99})
				if err == nil && sub.Snapshot == nil {
					t.Error("resumed ahead of the head")
				}
				errs <- err
			}()
		}
		for range clients {
			must(t, <-errs)
		}
	})
}

func TestEachLifeOfAnIDEndsItsOwnStreamsOnly(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		id := makeTopologies(t, conn, 1)[0]
		const again = `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'again')`
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id) // 2
		pgtest.Exec(t, conn, `DELETE FROM topologies`)                              // 3
		pgtest.Exec(t, conn, again, id)                                             // 4
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id) // 5
		b := startBus(t, db, change)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		old, err := b.Attach(ctx, stream.AttachRequest{Topology: id, Resume: true, After: 1})
		must(t, err)
		fresh, err := b.Attach(ctx, stream.AttachRequest{Topology: id})
		must(t, err)
		var got []stream.Seq
		for err = nil; err == nil; {
			var frames []stream.Frame
			frames, err = next(ctx, old.Cursor)
			for _, fr := range frames {
				got = append(got, fr.Seq)
			}
		}
		if err != stream.ErrDeleted || len(got) != 2 || got[1] != 3 { //nolint:errorlint // the sentinel itself
			t.Errorf("who resumed in the first life got %v and %v, want 2, 3 and the end", got, err)
		}
		after, err := b.Attach(ctx, stream.AttachRequest{Topology: id, Resume: true, After: 3})
		must(t, err)
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id) // 6
		for sub, last := range map[*stream.Subscription]stream.Seq{fresh: fresh.Snapshot.Seq, after: 3} {
			for last < 6 {
				frames, err := next(ctx, sub.Cursor)
				must(t, err)
				for _, fr := range frames {
					if fr.Seq != last+1 {
						t.Fatalf("%d came after %d", fr.Seq, last)
					}
					last = fr.Seq
				}
			}
		}
	})
}
