package pgbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// The cases of a document that is read after the attach transaction: s is the seq of the light snapshot, d the
// document's.

// stillBus is a bus of which nothing runs before start: neither attaches nor backfills.
func stillBus(t *testing.T, db *pgtest.DB, change func(*Config)) (b *Bus, start func()) {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), db.URL)
	must(t, err)
	listen, err := pgx.ParseConfig(db.URL)
	must(t, err)
	cfg := Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, AttachWait: 20 * time.Second}
	if change != nil {
		change(&cfg)
	}
	if cfg.Stats == nil {
		cfg.Stats = metrictest.Stats()
	}
	b = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	running := 0
	t.Cleanup(func() {
		cancel()
		for range running {
			<-done
		}
		b.close()
		pool.Close()
	})
	return b, func() {
		for _, loop := range []func(context.Context){b.backfillLoop, b.attachLoop} {
			running++
			go func() { loop(ctx); done <- struct{}{} }()
		}
	}
}

// got is what a call of Bus.document gave.
type got struct {
	snapshot *stream.Snapshot
	err      error
}

// ask asks for a document; the answer comes on the channel.
func ask(ctx context.Context, b *Bus, a *attachment) <-chan got {
	answer := make(chan got, 1)
	go func() {
		s, err := b.document(ctx, a, false)
		answer <- got{s, err}
	}()
	return answer
}

// documentRead waits until n documents have been read from the database.
func documentRead(t *testing.T, b *Bus, n int64) {
	t.Helper()
	pgtest.Eventually(t, "the read of the document", func() bool { return metrictest.Value(b.stats.SnapshotReads) >= n })
}

// holdsNothing waits until no document is in the account any more.
func holdsNothing(t *testing.T, b *Bus) {
	t.Helper()
	pgtest.Eventually(t, "all documents to be given back", func() bool { return metrictest.Value(b.stats.HeldBytes) == 0 })
}

const emitMany = `SELECT topology_emit($1::text::uuid, 'x', '{}') FROM generate_series(1, $2::int)`

// enqueueMany puts mutations in flight, with that many bytes in the payload of each.
const enqueueMany = `
INSERT INTO mutations (topology_id, op, payload)
SELECT $1::text::uuid, 'add_lan', jsonb_build_object('name', i::text, 'x', repeat('x', $3::int))
  FROM generate_series(1, $2::int) i`

func TestADocumentOfAStandbyThatIsBehindIsReadAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b, start := stillBus(t, db, nil)
	a := attachAt(t, b, id, 3) // the database is at 1
	answer := ask(t.Context(), b, a)
	documentRead(t, b, 1)
	pgtest.Exec(t, conn, emitMany, id, 3)
	start()
	r := <-answer
	must(t, r.err)
	defer r.snapshot.Release()
	if r.snapshot.Seq != 4 || metrictest.Value(b.stats.SnapshotReads) < 2 {
		t.Errorf("a document at %d, of %d reads", r.snapshot.Seq, metrictest.Value(b.stats.SnapshotReads))
	}
	pgtest.Exec(t, conn, emitOne, id)
	b.backfillOne(a, stream.ReadHole)
	comes(t, a, 5)
}

func TestATopologyThatIsDeletedBeforeItsDocumentIsReadIsNotFound(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{false, true} { // whether the feed has heard of it
		t.Run(strconv.FormatBool(told), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			id := makeTopologies(t, conn, 1)[0]
			b, start := stillBus(t, db, nil)
			a := attachAt(t, b, id, 1)
			pgtest.Exec(t, conn, `DELETE FROM topologies`)
			if told {
				start()
				pgtest.Eventually(t, "the end of the feed", func() bool { return a.feed.Cause() != nil })
			}
			sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
			if !errors.Is(err, stream.ErrNotFound) {
				t.Errorf("%v, %v, want none", sub, err)
			}
		})
	}
}

func TestATopologyThatIsMadeAnewBeforeItsDocumentIsReadHasTheNewLifeAlone(t *testing.T) {
	t.Parallel()
	for _, told := range []bool{false, true} { // whether the feed has heard of it
		t.Run(strconv.FormatBool(told), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			id := makeTopologies(t, conn, 1)[0]
			b, start := stillBus(t, db, nil)
			a := attachAt(t, b, id, 1)
			pgtest.Exec(t, conn, `DELETE FROM topologies`)                                               // 2
			pgtest.Exec(t, conn, `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'new')`, id) // 3
			pgtest.Exec(t, conn, emitOne, id)                                                            // 4
			if told {
				start()
			} else { // the document is read first, and waits for the feed
				time.AfterFunc(0, func() { documentRead(t, b, 1); start() })
			}
			sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
			must(t, err)
			defer sub.Close()
			defer sub.Snapshot.Release()
			if sub.Snapshot.Seq != 4 || a.feed.Cause() != stream.ErrDeleted { //nolint:errorlint // the sentinel itself
				t.Errorf("a document at %d; the first life's feed ended by %v", sub.Snapshot.Seq, a.feed.Cause())
			}
			pgtest.Exec(t, conn, emitOne, id)
			fresh := b.registry.find(id)
			b.backfillOne(fresh, stream.ReadHole)
			frames, err := next(t.Context(), sub.Cursor)
			if err != nil || len(frames) != 1 || frames[0].Seq != 5 || frames[0].Final {
				t.Errorf("%v, %v, want event 5", frames, err)
			}
		})
	}
}

func TestWhatRetentionRemovedBehindADocumentMakesItOfNoUse(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b, start := stillBus(t, db, func(c *Config) { c.Memory = stream.NewMemory(1, c.Stats) }) // rings of one event
	a := attachAt(t, b, id, 1)
	pgtest.Exec(t, conn, emitMany, id, 29)
	start()
	comesTo(t, a, 30)
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE seq < 25`)
	pgtest.Exec(t, conn, `UPDATE topology_heads SET first = 25`)
	if err := b.reach(t.Context(), a, 10); !errors.Is(err, errPruned) {
		t.Errorf("a document at 10: %v, want it pruned", err)
	}
	for _, d := range []stream.Seq{24, 30} { // from the journal, and at the feed's end
		must(t, b.reach(t.Context(), a, d))
	}
	r := <-ask(t.Context(), b, a)
	must(t, r.err)
	defer r.snapshot.Release()
	if r.snapshot.Seq != 30 || metrictest.Value(b.stats.SnapshotReads) != 1 {
		t.Errorf("a document at %d, of %d reads", r.snapshot.Seq, metrictest.Value(b.stats.SnapshotReads))
	}
}

// comesTo waits until the feed is at seq.
func comesTo(t *testing.T, a *attachment, seq stream.Seq) {
	t.Helper()
	pgtest.Eventually(t, fmt.Sprint("event ", seq), func() bool { return a.feed.Last() >= seq })
}

// A test cannot let retention run just between the read of a document and the check that the feed continues it. A feed
// that is ahead of the database, and whose ring has dropped what lies between, has the same effect: what follows the
// document is nowhere.
func TestADocumentThatIsPrunedTwiceIsUnavailable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := makeTopologies(t, db.Conn(t), 1)[0]
	b, _ := stillBus(t, db, func(c *Config) { c.Memory = stream.NewMemory(1, c.Stats) })
	a := attachAt(t, b, id, 1)
	for n := stream.Seq(2); n <= 30; n++ {
		a.feed.Append(b.cfg.Encoder.Event(stream.Event{Seq: n, Type: "x", JSON: "{}"}))
	}
	r := <-ask(t.Context(), b, a)
	if !errors.Is(r.err, stream.ErrUnavailable) || !errors.Is(r.err, errPruned) {
		t.Errorf("%v, want it unavailable, because it is pruned", r.err)
	}
	if n := metrictest.Value(b.stats.SnapshotReads); n != 2 {
		t.Errorf("%d reads, want 2", n)
	}
	holdsNothing(t, b)
}

func TestADocumentOfAnotherHistoryThanItsAttachmentIsNotGiven(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b, start := stillBus(t, db, nil)
	a := attachAt(t, b, id, 1)
	epoch, err := NewEpoch(t.Context(), conn)
	must(t, err)
	start()
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)
	defer sub.Close()
	defer sub.Snapshot.Release()
	if sub.Snapshot.Seq.Epoch() != uint32(epoch) || a.feed.Cause() != stream.ErrReset { //nolint:errorlint // as above
		t.Errorf("a document at %d, want epoch %d; the old feed ended by %v", sub.Snapshot.Seq, epoch, a.feed.Cause())
	}
}

func TestADocumentThatFindsNoMemorySaysSoAndLeaksNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := makeTopologies(t, db.Conn(t), 1)[0]
	b, _ := stillBus(t, db, func(c *Config) {
		c.Stats = metrictest.Stats()
		c.Memory, c.AttachWait = stream.NewMemory(1<<20, c.Stats), time.Second
	})
	a := attachAt(t, b, id, 1)
	others, ok := b.cfg.Memory.TryReserve(1 << 20)
	if !ok {
		t.Fatal("no memory for others")
	}
	var err error
	pgtest.Eventually(t, "an attach that finds no memory", func() bool {
		_, err = b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		return errors.Is(err, stream.ErrNoMemory) || !errors.Is(err, stream.ErrUnavailable) // as of a busy database
	})
	if !errors.Is(err, stream.ErrNoMemory) {
		t.Errorf("%v, want no memory", err)
	}
	pgtest.Eventually(t, "the last read to end, which would get the memory and be kept", func() bool {
		b.reads.mu.Lock()
		defer b.reads.mu.Unlock()
		return len(b.reads.waiting) == 0
	})
	others.Release()
	holdsNothing(t, b)
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)
	sub.Snapshot.Release()
	sub.Close()
	b.registry.end(a, stream.ErrClosed)
	holdsNothing(t, b)
}

// heldMutations keeps whoever reads mutations waiting until release.
func heldMutations(t *testing.T, db *pgtest.DB) (release func()) {
	t.Helper()
	holder := db.Conn(t)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`)
	return func() { pgtest.Exec(t, holder, `COMMIT`) }
}

// asking waits until n wait for an attachment's document.
func asking(t *testing.T, b *Bus, a *attachment, n int) {
	t.Helper()
	pgtest.Eventually(t, fmt.Sprint(n, " to wait for the document"), func() bool {
		b.reads.mu.Lock()
		defer b.reads.mu.Unlock()
		return len(b.reads.waiting[documentKey{a, false}]) == n
	})
}

func TestAllWhoWaitForADocumentShareOneReadAndWhoGoesAwayLeaksNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, enqueueMany, id, 100, 10)
	b, start := stillBus(t, db, nil)
	start()
	a := attachAt(t, b, id, 101)
	release := heldMutations(t, db)
	const stay = 50
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	leaves := ask(ctx, b, a)
	stays := make([]<-chan got, 0, stay)
	for range stay {
		stays = append(stays, ask(t.Context(), b, a))
	}
	asking(t, b, a, stay+1)
	cancel(gone)
	if r := <-leaves; !errors.Is(r.err, gone) {
		t.Errorf("%v, want that the client has gone", r.err)
	}
	asking(t, b, a, stay)
	release()
	var first *stream.Snapshot
	for _, answer := range stays {
		r := <-answer
		must(t, r.err)
		if first == nil {
			first = r.snapshot
			defer first.Release()
			continue
		}
		if r.snapshot == first || &r.snapshot.Bytes[0] != &first.Bytes[0] {
			t.Error("not a handle of its own of the same bytes")
		}
		r.snapshot.Release()
	}
	if n := metrictest.Value(b.stats.SnapshotReads); n != 1 {
		t.Errorf("%d reads", n)
	}
	first.Release()
	b.registry.end(a, stream.ErrClosed)
	holdsNothing(t, b)
}

func TestADocumentThatAllHaveLeftIsReadToItsEndAndGivenBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, enqueueMany, id, 100, 10)
	b, start := stillBus(t, db, nil)
	start()
	a := attachAt(t, b, id, 101)
	release := heldMutations(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	answer := ask(ctx, b, a)
	asking(t, b, a, 1)
	cancel()
	if r := <-answer; r.snapshot != nil {
		t.Error("a document for one who has gone")
	}
	release()
	documentRead(t, b, 1)
	pgtest.Eventually(t, "the read's end", func() bool {
		b.reads.mu.Lock()
		defer b.reads.mu.Unlock()
		return len(b.reads.waiting) == 0
	})
	b.registry.end(a, stream.ErrClosed)
	holdsNothing(t, b)
}

// inFlight is what a client reads of what is in flight in a document's frame.
func inFlight(t *testing.T, s *stream.Snapshot) (names []string, total int) {
	t.Helper()
	var frame struct {
		InFlight []struct {
			Payload struct{ Name string }
		} `json:"in_flight"`
		Total int `json:"in_flight_total"`
	}
	_, data, _ := strings.Cut(string(s.Bytes), "data: ")
	must(t, json.Unmarshal([]byte(strings.TrimSpace(data)), &frame))
	for _, m := range frame.InFlight {
		names = append(names, m.Payload.Name)
	}
	return names, frame.Total
}

func TestALargeDocumentIsAPrefixWithTheTotal(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		for _, large := range []struct{ mutations, bytes, prefix int }{{2000, 10, 1000}, {40, 100_000, 10}, {2, 2 << 20, 0}} {
			id := pgtest.Scan[stream.TopologyID](t, conn,
				`INSERT INTO topologies (name) VALUES (gen_random_uuid()::text) RETURNING id::text`)
			pgtest.Exec(t, conn, enqueueMany, id, large.mutations, large.bytes)
			b := startBus(t, db, change)
			sub := attach(t, b, id)
			names, total := inFlight(t, sub.Snapshot)
			if total != large.mutations || len(names) != large.prefix {
				t.Errorf("%d of %d mutations of %d bytes, want %d of %d",
					len(names), total, large.bytes, large.prefix, large.mutations)
			}
			for i, name := range names {
				if name != strconv.Itoa(i+1) {
					t.Fatalf("mutation %s in the place of %d", name, i+1)
				}
			}
			if n := metrictest.Value(b.stats.SnapshotReads); n != 1 {
				t.Errorf("%d documents were read", n)
			}
			sub.Snapshot.Release()
			sub.Close()
		}
	})
}

func TestAFeedContinuesALargeDocumentUnderAWriterWithoutLossOrDouble(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn, writer := db.Conn(t), db.Conn(t)
		id := makeTopologies(t, conn, 1)[0]
		pgtest.Exec(t, conn, enqueueMany, id, 1200, 10)
		b := startBus(t, db, func(c *Config) { change(c); c.Heartbeat, c.Poll = time.Hour, 20*time.Millisecond })
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				_, _ = writer.Exec(ctx, emitOne, id) // the last one is cancelled
			}
		}()
		defer func() { stop(); <-done }()
		rounds := 30
		if testing.Short() {
			rounds = 5
		}
		for range rounds {
			if a := b.registry.find(id); a != nil {
				b.registry.end(a, stream.ErrClosed)
			}
			sub := attach(t, b, id)
			head := pgtest.Scan[stream.Seq](t, conn, `SELECT seq FROM topology_heads`)
			for last := sub.Snapshot.Seq; last < head; {
				frames, err := next(t.Context(), sub.Cursor)
				must(t, err)
				for _, fr := range frames {
					if fr.Seq != last+1 {
						t.Fatalf("%d came after %d; the document is of %d", fr.Seq, last, sub.Snapshot.Seq)
					}
					last = fr.Seq
				}
			}
			sub.Snapshot.Release()
			sub.Close()
		}
		if n := metrictest.Value(b.stats.SnapshotReads); n < int64(rounds) {
			t.Errorf("%d documents were read in %d attaches", n, rounds)
		}
	})
}

func TestATopologyThatSomebodyHoldsInANewEpochNamesWhoHoldsItAndAttachesAfterwards(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn, holder := db.Conn(t), db.Conn(t)
		ids := makeTopologies(t, conn, 2)
		b := startBus(t, db, func(c *Config) { change(c); c.AttachWait = 3 * time.Second })
		pgtest.Exec(t, holder, `BEGIN`)
		pgtest.Exec(t, holder, emitOne, ids[0])
		epoch, err := NewEpoch(t.Context(), conn)
		must(t, err)
		other := attach(t, b, ids[1])
		defer other.Close()
		_, err = b.Attach(t.Context(), stream.AttachRequest{Topology: ids[0]})
		var why *stream.UnavailableError
		var held *journal.HeldError
		if pid := fmt.Sprint("pid ", holder.PgConn().PID()); !errors.As(err, &why) || !errors.As(err, &held) ||
			!strings.Contains(why.Reason, pid) || !errors.Is(err, stream.ErrUnavailable) {
			t.Errorf("%v, want it unavailable because of %s", err, pid)
		}
		pgtest.Exec(t, holder, `COMMIT`)
		sub := attach(t, b, ids[0])
		defer sub.Close()
		for _, s := range []*stream.Subscription{other, sub} {
			if s.Snapshot.Seq.Epoch() != uint32(epoch) {
				t.Errorf("a snapshot at %d, want epoch %d", s.Snapshot.Seq, epoch)
			}
		}
	})
}
