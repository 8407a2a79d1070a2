package mutator

import (
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
)

const listeners = `FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`

func TestAWorkerWhoseLISTENIsCutWorksOnAtThePollsPaceAndSaysSo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, func(c *Config) { c.Poll = 700 * time.Millisecond })
	w.listens.cut()
	w.log.says(t, "the LISTEN connection is lost", "the worker looks for mutations every 700ms")
	for range 3 {
		awaitState(t, conn, newLAN(t, conn, id), "applied")
	}
	w.listens.down.Store(false)
	pgtest.Eventually(t, "LISTEN to be back", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) `+listeners, postgres.WorkerListens) == 1
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
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) `+listeners, postgres.WorkerListens)
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

// A loop that is woken knows nothing of the database yet: what it last heard of it was before it slept.
func TestAnOutageIsNotOverWhenASleepingLoopIsWoken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var w *testWorker
	var early atomic.Int64 // how often it was said to be over while the database was away
	w = newWorker(t, db.URL, func(c *Config) {
		c.Poll = time.Hour
		c.Notice = func(outage string, _ bool) {
			if outage == "" && w.network.down.Load() {
				early.Add(1)
			}
		}
	})
	w.run(t)
	w.log.says(t, "msg=listening")
	pgtest.Eventually(t, "all loops to sleep", func() bool { return w.idle.Load() == int64(w.cfg.Concurrency) })
	w.network.cut()
	for n := w.idle.Load(); n > 0; n = w.idle.Load() { // whoever wakes sleeps no more
		w.wake.Set()
		pgtest.Eventually(t, "a loop to wake", func() bool { return w.idle.Load() < n })
	}
	w.log.says(t, "waiting for the database")
	w.network.down.Store(false)
	w.log.says(t, "can be claimed again")
	if n := early.Load(); n > 0 {
		t.Errorf("%d times it is said to be over while the database is away", n)
	}
}

func TestADatabaseThatGoesAwayBetweenConnectingAndReadingIsWaitedFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	m := newLAN(t, conn, id)
	w := newWorker(t, db.URL, never)
	w.network.silent.Store(true)
	w.listens.silent.Store(true)
	w.run(t)
	w.log.says(t, "waiting for the database")
	w.log.says(t, "the LISTEN connection is lost", "ask whether this is a primary")
	w.network.silent.Store(false)
	awaitState(t, conn, m, "applied")
	w.listens.silent.Store(false)
	w.log.says(t, "msg=listening")
	awaitState(t, conn, newLAN(t, conn, id), "applied")
}

// As through a pooler that is led from an old primary, which lives on, to a promoted standby.
func TestAWorkerWhosePoolIsLedToAnotherServerListensThere(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	old := pgtest.Cluster(t)
	db := pgtest.NewOn(t, old.URL("postgres"))
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	standby := pgtest.Standby(t, old)
	conn = db.Conn(t) // copying a cluster may restart it
	w := startWorker(t, db, func(c *Config) { c.Poll = 2 * time.Second })
	awaitState(t, conn, newLAN(t, conn, id), "applied")
	must(t, standby.Promote(t.Context()))

	to, err := url.Parse(standby.URL(conn.Config().Database))
	must(t, err)
	w.network.leadsTo.Store(&to.Host)
	w.listens.leadsTo.Store(&to.Host)
	w.cfg.Pool.Reset() // and nothing ends the LISTEN connection
	w.log.says(t, "leads to another server than before")
	w.log.says(t, "the LISTEN connection is lost")
	promoted := (&pgtest.DB{URL: to.String()}).Conn(t)
	pgtest.Eventually(t, "the worker to LISTEN there", func() bool {
		return pgtest.Scan[int](t, promoted, `SELECT count(*) `+listeners, postgres.WorkerListens) == 1
	})
	awaitState(t, promoted, newLAN(t, promoted, id), "applied")
}

// The connections of the pool are cut again and again while mutations are applied.
func TestConnectionsThatAreCutAgainAndAgainLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 4)
	each := shorter(25, 5)
	w := newWorker(t, db.URL, func(c *Config) {
		c.Poll, c.Lease, c.MaxAttempts = 100*time.Millisecond, time.Second, 1000
	}).run(t)
	for range each {
		for _, id := range ids {
			newLAN(t, conn, id)
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

func TestTheNextMutationDoesNotWaitForThePollWhenAPersonHasFinishedOne(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	byHand := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, byHand)
	behind := enqueue(t, conn, id, "add_lan", `{"name":"b"}`)
	startWorker(t, db, never)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE id = $1::text::uuid`, byHand)
	awaitState(t, conn, behind, "applied")
}
