package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

const enqueue = `
INSERT INTO mutations (topology_id, op, payload)
SELECT $1::text::uuid, 'add_lan', jsonb_build_object('name', 'l' || i, 'text', $3::text)
  FROM generate_series(1, $2::int) i`

func TestALightSnapshotTellsWhatAnAttachNeeds(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 4)
	small, large, deleted, other := ids[0], ids[1], ids[2], ids[3]
	pgtest.Exec(t, b.conn, enqueue, small, 2, "x")
	pgtest.Exec(t, b.conn, enqueue, large, 100, "x")
	pgtest.Exec(t, b.conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, deleted)
	before := b.pid(t)
	lights, h, err := b.Lights(soon(t), []stream.TopologyID{large, unknown, deleted, small})
	must(t, err)
	if h != b.history(t) {
		t.Errorf("the history is %+v", h)
	}
	if after := b.pid(t); after != before {
		t.Error("the connection cannot be used any more")
	}
	got := map[stream.TopologyID]Light{}
	for _, l := range lights {
		got[l.Topology] = l
		if l.Head != b.head(t, l.Topology) || !l.Raised(h) {
			t.Errorf("the head of %s is %+v", l.Topology, l.Head)
		}
	}
	if len(lights) != 3 || len(got) != 3 || got[other].Alive {
		t.Fatalf("%+v", lights)
	}
	if l := got[large]; l.InFlight != 100 || !l.Alive || l.Document != nil {
		t.Errorf("100 mutations: %d, alive: %v, document %q", l.InFlight, l.Alive, l.Document)
	}
	if l := got[deleted]; l.InFlight != 0 || l.Alive || l.Document != nil {
		t.Errorf("deleted: %+v", l)
	}
	if l := got[small]; l.InFlight != 2 || !l.Alive || seqOf(t, l.Document) != l.Head.Seq {
		t.Errorf("2 mutations: %d, alive: %v, document %q", l.InFlight, l.Alive, l.Document)
	}
	lights, h, err = b.Lights(soon(t), []stream.TopologyID{unknown})
	if err != nil || len(lights) > 0 || h != b.history(t) {
		t.Errorf("one that never was: %v, %+v, %v", lights, h, err)
	}
}

// pid is that of the reader's one connection.
func (b *bench) pid(t *testing.T) uint32 {
	t.Helper()
	conn, err := b.cfg.Pool.Acquire(soon(t))
	must(t, err)
	defer conn.Release()
	return conn.Conn().PgConn().PID()
}

func seqOf(t *testing.T, document []byte) stream.Seq {
	t.Helper()
	var d struct {
		Payload struct {
			Seq stream.Seq `json:"seq"`
		} `json:"payload"`
		Seq stream.Seq `json:"seq"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		t.Fatalf("%q: %v", document, err)
	}
	return max(d.Seq, d.Payload.Seq)
}

func TestLightSnapshotsAreJudgedAndLeaveNoTransactionBehind(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 1)
	lights, h, err := b.LightsOn(soon(t), b.conn, ids)
	if err != nil || len(lights) != 1 || h != b.history(t) {
		t.Errorf("%v, %+v, %v", lights, h, err)
	}
	b.promote(t)
	lights, h, err = b.LightsOn(soon(t), b.conn, ids)
	if !errors.Is(err, postgres.ErrUnraised) || lights != nil || !h.Other {
		t.Errorf("%v, %+v, %v", lights, h, err)
	}
	// One that fails leaves no transaction on the pool's connection.
	before := b.pid(t)
	_, err = b.conn.Exec(t.Context(), `ALTER FUNCTION topology_light RENAME TO away`)
	must(t, err)
	if lights, _, err := b.Lights(soon(t), ids); err == nil || lights != nil {
		t.Errorf("%v, %v", lights, err)
	}
	if after := b.pid(t); after != before {
		t.Error("the connection cannot be used any more")
	}
}

// hold has a transaction hold topologies until release is called.
func (b *bench) hold(t *testing.T, ids ...stream.TopologyID) (pid int32, release func()) {
	t.Helper()
	conn := b.db.Conn(t)
	pgtest.Exec(t, conn, `BEGIN`)
	for _, id := range ids {
		pgtest.Exec(t, conn, `SELECT FROM topology_heads WHERE topology_id = $1::text::uuid FOR NO KEY UPDATE`, id)
	}
	return int32(conn.PgConn().PID()), func() { pgtest.Exec(t, conn, `COMMIT`) }
}

// raising is in the statement that raises heads.
const raising = "topology_raise("

func names(held []*HeldError) (ids []stream.TopologyID) {
	for _, h := range held {
		ids = append(ids, h.Topology)
	}
	slices.Sort(ids)
	return ids
}

func TestTopologiesThatNobodyHoldsAreRaisedAndThoseThatSomebodyHoldsAreNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 4)
	pid, _ := b.hold(t, ids[1], ids[2])
	b.promote(t)
	lights, h, err := b.Lights(soon(t), ids)
	must(t, err)
	for _, l := range lights {
		if l.Raised(h) {
			t.Errorf("%s is raised", l.Topology)
		}
	}
	held, err := b.Raise(soon(t), h, ids)
	must(t, err)
	if !slices.Equal(names(held), ids[1:3]) {
		t.Fatalf("held are %v, want %v", names(held), ids[1:3])
	}
	for _, e := range held {
		if e.PID == nil || *e.PID != pid {
			t.Errorf("%v, want pid %d", e, pid)
		}
	}
	lights, h, err = b.Lights(soon(t), ids)
	must(t, err)
	for _, l := range lights {
		if l.Raised(h) == slices.Contains(ids[1:3], l.Topology) {
			t.Errorf("%s raised: %v", l.Topology, l.Raised(h))
		}
	}
}

func TestAHeldTopologyThatIsLetGoIsRaised(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 2)
	_, release := b.hold(t, ids[0])
	b.hold(t, ids[1])
	b.promote(t)
	_, h, err := b.Lights(soon(t), nil)
	must(t, err)
	seen := &recorder{only: raising, before: func(n int) {
		if n == 2 { // all have been tried; one is waited for
			release()
		}
	}}
	b.cfg.Pool = b.record(t, seen)
	held, err := b.Raise(soon(t), h, ids)
	must(t, err)
	if !slices.Equal(names(held), ids[1:]) || seen.count() != 3 {
		t.Errorf("held are %v after %d statements, want %v", names(held), seen.count(), ids[1:])
	}
	if got := b.head(t, ids[0]); int64(got.Seq.Epoch()) != h.Epoch {
		t.Errorf("its head is %d", got.Seq)
	}
}

// A database may have a stricter isolation level as its default. Under that whoever waits for a head gets an error when
// it has been written to, and one that is written to all the time would never enter the epoch.
func TestATopologyThatIsWrittenToIsRaisedWhateverTheDatabasesIsolationLevelIs(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 1)
	writer := b.db.Conn(t)
	pgtest.Exec(t, writer, `BEGIN`)
	pgtest.Exec(t, writer, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, ids[0])
	b.promote(t)
	_, h, err := b.Lights(soon(t), nil)
	must(t, err)
	const (
		patient  = `ALTER FUNCTION topology_raise(uuid[]) SET lock_timeout = '1min'`
		stricter = `
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
END $$`
		waits = `
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%topology_raise%'`
	)
	pgtest.Exec(t, b.conn, patient)
	pgtest.Exec(t, b.conn, stricter)
	b.cfg.Pool = newPool(t, b.db, nil)
	done := make(chan error, 1)
	go func() {
		held, err := b.Raise(t.Context(), h, ids)
		for errors.Is(err, context.DeadlineExceeded) { // the machine is slow
			held, err = b.Raise(t.Context(), h, ids)
		}
		if len(held) > 0 {
			err = held[0]
		}
		done <- err
	}()
	pgtest.Eventually(t, "the raise to wait", func() bool { return pgtest.Scan[int](t, b.conn, waits) == 1 })
	pgtest.Exec(t, writer, `COMMIT`)
	must(t, <-done)
	if got := b.head(t, ids[0]); int64(got.Seq.Epoch()) != h.Epoch {
		t.Errorf("its head is %d", got.Seq)
	}
}

func TestAtMostFiveHeldTopologiesAreWaitedForAndOneAloneOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 7)
	b.hold(t, ids...)
	b.promote(t)
	_, h, err := b.Lights(soon(t), nil)
	must(t, err)
	for n, statements := range map[int]int{1: 1, 2: 3, 7: 6} {
		seen := &recorder{only: raising}
		b.cfg.Pool = b.record(t, seen)
		held, err := b.Raise(soon(t), h, ids[:n])
		if err != nil || !slices.Equal(names(held), ids[:n]) || seen.count() != statements {
			t.Errorf("of %d: %v after %d statements, want %d: %v", n, names(held), seen.count(), statements, err)
		}
	}
	// A raise that fails says so.
	for at := range 2 {
		ctx, cancel := context.WithCancel(soon(t))
		seen := &recorder{only: raising, before: func(n int) {
			if n == at+1 {
				cancel()
			}
		}}
		b.cfg.Pool = b.record(t, seen)
		if held, err := b.Raise(ctx, h, ids); !errors.Is(err, context.Canceled) || held != nil {
			t.Errorf("%v, %v", held, err)
		}
		if seen.count() != at+1 {
			t.Errorf("%d statements", seen.count())
		}
	}
	b.cfg.Pool.Close()
	if held, err := b.Raise(soon(t), h, ids[:1]); err == nil || held != nil {
		t.Errorf("%v, %v", held, err)
	}
}

func TestHeadsAreRaisedOnThePrimaryWhileTheHistoryIsAStandbys(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 1)
	pool, primary := &recorder{only: raising}, &recorder{only: raising}
	b.cfg.Pool, b.cfg.Primary = b.record(t, pool), b.record(t, primary)
	for _, recovering := range []bool{true, false} {
		if _, err := b.Raise(soon(t), postgres.History{Recovering: recovering}, ids); err != nil {
			t.Error(err)
		}
		if primary.count() != 1 || (pool.count() == 1) == recovering {
			t.Errorf("standby: %v: %d statements there, %d on the primary", recovering, pool.count(), primary.count())
		}
	}
}

// payload is a snapshot's document.
func payload(t *testing.T, s *stream.Snapshot) (document []byte) {
	t.Helper()
	_, document, ok := bytes.Cut(s.Bytes, []byte("\ndata: "))
	if !ok || !bytes.HasPrefix(s.Bytes, []byte("event: snapshot\nid: "+s.Seq.String()+"\n")) {
		t.Fatalf("%.200q is no frame of a snapshot at %d", s.Bytes, s.Seq)
	}
	return bytes.TrimSuffix(document, []byte("\n\n"))
}

func TestADocumentIsInTheAccountUntilItIsReleased(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	pgtest.Exec(t, b.conn, enqueue, id, 3, strings.Repeat("x", 100_000)) // it comes in two chunks
	d, h, err := b.Document(soon(t), id, false)
	must(t, err)
	if d.Head != b.head(t, id) || !d.Alive || h != b.history(t) || d.Snapshot.Seq != d.Head.Seq {
		t.Errorf("%+v, alive: %v, %+v, at %d", d.Head, d.Alive, h, d.Snapshot.Seq)
	}
	text := payload(t, d.Snapshot)
	if len(text) < 300_000 || seqOf(t, text) != d.Head.Seq {
		t.Errorf("%d bytes, of %d", len(text), seqOf(t, text))
	}
	// While it is read there are its text and its frame.
	if got, want := metrictest.Value(b.stats.HeldBytes), int64(2*len(text)+frameRoom); got != want {
		t.Errorf("%d bytes are held, want %d", got, want)
	}
	if room := len(d.Snapshot.Bytes) - len(text); room > frameRoom {
		t.Errorf("the frame takes %d bytes beside the document", room)
	}
	d.Snapshot.Release()
	if got := metrictest.Value(b.stats.HeldBytes); got != 0 {
		t.Errorf("%d bytes are held", got)
	}
	// It has the graph if that is asked for.
	for _, graph := range []bool{false, true} {
		d, _, err := b.Document(soon(t), id, graph)
		must(t, err)
		if got := bytes.Contains(payload(t, d.Snapshot), []byte(`"deckies"`)); got != graph {
			t.Errorf("graph: %v, want %v", got, graph)
		}
		d.Snapshot.Release()
	}
}

func TestOfADeletedTopologyThereIsNoDocumentAndOneThatNeverWasIsNotFound(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	pgtest.Exec(t, b.conn, `DELETE FROM topologies`)
	d, h, err := b.Document(soon(t), id, false)
	if err != nil || d.Alive || d.Snapshot != nil || d.Head != b.head(t, id) || h != b.history(t) {
		t.Errorf("%+v, %+v, %v", d, h, err)
	}
	_, _, err = b.Document(soon(t), unknown, false)
	if err != stream.ErrNotFound { //nolint:errorlint // the sentinel itself: it is for the client
		t.Error(err)
	}
	if got := metrictest.Value(b.stats.HeldBytes); got != 0 {
		t.Errorf("%d bytes are held", got)
	}
}

// somebodyWaits waits until somebody waits for memory, of which a byte is free.
func (b *bench) somebodyWaits(t *testing.T) {
	t.Helper()
	pgtest.Eventually(t, "somebody to wait for memory", func() bool {
		one, ok := b.memory.TryReserve(1)
		one.Release()
		return !ok
	})
}

// A breakable connection fails when it is told to.
type breakable struct {
	net.Conn

	broken *atomic.Bool
}

func (c breakable) Read(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

func TestADocumentThatFindsNoMemoryOrLosesItsConnectionIsOutOfTheAccount(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	pgtest.Exec(t, b.conn, enqueue, id, 3, strings.Repeat("x", 100_000)) // more than a client reads at a time
	var broken atomic.Bool
	b.cfg.Pool = newPool(t, b.db, func(c *pgxpool.Config) {
		c.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			return breakable{conn, &broken}, err
		}
	})
	// read reads the document and does something while it waits for memory.
	read := func(meanwhile func(cancel func(), others *stream.Hold)) error {
		others, _ := b.memory.TryReserve(memory - 1)
		ctx, cancel := context.WithCancel(soon(t))
		var (
			d    Document
			err  error
			done = make(chan struct{})
		)
		go func() {
			defer close(done)
			d, _, err = b.Document(ctx, id, false)
		}()
		b.somebodyWaits(t)
		meanwhile(cancel, others)
		<-done
		if d.Snapshot != nil {
			t.Error("there is a snapshot")
		}
		return err
	}
	err := read(func(cancel func(), others *stream.Hold) {
		cancel()
		pgtest.Eventually(t, "nobody to wait for memory", func() bool {
			one, ok := b.memory.TryReserve(1)
			one.Release()
			return ok
		})
		others.Release()
	})
	if !errors.Is(err, stream.ErrNoMemory) {
		t.Error(err)
	}
	err = read(func(_ func(), others *stream.Hold) {
		broken.Store(true)
		others.Release()
	})
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "read a document") {
		t.Error(err)
	}
	if got := metrictest.Value(b.stats.HeldBytes); got != 0 {
		t.Errorf("%d bytes are held", got)
	}
}

var _ pgx.QueryTracer = (*recorder)(nil)
