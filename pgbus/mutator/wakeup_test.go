package mutator

import (
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestAWorkerWhoseLISTENIsCutWorksOnAtThePollsPaceAndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = 700 * time.Millisecond })
	w.ear.cut()
	w.log.says(t, "LISTEN is away; working at the poll's pace", "poll=700ms")
	for range 3 {
		awaitState(t, conn, enqueue(t, conn, id, "add_lan", `{"name":"`+pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)+`"}`), "applied")
	}
	w.ear.down.Store(false)
	pgtest.Eventually(t, "LISTEN to be back", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'UNLISTEN%'`) == 1
	})
}

func TestAWokenWorkerDoesNotWaitForThePoll(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = time.Hour })
	awaitState(t, conn, enqueue(t, conn, id, "add_lan", `{"name":"a"}`), "applied")
	// A LISTEN backend that somebody terminates comes back, and what was enqueued meanwhile is found at once.
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'UNLISTEN%'`)
	m := enqueue(t, conn, id, "add_lan", `{"name":"b"}`)
	awaitState(t, conn, m, "applied")
	w.log.says(t, "LISTEN is away")
}

func TestAWorkerWithoutADatabaseWaitsAndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	w := newWorker(t, db.URL, func(c *Config) { c.Poll = 100 * time.Millisecond })
	w.network.cut()
	w.ear.cut()
	w.run(t)
	w.log.says(t, "waiting for the database", "the network is down")
	if s := stateOf(t, conn, m); s != "pending" {
		t.Error(s)
	}
	w.network.down.Store(false)
	w.log.says(t, "can be claimed again")
	awaitState(t, conn, m, "applied")
	w.ear.down.Store(false)
	w.log.says(t, "listening for mutations")
}

// The connections of the pool are cut again and again while mutations are applied.
func TestConnectionsThatAreCutAgainAndAgainLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 4)
	const each = 25
	w := newWorker(t, db.URL, func(c *Config) { c.Poll, c.Lease, c.MaxAttempts = 100*time.Millisecond, time.Second, 1000 }).run(t)
	for range each {
		for _, id := range ids {
			enqueue(t, conn, id, "add_lan", `{"name":"`+pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)+`"}`)
		}
		w.network.cut()
		w.network.down.Store(false)
	}
	pgtest.Eventually(t, "all to be applied", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == each*len(ids)
	})
	for _, id := range ids {
		oneAtATime(t, journal(t, conn, id))
	}
	inOrder(t, conn)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM lans`); n != each*len(ids) {
		t.Errorf("%d LANs", n)
	}
}
