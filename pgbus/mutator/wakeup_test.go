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
	w.listens.cut()
	w.log.says(t, "the LISTEN connection is lost", "the worker looks for mutations every 700ms")
	for range 3 {
		awaitState(t, conn, enqueue(t, conn, id, "add_lan", `{"name":"`+pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)+`"}`), "applied")
	}
	w.listens.down.Store(false)
	pgtest.Eventually(t, "LISTEN to be back", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`, listenName) == 1
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
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`, listenName)
	m := enqueue(t, conn, id, "add_lan", `{"name":"b"}`)
	awaitState(t, conn, m, "applied")
	w.log.says(t, "the LISTEN connection is lost")
}

func TestAWorkerWithoutADatabaseWaitsAndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	w := newWorker(t, db.URL, func(c *Config) { c.Poll = 100 * time.Millisecond })
	w.network.cut()
	w.listens.cut()
	w.run(t)
	w.log.says(t, "waiting for the database", "the network is down")
	if s := stateOf(t, conn, m); s != "pending" {
		t.Error(s)
	}
	w.network.down.Store(false)
	w.log.says(t, "can be claimed again")
	awaitState(t, conn, m, "applied")
	w.listens.down.Store(false)
	w.log.says(t, "msg=listening")
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
