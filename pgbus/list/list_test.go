package list

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// running is a list of a database's topologies that runs until the test ends.
type running struct {
	*List

	stats *stream.Stats
}

func run(t *testing.T, databaseURL string, change func(*Config)) *running {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	stats := metrictest.Stats()
	memory := stream.NewMemory(64<<20, stats)
	cfg := Config{
		Reader: journal.New(journal.Config{
			Pool: pool, Histories: postgres.NewHistories(false, nil), Encoder: sse.Encoder{}, Memory: memory,
		}),
		Encoder: sse.Encoder{}, Memory: memory, Stats: stats,
	}
	if change != nil {
		change(&cfg)
	}
	l := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		l.SetSweep(time.Hour) // a read that is cut off leaves pgx a connection to close by itself
		pgtest.Eventually(t, "no read to be under way", func() bool { return pool.Stat().AcquiredConns() == 0 })
		cancel()
		<-done
		pool.Close()
	})
	return &running{l, stats}
}

// attach gives a client of the whole list.
func (r *running) attach(t *testing.T) *stream.Subscription {
	t.Helper()
	sub, err := r.Attach(t.Context(), &stream.ListFilter{})
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func TestAListIsReadForAllAtOnceAndNotMoreOftenThanItsPace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'topology ' || i FROM generate_series(1, 1200) i`)
	l := run(t, db.URL, func(c *Config) { c.Pace, c.Sweep = 50*time.Millisecond, time.Hour })
	began := time.Now()
	var clients sync.WaitGroup
	subs := make([]*stream.Subscription, 100)
	for i := range subs {
		clients.Go(func() { subs[i] = l.attach(t) })
	}
	clients.Wait()
	if n := metrictest.Value(l.stats.ListReads); n != 1 {
		t.Errorf("%d reads for 100 clients", n)
	}
	for _, sub := range subs {
		if frames := strings.Count(string(sub.Snapshot.Bytes), "event: list\n"); frames != 3 {
			t.Errorf("%d frames of 1200 rows", frames)
		}
		if &sub.Snapshot.Bytes[0] != &subs[0].Snapshot.Bytes[0] {
			t.Error("the document was made twice")
		}
	}
	for i := range 100 {
		id := pgtest.Scan[stream.TopologyID](t, conn,
			`UPDATE topologies SET name = name || '!' WHERE name = $1 RETURNING id::text`, fmt.Sprint("topology ", i+1))
		l.Touch(id)
	}
	pgtest.Eventually(t, "all changes", func() bool { return subs[0].Cursor.Feed().Last() == 100 })
	if n, most := metrictest.Value(l.stats.ListReads), 2+int64(time.Since(began)/(50*time.Millisecond)); n > most {
		t.Errorf("%d reads, of which the pace allows %d", n, most)
	}
	for _, sub := range subs {
		sub.GiveBack()
	}
}

func TestASweepFindsWhatNobodyTold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('a'), ('b'), ('c')`)
	l := run(t, db.URL, func(c *Config) { c.Pace, c.Sweep = time.Millisecond, 20*time.Millisecond })
	sub := l.attach(t)
	defer sub.GiveBack()
	for i, statement := range []string{
		`UPDATE topologies SET name = 'd' WHERE name = 'a'`, `DELETE FROM topologies WHERE name = 'b'`,
		`INSERT INTO topologies (name) VALUES ('e')`,
		`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies
			WHERE name = 'c'`,
	} {
		pgtest.Exec(t, conn, statement)
		pgtest.Eventually(t, statement, func() bool { return sub.Cursor.Feed().Last() == stream.Seq(i+1) })
	}
	reads := metrictest.Value(l.stats.ListReads)
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'test', '{}') FROM topologies`)
	pgtest.Eventually(t, "more sweeps", func() bool { return metrictest.Value(l.stats.ListReads) > reads+3 })
	if last := sub.Cursor.Feed().Last(); last != 4 {
		t.Errorf("an emit is told as a change of the list: %d", last)
	}
}

func TestAListThatNobodyFollowsIsForgottenAndReadAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('a')`)
	l := run(t, db.URL, func(c *Config) { c.Linger = 50 * time.Millisecond })
	l.attach(t).GiveBack()
	pgtest.Eventually(t, "it to be forgotten", func() bool { return metrictest.Value(l.stats.Feeds) == 0 })
	if held := metrictest.Value(l.stats.HeldBytes); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	pgtest.Exec(t, conn, `UPDATE topologies SET name = 'b'`) // nobody is told
	sub := l.attach(t)
	if !strings.Contains(string(sub.Snapshot.Bytes), `"name" : "b"`) &&
		!strings.Contains(string(sub.Snapshot.Bytes), `"name":"b"`) {
		t.Errorf("%s", sub.Snapshot.Bytes)
	}
	sub.GiveBack()
}

func TestWhoIsBehindTheRingGetsTheWholeListAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'topology ' || i FROM generate_series(1, $1) i`,
		ringFrames+100)
	l := run(t, db.URL, func(c *Config) { c.Pace = time.Millisecond })
	sub := l.attach(t)
	defer sub.GiveBack()
	pgtest.Exec(t, conn, `UPDATE topologies SET name = name || '!'`)
	l.Look()
	pgtest.Eventually(t, "all changes", func() bool { return sub.Cursor.Feed().Last() == ringFrames+100 })
	behind, err := sub.Cursor.Take(stream.NewBatch(1))
	if !behind || err != nil {
		t.Fatalf("behind: %v, %v", behind, err)
	}
	if err := sub.Cursor.Read(t.Context()); !errors.Is(err, stream.ErrReset) {
		t.Errorf("%v", err)
	}
}

func TestWhereTheDatabaseIsAwayAClientOfTheListHearsSo(t *testing.T) {
	t.Parallel()
	l := run(t, "postgres://127.0.0.1:1/nobody", func(c *Config) { c.AttachWait = 300 * time.Millisecond })
	_, err := l.Attach(t.Context(), &stream.ListFilter{})
	if !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestWhatIsHiddenIsNotRemoved(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('a')`)
	var blind atomic.Bool
	l := run(t, db.URL, func(c *Config) {
		c.Pace, c.Sweep, c.AttachWait = time.Millisecond, 20*time.Millisecond, time.Second
		c.Blind = func(context.Context) error {
			if blind.Load() {
				return errors.New("rows are hidden")
			}
			return nil
		}
	})
	sub := l.attach(t)
	defer sub.GiveBack()
	blind.Store(true)
	pgtest.Exec(t, conn, `DELETE FROM topologies`)
	reads := metrictest.Value(l.stats.ListReads)
	pgtest.Eventually(t, "more reads", func() bool { return metrictest.Value(l.stats.ListReads) > reads+5 })
	if last := sub.Cursor.Feed().Last(); last != 0 {
		t.Errorf("%d changes are told", last)
	}
	blind.Store(false)
	pgtest.Eventually(t, "it to be removed", func() bool { return sub.Cursor.Feed().Last() == 1 })
}

// A promotion may take events back: what the copy has of a row has a lower number than what clients have, until the
// topology's next event. By its seq the row must not seem older.
func TestARowIsOfTheDatabasesEpochBeforeItsTopologyIs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `INSERT INTO topologies (name) VALUES ('demo')`)
	db.Exec(t, `SELECT topology_new_epoch()`)
	const read = `SELECT (SELECT epoch FROM topology_identity()) << 32, max(seq) FROM topology_heads`
	var least, head int64
	if err := db.Conn(t).QueryRow(t.Context(), read).Scan(&least, &head); err != nil {
		t.Fatal(err)
	}
	sub := run(t, db.URL, nil).attach(t)
	defer sub.Close()
	if got, want := string(sub.Snapshot.Bytes), fmt.Sprintf(`"seq":%d,`, least); !strings.Contains(got, want) ||
		head >= least {
		t.Errorf("%s; want %s, above the head %d", got, want, head)
	}
}

// Clients keep of two rows the one of higher seq. What they have from another server, of a history that is lost, must
// not stay, though here the row is as it was.
func TestARowThatIsAsItWasIsToldAgainInANewEpoch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := pgtest.Scan[stream.TopologyID](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	l := run(t, db.URL, func(c *Config) { c.Pace, c.Sweep = time.Millisecond, time.Hour })
	sub := l.attach(t)
	defer sub.GiveBack()
	reads := metrictest.Value(l.stats.ListReads)
	l.ReadAnew()
	pgtest.Eventually(t, "another read", func() bool { return metrictest.Value(l.stats.ListReads) > reads })
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	l.ReadAnew()
	pgtest.Eventually(t, "the row of the new epoch", func() bool { return sub.Cursor.Feed().Last() == 1 })
	least := pgtest.Scan[int64](t, conn, `SELECT epoch << 32 FROM topology_identity()`)
	again, err := l.Attach(t.Context(), &stream.ListFilter{Topologies: []stream.TopologyID{id}}) // with no kept document
	if err != nil {
		t.Fatal(err)
	}
	defer again.GiveBack()
	if got, want := string(again.Snapshot.Bytes), fmt.Sprintf(`"seq":%d,`, least); !strings.Contains(got, want) {
		t.Errorf("%s; want %s", got, want)
	}
}
