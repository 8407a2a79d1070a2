package pgbus

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestAFeedThatFellBehindRetentionCostsNobodyAPlaceThatTheJournalHolds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b, start := stillBus(t, db, nil)
	a := attachAt(t, b, id, 1)
	pgtest.Exec(t, conn, emitMany, id, 20)
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE seq < 15`)
	pgtest.Exec(t, conn, `UPDATE topology_heads SET first = 15`)
	start()
	if _, err := next(t.Context(), a.feed.Cursor(1)); err != stream.ErrBehind { //nolint:errorlint // the sentinel itself
		t.Errorf("%v, want that the feed is behind", err)
	}
	for _, own := range []stream.Seq{14, 16, 21} { // the last one has all
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: own})
		must(t, err)
		if sub.Snapshot != nil {
			t.Fatalf("a snapshot at %d in the place of %d", sub.Snapshot.Seq, own+1)
		}
		for last := own; last < 21; {
			frames, err := next(t.Context(), sub.Cursor)
			must(t, err)
			for _, fr := range frames {
				if fr.Seq != last+1 {
					t.Fatalf("%d came after %d", fr.Seq, last)
				}
				last = fr.Seq
			}
		}
		sub.Close()
	}
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: 13})
	must(t, err)
	defer sub.Close()
	if sub.Snapshot != nil { // it is given one at once, or attaches again for one
		sub.Snapshot.Release()
	} else if _, err := next(t.Context(), sub.Cursor); err != stream.ErrReset { //nolint:errorlint // as above
		t.Errorf("%v for a number that retention has passed, want a reset", err)
	}
}

// occupy has reads that do not end wait in a lane until the test ends, more than it has room for.
func occupy(t *testing.T, b *Bus, lane journal.Lane, id stream.TopologyID) {
	t.Helper()
	const reads = 20
	var (
		reading atomic.Int32
		running sync.WaitGroup
	)
	release := make(chan struct{})
	for range reads {
		running.Go(func() {
			reqs := []journal.PageRequest{{Topology: id}}
			// Those that find no room before the test ends are told so.
			_ = b.reader.Rows(t.Context(), lane, reqs, 1, pageBytes, func(int, journal.Row) {
				reading.Add(1)
				<-release
			})
		})
	}
	t.Cleanup(func() { close(release); running.Wait() })
	pgtest.Eventually(t, "the lane to be full", func() bool { return reading.Load() == 2 })
}

func TestLiveReadsDoNotWaitForPagesOfThoseWhoAreBehindNorForDocuments(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 2)
	b := startBus(t, db, func(c *Config) { c.Heartbeat, c.Poll = time.Hour, time.Hour })
	sub := attach(t, b, ids[0])
	defer sub.Close()
	caughtUp(t, b, ids[0])
	occupy(t, b, journal.Backlog, ids[1])
	occupy(t, b, journal.Documents, ids[1])
	const emitLarge = `SELECT topology_emit($1::text::uuid, 'x', to_jsonb(repeat('x', 9000)))`
	for want := stream.Seq(2); want < 12; want++ {
		pgtest.Exec(t, conn, emitLarge, ids[0])
		frames, err := next(t.Context(), sub.Cursor)
		if err != nil || len(frames) != 1 || frames[0].Seq != want {
			t.Fatalf("%v, %v, want event %d", frames, err, want)
		}
	}
	if metrictest.Value(b.stats.JournalReads[stream.ReadHole]) == 0 {
		t.Error("none was read from the journal: they were not too large for a notification")
	}
	attach(t, b, ids[1]).Close() // a small topology needs neither lane
}

func TestEventsOfOthersComeWhileDocumentsAreRead(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		ids := makeTopologies(t, conn, 6)
		small, large := ids[0], ids[1:] // more than there are reads of documents at a time
		for _, id := range large {
			pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{}')`, id)
		}
		b := startBus(t, db, func(c *Config) { change(c); c.Poll = 20 * time.Millisecond })
		for _, id := range large {
			attach(t, b, id).Close()
		}
		f := follow(t, attach(t, b, small))
		release := heldMutations(t, db)
		var opening sync.WaitGroup
		for _, id := range large {
			for range 4 {
				opening.Go(func() {
					sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Graph: true})
					if err != nil {
						t.Error(err)
						return
					}
					sub.Snapshot.Release()
					sub.Close()
				})
			}
		}
		reading := func() bool {
			b.reads.mu.Lock()
			defer b.reads.mu.Unlock()
			return len(b.reads.waiting) == len(large)
		}
		pgtest.Eventually(t, "the documents to be read", reading)
		for n := stream.Seq(2); n < 40; n++ {
			size := 10
			if n%10 == 0 {
				size = 9000
			}
			pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', to_jsonb(repeat('x', $2)))`, small, size)
			f.reaches(t, n)
		}
		if !reading() {
			t.Error("a document has been read meanwhile: the test shows nothing")
		}
		release()
		opening.Wait()
	})
}
