package mutator

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

func newLAN(t *testing.T, conn *pgx.Conn, id stream.TopologyID) stream.MutationID {
	t.Helper()
	return enqueue(t, conn, id, "add_lan", `{"name":"`+pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)+`"}`)
}

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
			return pgtest.Scan[bool](t, conn, `SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE database = current_database()`, at)
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
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()`)
	awaitState(t, conn, newLAN(t, conn, id), "applied")
	w.log.says(t, "the WAL's stream is lost", "the worker looks for mutations every 1h")
}

func TestAWorkerFollowsTheDatabasesBus(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = 2 * time.Second })
	slots := func() int {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`)
	}
	for range 2 {
		must(t, setting.Set(t.Context(), conn, setting.WAL))
		pgtest.Eventually(t, "the bus wal", func() bool { return slots() == 1 })
		awaitState(t, conn, newLAN(t, conn, id), "applied")
		must(t, setting.Set(t.Context(), conn, setting.Notify))
		awaitState(t, conn, newLAN(t, conn, id), "applied")
		pgtest.Eventually(t, "the slot to be gone", func() bool { return slots() == 0 })
		awaitState(t, conn, newLAN(t, conn, id), "applied")
	}
	w.log.says(t, "reading the WAL")
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
	go func() {
		_, err := writer.Exec(context.Background(), `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{"name":"late"}')`, id)
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
