package wal

import (
	"math"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
)

// drained is a stream that is not wanted any more, at the moment when the triggers' new setting is visible.
func drained(t *testing.T, pool *pgxpool.Pool, conn *pgx.Conn) *draining {
	t.Helper()
	pgtest.Exec(t, conn, `UPDATE topology_settings SET bus = 'notify'`)
	return &draining{source: New(Config{Pool: pool, Wanted: func() bool { return false }})}
}

// number gives a transaction a number, as others do all the time.
const number = `SELECT pg_current_xact_id()`

// stays fails if the stream ends, however often it is asked, and whoever begins and ends meanwhile.
func (d *draining) stays(t *testing.T, conn *pgx.Conn, what string) {
	t.Helper()
	for range 6 {
		if d.done(t.Context()) {
			t.Fatalf("the stream ended before %s", what)
		}
		pgtest.Exec(t, conn, number)
	}
}

// ends waits until the stream ends. (Other databases of the cluster have transactions, too.)
func (d *draining) ends(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	pgtest.Eventually(t, "the stream to end", func() bool {
		pgtest.Exec(t, conn, number)
		return d.done(t.Context())
	})
}

func TestAStreamIsReadUntilTheLastOldSnapshotHasEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, `UPDATE topology_settings SET bus = 'wal'`)
	pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	pgtest.Exec(t, old, `SELECT FROM topology_settings`) // it sees the old setting, whatever it does later
	d := drained(t, db.Pool(t), conn)
	d.stays(t, conn, "a snapshot of the old setting had ended")
	pgtest.Exec(t, old, number) // a young one
	d.stays(t, conn, "a young transaction with an old snapshot had ended")
	pgtest.Exec(t, old, `COMMIT`)
	d.ends(t, conn)
}

func TestAStreamIsReadUntilEachTransactionThatHadANumberHasEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, old, `BEGIN`)
	pgtest.Exec(t, old, number) // it may have written by triggers that read the old setting
	d := drained(t, db.Pool(t), conn)
	d.stays(t, conn, "a transaction of before had ended")
	pgtest.Exec(t, old, `COMMIT`)
	d.ends(t, conn)
}

func TestAStreamIsReadUntilAPreparedTransactionHasEnded(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	t.Parallel()
	cluster := pgtest.Cluster(t, "max_prepared_transactions=5")
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, old, `BEGIN`)
	pgtest.Exec(t, old, number)
	pgtest.Exec(t, old, `PREPARE TRANSACTION 'held'`)
	d := drained(t, db.Pool(t), conn)
	d.stays(t, conn, "a prepared transaction had ended")
	pgtest.Exec(t, old, `COMMIT PREPARED 'held'`)
	d.ends(t, conn)
}

func TestWhatIsWantedAgainIsDrainedFromTheBeginning(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	wanted := false
	d := &draining{source: New(Config{Pool: db.Pool(t), Wanted: func() bool { return wanted }})}
	if d.done(t.Context()); d.horizon == nil {
		t.Fatal("the draining did not begin")
	}
	wanted = true
	if d.done(t.Context()) || d.horizon != nil || d.last != nil {
		t.Error("what is wanted is drained")
	}
	wanted = false
	d.ends(t, conn)
	wanted = true
	if d.done(t.Context()) || d.last != nil {
		t.Error("what is wanted is drained")
	}
}

func TestADatabaseThatCannotBeAskedEndsNoStream(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, pool := db.Conn(t), db.Pool(t)
	d := drained(t, pool, conn)
	for range 10 {
		d.done(t.Context())
		if d.last != nil {
			break
		}
	}
	pool.Close()
	if d.done(t.Context()) {
		t.Error("the stream ended")
	}
}

func TestTransactionsNumbersAreComparedModuloTheirSize(t *testing.T) {
	t.Parallel()
	const largest = math.MaxUint32
	for _, c := range []struct {
		a, b uint32
		want bool
	}{
		{3, 4, true},
		{4, 4, false},
		{5, 4, false},
		{largest, 3, true}, // 3 is the first number after the wrap
		{3, largest, false},
		{0, 1<<31 - 1, true},
		{0, 1 << 31, true}, // as far behind as ahead: as in PostgreSQL
		{0, 1<<31 + 1, false},
		{1 << 31, 1, false},
	} {
		if got := precedes(c.a, c.b); got != c.want {
			t.Errorf("%d precedes %d: %v", c.a, c.b, got)
		}
	}
}

func TestWhatAStandbyHasReplayedHasEnded(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"25006": true, "42501": false} { // read_only_sql_transaction
		pool := faked(t, pgtest.New(t), refuseNumbers(code))
		d := &draining{source: New(Config{Pool: pool, Wanted: func() bool { return false }})}
		if got := d.done(t.Context()); got != want || d.last != nil {
			t.Errorf("%s: ended: %v", code, got)
		}
	}
}

func TestWhatSnapshotsAreInUseMustBeKnownBeforeAStreamEnds(t *testing.T) {
	t.Parallel()
	for name, column := range map[string]string{"no number": `'x'`, "no text": `1 / 0`} {
		pool := faked(t, pgtest.New(t), `
CREATE VIEW fake.pg_stat_activity AS
SELECT datname, pid + 5000000 AS pid, `+column+` AS backend_xmin
  FROM pg_catalog.pg_stat_activity WHERE datname = current_database()`)
		d := &draining{source: New(Config{Pool: pool, Wanted: func() bool { return false }})}
		if d.done(t.Context()) || d.horizon == nil || d.last != nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
