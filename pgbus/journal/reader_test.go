package journal

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

const unknown = stream.TopologyID("00000000-0000-4000-8000-000000000000")

func TestHeadsAreThoseOfTheTable(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 3)
	b.emit(t, ids[0], 3, "x")
	pruned := b.head(t, ids[0])
	pruned.First += 2
	_, err := b.conn.Exec(t.Context(), `UPDATE topology_heads SET first = $2 WHERE topology_id = $1::text::uuid`,
		ids[0], pruned.First)
	must(t, err)
	heads, err := b.Heads(soon(t), []stream.TopologyID{ids[0], ids[1], unknown})
	must(t, err)
	if len(heads) != 2 || heads[ids[0]] != pruned || heads[ids[1]] != b.head(t, ids[1]) {
		t.Errorf("%v, want %v and another", heads, pruned)
	}
	if heads, err = b.Heads(soon(t), []stream.TopologyID{unknown}); err != nil || len(heads) > 0 {
		t.Errorf("one that never was: %v, %v", heads, err)
	}
	if b.answers != 2 {
		t.Errorf("told %d times that the database has answered, want 2", b.answers)
	}
	if newest, known := b.histories.Newest(); !known || newest != b.history(t) {
		t.Errorf("the newest history is %+v", newest)
	}
}

func TestAReaderNeedsNeitherAPrimaryNorALoggerNorSomebodyToTell(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.Answered = nil })
	id := b.topologies(t, 1)[0]
	b.promote(t) // it is logged, and read again
	_, err := b.Heads(soon(t), []stream.TopologyID{id})
	must(t, err)
	if held, err := b.Raise(soon(t), b.history(t), []stream.TopologyID{id}); err != nil || len(held) > 0 {
		t.Errorf("%v, %v", held, err)
	}
	h := postgres.History{Recovering: true} // the primary's to raise
	if held, err := b.Raise(soon(t), h, []stream.TopologyID{id}); err != nil || len(held) > 0 {
		t.Errorf("%v, %v", held, err)
	}
}

// every reads something in each way that a reader has.
var every = map[string]func(context.Context, *bench, stream.TopologyID) error{
	"heads": func(ctx context.Context, b *bench, id stream.TopologyID) error {
		_, err := b.Heads(ctx, []stream.TopologyID{id})
		return err
	},
	"rows": func(ctx context.Context, b *bench, id stream.TopologyID) error {
		return b.Rows(ctx, Live, []PageRequest{{Topology: id}}, 9, 1<<20, func(int, Row) {})
	},
	"journal": func(ctx context.Context, b *bench, id stream.TopologyID) error {
		_, err := b.Journal(ctx, stream.JournalRequest{Topology: id, Limit: 9, Most: 1 << 20})
		return err
	},
	"light snapshots": func(ctx context.Context, b *bench, id stream.TopologyID) error {
		_, _, err := b.Lights(ctx, []stream.TopologyID{id})
		return err
	},
	"document": func(ctx context.Context, b *bench, id stream.TopologyID) error {
		d, _, err := b.Document(ctx, id, false)
		d.Snapshot.Release()
		return err
	},
}

func TestADatabaseThatWasPromotedIsRaisedBeforeAnythingOfItIsGiven(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	must(t, every["heads"](soon(t), b, id))
	for name, read := range every {
		before := b.history(t)
		b.promote(t)
		b.answers = 0
		if err := read(soon(t), b, id); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		after, _ := b.histories.Newest()
		if after != b.history(t) || after.Epoch <= before.Epoch || after.Other {
			t.Errorf("%s: the newest history is %+v, before it was %+v", name, after, before)
		}
		if b.answers != 1 {
			t.Errorf("%s: told %d times that the database has answered, want 1", name, b.answers)
		}
	}
}

func TestOfTwoHistoriesOfOneEpochTheSecondIsRaised(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	for name, read := range every {
		b.cfg.Histories = postgres.NewHistories(false, nil)
		rival := b.history(t)
		rival.ID = "another"
		must(t, b.cfg.Histories.Judge(rival))
		if err := read(soon(t), b, id); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if newest, _ := b.cfg.Histories.Newest(); newest != b.history(t) || newest.Epoch <= rival.Epoch {
			t.Errorf("%s: the newest history is %+v, after %+v", name, newest, rival)
		}
	}
}

func TestNothingOfAnOldHistoryIsGivenAndItsServerIsNotAskedAgainOnThatConnection(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	b.emit(t, id, 3, "x")
	newer := b.history(t)
	newer.Epoch++
	must(t, b.histories.Judge(newer))
	ctx, cancel := context.WithCancel(soon(t))
	pids := map[uint32]bool{}
	err := b.do(ctx, Live, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		pids[conn.PgConn().PID()] = true
		if len(pids) == 3 { // it would be tried for ever
			cancel()
			return newer, postgres.ErrOldHistory
		}
		return b.rows(ctx, conn, nil, func(postgres.History) error {
			t.Error("a row of an old history was given")
			return nil
		}, `SELECT epoch, history::text, recovering, other FROM topology_identity(), generate_series(1, 3)`)
	})
	if len(pids) != 3 || !errors.Is(err, stream.ErrUnavailable) || !errors.Is(err, postgres.ErrOldHistory) {
		t.Errorf("%d connections: %v", len(pids), err)
	}
	if b.answers != 0 {
		t.Error("that is no answer")
	}
	for name, read := range every {
		ctx, cancel := context.WithCancel(soon(t))
		b.cfg.Pool = b.record(t, &recorder{before: func(n int) {
			if n > 3 {
				cancel()
			}
		}})
		if err := read(ctx, b, id); err == nil {
			t.Errorf("%s: it was given", name)
		}
	}
}

func TestAReadThatFailsIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	_, err := b.conn.Exec(t.Context(), `DROP FUNCTION topology_identity CASCADE`)
	must(t, err)
	for name, read := range every {
		seen := &recorder{}
		b.cfg.Pool = b.record(t, seen)
		if err := read(soon(t), b, id); err == nil || seen.count() > 3 { // with BEGIN and ROLLBACK
			t.Errorf("%s: %v after %d statements", name, err, seen.count())
		}
		b.cfg.Pool.Close()
		ctx := soon(t)
		if err := read(ctx, b, id); err == nil || ctx.Err() != nil {
			t.Errorf("%s: there is no connection: %v", name, err)
		}
	}
	if b.answers != 0 {
		t.Error("no database has answered")
	}
}

func TestAnEpochThatCannotBeRaisedIsAnError(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	b.promote(t)
	_, err := b.conn.Exec(t.Context(), `DROP FUNCTION topology_identify()`)
	must(t, err)
	for name, read := range every {
		ctx := soon(t)
		if err := read(ctx, b, id); err == nil || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFullLaneKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	read := func(ctx context.Context, lane Lane) error {
		return b.Rows(ctx, lane, []PageRequest{{Topology: id}}, 9, 1<<20, func(int, Row) {})
	}
	connections := map[Lane]int64{Live: 4, Backlog: 2, Documents: 2}
	for lane, n := range connections {
		take(t, b.lanes[lane], n-1)
		must(t, read(soon(t), lane)) // there is one left
		take(t, b.lanes[lane], 1)
		gone := errors.New("whoever asked has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if err := read(ctx, lane); !errors.Is(err, gone) {
			t.Errorf("lane %d is full: %v", lane, err)
		}
		for other := range connections {
			if other != lane {
				must(t, read(soon(t), other))
			}
		}
		b.lanes[lane].Release(n)
	}
	// Each kind of read has its own.
	for name, lane := range map[string]Lane{
		"heads": Live, "light snapshots": Live, "journal": Backlog, "document": Documents,
	} {
		take(t, b.lanes[lane], connections[lane])
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := every[name](ctx, b, id); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		b.lanes[lane].Release(connections[lane])
		take(t, b.lanes[lane], connections[lane]) // nothing is in use
		b.lanes[lane].Release(connections[lane])
	}
}

// take takes n of a lane's connections, which must be free.
func take(t *testing.T, lane *semaphore.Weighted, n int64) {
	t.Helper()
	if !lane.TryAcquire(n) {
		t.Fatalf("%d connections are not free", n)
	}
}

func TestALaneHasNoMoreConnectionsThanItsShare(t *testing.T) {
	t.Parallel()
	b := New(Config{})
	for lane, n := range map[Lane]int64{Live: 4, Backlog: 2, Documents: 2} {
		if take(t, b.lanes[lane], n); b.lanes[lane].TryAcquire(1) {
			t.Errorf("lane %d has more than %d connections", lane, n)
		}
	}
}

func TestAConnectionOutsideThePoolIsAcceptedOnceItsHistoryCanBeUsed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	must(t, b.Accept(soon(t), b.conn))
	before, _ := b.histories.Newest()
	b.promote(t)
	must(t, b.Accept(soon(t), b.conn))
	newest, _ := b.histories.Newest()
	if newest != b.history(t) || newest.Epoch <= before.Epoch {
		t.Errorf("the newest history is %+v, before it was %+v", newest, before)
	}
	// An old primary's is closed.
	newest.Epoch++
	must(t, b.histories.Judge(newest))
	conn := b.db.Conn(t)
	if err := b.Accept(soon(t), conn); !errors.Is(err, postgres.ErrOldHistory) || !conn.IsClosed() {
		t.Errorf("%v, closed: %v", err, conn.IsClosed())
	}
	if err := b.Accept(soon(t), conn); err == nil || errors.Is(err, postgres.ErrOldHistory) {
		t.Errorf("a connection that is closed: %v", err)
	}
	// One that cannot be mended is refused.
	b.promote(t)
	_, err := b.conn.Exec(t.Context(), `DROP FUNCTION topology_identify()`)
	must(t, err)
	ctx := soon(t)
	if err := b.Accept(ctx, b.conn); !errors.Is(err, postgres.ErrUnraised) || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
}

func TestAStandbyThatIsBehindIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	newest := b.history(t)
	newest.Epoch++
	must(t, b.histories.Judge(newest))
	const behind = `s.epoch, s.history, true, false`
	b.pretend(t, behind)
	ctx, cancel := context.WithCancel(soon(t))
	looks := &recorder{before: func(n int) {
		if n == 3 {
			b.pretend(t, `s.epoch + 1, '`+newest.ID+`'::uuid, true, false`) // it has replayed what it lacked
		}
	}}
	conn, err := b.record(t, looks).Acquire(ctx)
	must(t, err)
	defer conn.Release()
	must(t, b.Accept(ctx, conn.Conn()))
	b.pretend(t, behind)
	looks.before = func(n int) {
		if n == 6 {
			cancel() // nobody wants it any more
		}
	}
	if err := b.Accept(ctx, conn.Conn()); !errors.Is(err, postgres.ErrOldHistory) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
