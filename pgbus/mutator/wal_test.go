package mutator

import (
	"context"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// slots are the replication slots of a test's database: a worker that reads the WAL has one.
const slots = `FROM pg_replication_slots WHERE database = current_database()`

func TestAWorkerOnTheBusWALDoesNotWaitForThePoll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	must(t, setting.Set(t.Context(), conn, setting.WAL))
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = time.Hour })
	w.log.says(t, "reading the WAL")
	settled := func() { // the WAL so far has woken the worker, and it found nothing more
		at := pgtest.Scan[string](t, conn, `SELECT pg_current_wal_lsn()::text`)
		pgtest.Eventually(t, "the worker to read the WAL", func() bool {
			return pgtest.Scan[bool](t, conn, `SELECT confirmed_flush_lsn >= $1::text::pg_lsn `+slots, at)
		})
		pgtest.Eventually(t, "an idle worker", func() bool { return w.idle.Load() == 4 })
	}
	for range 5 {
		awaitState(t, conn, newLAN(t, conn, id), "applied")
	}
	// A topology that becomes active.
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'tearing_down' `)
	m := newLAN(t, conn, id)
	settled()
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'degraded'`)
	awaitState(t, conn, m, "applied")
	// One that somebody works on by hand, and the next one behind it.
	pgtest.Exec(t, conn, `BEGIN`)
	byHand, next := newLAN(t, conn, id), newLAN(t, conn, id)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, byHand)
	pgtest.Exec(t, conn, `COMMIT`)
	settled()
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE id = $1::text::uuid`, byHand)
	awaitState(t, conn, next, "applied")
	// One that somebody gives back.
	pgtest.Exec(t, conn, `BEGIN`)
	m = newLAN(t, conn, id)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, m)
	pgtest.Exec(t, conn, `COMMIT`)
	settled()
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'pending' WHERE id = $1::text::uuid`, m)
	awaitState(t, conn, m, "applied")
	// The stream comes back, and what was enqueued meanwhile is found at once.
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(active_pid) `+slots)
	awaitState(t, conn, newLAN(t, conn, id), "applied")
	w.log.says(t, "the WAL's stream is lost", "the worker looks for mutations every 1h")
}

func TestAWorkerFollowsTheDatabasesBus(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("pgbus has a shorter one: left out with -short")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = 2 * time.Second })
	readers := func() int { return pgtest.Scan[int](t, conn, `SELECT count(*) `+slots) }
	for range 2 {
		must(t, setting.Set(t.Context(), conn, setting.WAL))
		pgtest.Eventually(t, "the bus wal", func() bool { return readers() == 1 })
		awaitState(t, conn, newLAN(t, conn, id), "applied")
		must(t, setting.Set(t.Context(), conn, setting.Notify))
		awaitState(t, conn, newLAN(t, conn, id), "applied")
		pgtest.Eventually(t, "the slot to be gone", func() bool { return readers() == 0 })
		awaitState(t, conn, newLAN(t, conn, id), "applied")
	}
	w.log.says(t, "reading the WAL")
}

// A trigger reads the setting, and so whether to NOTIFY, in its transaction's snapshot. Here the snapshot is from
// before the change of the bus, and the transaction gets its id only after that.
func TestWhatAnOldSnapshotEnqueuesAfterTheBusHasChangedIsStillReadFromTheWAL(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the WAL source has a shorter one: left out with -short")
	}
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	must(t, setting.Set(t.Context(), conn, setting.WAL))
	ids := active(t, conn, 2)
	w := startWorker(t, db, never)
	w.log.says(t, "reading the WAL")
	pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	pgtest.Scan[int](t, old, `SELECT count(*) FROM mutations`)
	must(t, setting.Set(t.Context(), conn, setting.Notify))
	w.log.says(t, "the database's bus", "bus=notify")
	awaitState(t, conn, newLAN(t, conn, ids[0]), "applied")
	m := newLAN(t, old, ids[1])
	pgtest.Exec(t, old, `COMMIT`)
	awaitState(t, conn, m, "applied")
	pgtest.Eventually(t, "the slot to be gone", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) `+slots) == 0
	})
	awaitState(t, conn, newLAN(t, conn, ids[0]), "applied")
}

// A role with the documented grants, and no right to replicate.
func TestAWorkerThatMayNotReadTheWALGoesByThePollAndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	must(t, setting.Set(t.Context(), conn, setting.WAL))
	id := active(t, conn, 1)[0]
	w := newWorker(t, asWorker(t, db), func(c *Config) { c.Poll = 300 * time.Millisecond }).run(t)
	w.log.says(t, "the WAL cannot be read", "topostream bus status", "the worker looks for mutations every 300ms")
	awaitState(t, conn, newLAN(t, conn, id), "applied")
}

// The commit waits for a synchronous standby that is not there: the WAL tells of the mutation, and no claim sees it.
func TestAMutationThatTheWALToldBeforeItCouldBeSeenIsClaimedOnceItCan(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a cluster of its own")
	}
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	must(t, setting.Set(t.Context(), conn, setting.WAL))
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = time.Hour })
	w.log.says(t, "reading the WAL")
	awaitState(t, conn, newLAN(t, conn, id), "applied")
	reload := func(names string) {
		pgtest.Exec(t, conn, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		pgtest.Exec(t, conn, `SELECT pg_reload_conf()`)
		pgtest.Eventually(t, "the setting", func() bool {
			return pgtest.Scan[string](t, conn, `SELECT current_setting('synchronous_standby_names')`) == names
		})
	}
	reload("nobody")
	writer, enqueued := db.Conn(t), make(chan error, 1)
	const insert = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{"name":"late"}')`
	go func() {
		_, err := writer.Exec(context.Background(), insert, id)
		enqueued <- err
	}()
	pgtest.Eventually(t, "the commit to wait", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`) == 1
	})
	at := pgtest.Scan[string](t, conn, `SELECT pg_current_wal_lsn()::text`)
	pgtest.Eventually(t, "the worker to read the WAL", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots`, at)
	})
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 1 {
		t.Fatalf("%d mutations can be seen: the test sees nothing", n)
	}
	reload("")
	must(t, <-enqueued)
	pgtest.Eventually(t, "the mutation to be applied", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == 2
	})
}
