package wal

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/source"
	"topostream/stream"
)

// resolved is what one look tells.
func resolved(d *doubt, v Visibility) (seqs []stream.Seq, ended, left bool) {
	visible, ended, left := d.resolve(v)
	for _, e := range visible {
		seqs = append(seqs, e.Seq)
	}
	slices.Sort(seqs)
	return seqs, ended, left
}

func TestAnEventIsVisibleWhenASnapshotThatWasTakenLaterSeesItAndTheSinkKnowsIt(t *testing.T) {
	t.Parallel()
	seen := Visibility{Next: 100}
	for name, c := range map[string]struct {
		xid        uint32
		told, next bool
		want       bool
	}{
		"told, and seen in the next round":   {99, true, true, true},
		"not seen":                           {100, true, true, false},
		"seen by a snapshot of its round":    {99, true, false, false},
		"the sink has not been told of it":   {99, false, true, false},
		"neither told nor in the next round": {99, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoubt()
			e := source.Event{Topology: "a", Seq: 7, XID: c.xid}
			d.add(e)
			if c.told {
				d.told(e)
			}
			if c.next {
				d.next()
			}
			seqs, ended, left := resolved(&d, seen)
			if (len(seqs) == 1) != c.want || ended || left == c.want {
				t.Errorf("visible are %v, ended %v, left %v", seqs, ended, left)
			}
			if d.covers("a", 7) == c.want {
				t.Errorf("in doubt: %v", !c.want)
			}
		})
	}
}

func TestTheNewestEventOfATopologyIsTheOneInDoubt(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	first, second := source.Event{Topology: "a", Seq: 7, XID: 50}, source.Event{Topology: "a", Seq: 8, XID: 200}
	d.add(first)
	d.told(first)
	d.next()
	d.add(second)
	d.told(first) // late: it is not the newest any more
	d.next()
	if seqs, _, left := resolved(&d, Visibility{Next: 300}); seqs != nil || !left {
		t.Errorf("visible are %v before the sink knows", seqs)
	}
	d.told(second)
	if seqs, _, left := resolved(&d, Visibility{Next: 200}); seqs != nil || !left {
		t.Errorf("visible are %v, want none: the newest is not", seqs)
	}
	if seqs, _, left := resolved(&d, Visibility{Next: 201}); !slices.Equal(seqs, []stream.Seq{8}) || left {
		t.Errorf("visible are %v, left %v", seqs, left)
	}
	d.told(second) // nothing of it is left
	if _, _, left := resolved(&d, Visibility{Next: 201}); left {
		t.Error("something came back")
	}
}

func TestWhatIsUpToTheNewestEventOfItsEpochIsInDoubt(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	const epoch = stream.Seq(1) << 32
	d.add(source.Event{Topology: "a", Seq: epoch + 7})
	for n, want := range map[stream.Seq]bool{epoch + 6: true, epoch + 7: true, epoch + 8: false, 7: false} {
		if got := d.covers("a", n); got != want {
			t.Errorf("%d in doubt: %v", n, got)
		}
	}
	if d.covers("b", epoch+6) {
		t.Error("another topology's is in doubt")
	}
}

func TestTheEndOfATransactionOfBeforeTheStreamIsToldOnce(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	d.watch([]uint32{1}) // of an earlier stream
	d.watch([]uint32{10, 20})
	for _, step := range []struct {
		v           Visibility
		ended, left bool
	}{
		{Visibility{Next: 30, Running: []uint32{10, 20}}, false, true},
		{Visibility{Next: 30, Running: []uint32{20}}, true, true},
		{Visibility{Next: 30, Running: []uint32{20}}, false, true},
		{Visibility{Next: 30}, true, false},
		{Visibility{Next: 30}, false, false},
	} {
		if seqs, ended, left := resolved(&d, step.v); seqs != nil || ended != step.ended || left != step.left {
			t.Errorf("%+v: visible are %v, ended %v, left %v", step.v, seqs, ended, left)
		}
	}
}

func TestWhatIsInDoubtIsLookedAt(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*doubt){
		"an event": func(d *doubt) { d.add(source.Event{}) },
		"a stream": func(d *doubt) { d.watch(nil) },
	} {
		d := newDoubt()
		if len(d.some) != 0 {
			t.Error("something before anything was in doubt")
		}
		if begin(&d); len(d.some) != 1 {
			t.Errorf("%s: nobody looks", name)
		}
	}
}

// A dialer's next connections fail.
type dialer struct {
	fail  atomic.Int32 // so many
	tried atomic.Int32 // so many have been
}

// dialing has a configuration's pool connect by a dialer.
func dialing(t *testing.T, cfg *Config, db *pgtest.DB) *dialer {
	t.Helper()
	d := &dialer{}
	pool, err := pgxpool.ParseConfig(db.URL)
	must(t, err)
	pool.ConnConfig.Fallbacks = nil // each connection is dialed once
	pool.ConnConfig.TLSConfig = nil
	pool.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		d.tried.Add(1)
		if d.fail.Add(-1) >= 0 {
			return nil, errors.New("the database is away")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), pool)
	must(t, err)
	t.Cleanup(cfg.Pool.Close)
	return d
}

func TestWhatIsInDoubtIsToldWhenItIsVisibleHoweverLongThatTakes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	first, second := db.Conn(t), db.Conn(t)
	xid := func(conn *pgx.Conn) uint32 {
		pgtest.Exec(t, conn, `BEGIN`)
		xid, err := parseNumber(pgtest.Scan[string](t, conn, `SELECT pg_current_xact_id()::text`))
		must(t, err)
		return xid
	}
	cfg := newConfig(t, db)
	dials := dialing(t, &cfg, db)
	dials.fail.Store(3)
	s, told := New(cfg), newSink()
	a, b := source.Event{Topology: "a", Seq: 7, XID: xid(first)}, source.Event{Topology: "b", Seq: 8, XID: xid(second)}
	for _, e := range []source.Event{a, b} {
		s.doubt.add(e)
		s.doubt.told(e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.watchDoubt(ctx, told)
	}()
	round := func() uint64 {
		s.doubt.mu.Lock()
		defer s.doubt.mu.Unlock()
		return s.doubt.round
	}
	later := func() {
		n := round() + 3
		pgtest.Eventually(t, "it to be looked at again", func() bool { return round() > n })
		if len(told.visible) > 0 || len(told.told) > 0 {
			t.Error("it was told too early")
		}
	}
	later()
	pgtest.Exec(t, first, `COMMIT`)
	if e := next(t, told.visible); e.Seq != 7 {
		t.Errorf("%+v", e)
	}
	later()
	pgtest.Exec(t, second, `ROLLBACK`) // it has ended: what is read now is final
	if e := next(t, told.visible); e.Seq != 8 {
		t.Errorf("%+v", e)
	}
	// What ran when a stream began.
	s.doubt.watch([]uint32{xid(first)})
	later()
	pgtest.Exec(t, first, `COMMIT`)
	told.awaits(t, subscribedToAll)
	cancel()
	<-done
}

func TestWhatRunsWhenAStreamBeginsIsKnown(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `BEGIN`)
	xid, err := parseNumber(pgtest.Scan[string](t, conn, `SELECT pg_current_xact_id()::text`))
	must(t, err)
	s := New(newConfig(t, db))
	v, err := s.visibleFromNow(t.Context())
	must(t, err)
	if !slices.Contains(v.Running, xid) {
		t.Errorf("%d runs, and not %+v", xid, v)
	}
	for code, want := range map[string]bool{"25006": true, "42501": false} { // read_only_sql_transaction: a standby
		db := pgtest.New(t)
		s := New(Config{Pool: faked(t, db, refuseNumbers(code))})
		if _, err := s.visibleFromNow(t.Context()); (err == nil) != want {
			t.Errorf("%s: %v", code, err)
		}
		s.cfg.Pool.Close()
		if _, err := s.visibleFromNow(t.Context()); err == nil {
			t.Error("the database cannot be asked, and that is no error")
		}
	}
}

// refuseNumbers has PostgreSQL give no transaction a number.
func refuseNumbers(code string) string {
	return `CREATE FUNCTION fake.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS
		$f$ BEGIN RAISE 'no number' USING ERRCODE = '` + code + `'; END $f$`
}
