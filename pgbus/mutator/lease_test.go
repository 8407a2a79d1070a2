package mutator

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// runOut makes a mutation's lease run out, as if its worker had been silent for too long.
func runOut(t *testing.T, conn *pgx.Conn, m stream.MutationID) {
	t.Helper()
	const update = `
UPDATE mutations SET leased_until = clock_timestamp() - interval '1 second'
 WHERE id = $1::text::uuid AND state = 'applying'`
	pgtest.Exec(t, conn, update, m)
}

func TestALeaseThatRunsOutGivesTheMutationToAnotherWorkerAndTheFirstChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	asleep := newApplier()
	asleep.stubborn = true
	first := startWorker(t, db, func(c *Config) { c.Applier, c.Concurrency = asleep, 1 })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	want := stream.Mutation{ID: m, Topology: id, Op: "add_lan", Payload: []byte(`{"name": "a"}`), Attempt: 1}
	if got := receive(t, asleep.called, "the first worker to act"); !reflect.DeepEqual(got, want) {
		t.Errorf("the applier got %+v", got)
	}
	runOut(t, conn, m)
	startWorker(t, db, func(c *Config) { c.Poll = 100 * time.Millisecond })
	awaitState(t, conn, m, "applied")
	before := len(journal(t, conn, id))
	asleep.answer <- nil
	first.log.says(t, "too late", string(m))
	events := journal(t, conn, id)
	if got, want := story(events, m), "enqueued applying requeued applying applied"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(events) != before {
		t.Errorf("%d events, then %d", before, len(events))
	}
	oneAtATime(t, events)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM lans`); n != 1 {
		t.Errorf("%d LANs", n)
	}
}

// Nobody makes the lease run out here: its time does.
func TestTheLeaseOfAWorkerThatIsCutOffRunsOutAndAnotherOneAppliesTheMutation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a, stats := newApplier(), metrictest.WorkStats()
	away := startWorker(t, db, func(c *Config) { c.Applier, c.Lease, c.Stats = a, 600*time.Millisecond, stats })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	away.network.cut()
	away.listens.cut()
	startWorker(t, db, func(c *Config) { c.Poll, c.Stats = 50*time.Millisecond, stats })
	awaitState(t, conn, m, "applied")
	away.log.says(t, "too late", string(m))
	events := journal(t, conn, id)
	if got, want := story(events, m), "enqueued applying requeued applying applied"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	oneAtATime(t, events)
	if n := metrictest.Value(stats.LeaseExpiries); n != 1 {
		t.Errorf("%d leases are counted", n)
	}
}

func TestAWorkerThatWakesLateChangesNothingWhileAnotherOneAppliesTheMutation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	asleep, awake := newApplier(), newApplier()
	asleep.stubborn = true
	first := startWorker(t, db, func(c *Config) { c.Applier, c.Concurrency = asleep, 1 })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, asleep.called, "the first worker to act")
	runOut(t, conn, m)
	startWorker(t, db, func(c *Config) { c.Applier, c.Poll = awake, 100*time.Millisecond })
	if got := receive(t, awake.called, "the second worker to act"); got.Attempt != 2 {
		t.Errorf("%+v", got)
	}
	asleep.answer <- errors.New("the machine burns")
	first.log.says(t, "too late", string(m))
	if s := stateOf(t, conn, m); s != "applying" {
		t.Errorf("the late one made it %s", s)
	}
	awake.answer <- nil
	awaitState(t, conn, m, "applied")
	if s := pgtest.Scan[string](t, conn, `SELECT status FROM topologies`); s != "active" {
		t.Errorf("the late one degraded the topology: %s", s)
	}
}

func TestAMutationFailsWhenItsLeaseHasRunOutTooOften(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a, stats := newApplier(), metrictest.WorkStats()
	startWorker(t, db, func(c *Config) {
		c.Applier, c.Poll, c.MaxAttempts, c.Stats = a, 100*time.Millisecond, 2, stats
		c.Grace = 100 * time.Millisecond // the applier of the first attempt is not answered
	})
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	for attempt := 1; attempt <= 2; attempt++ {
		if got := receive(t, a.called, "an attempt"); got.Attempt != attempt {
			t.Errorf("attempt %d, want %d", got.Attempt, attempt)
		}
		runOut(t, conn, m)
	}
	const want = "no worker finished it: its lease ran out in each of 2 attempts"
	if got := awaitState(t, conn, m, "failed"); got != want {
		t.Error(got)
	}
	if got := pgtest.Scan[string](t, conn, `SELECT status || ': ' || reason FROM topologies`); got != "degraded: "+want {
		t.Error(got)
	}
	events := journal(t, conn, id)
	if got, want := story(events, m), "enqueued applying requeued applying failed"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	pgtest.Eventually(t, "two leases that ran out, of a mutation that failed once", func() bool {
		return metrictest.Value(stats.LeaseExpiries) == 2 &&
			metrictest.Value(stats.Finished[stream.OpLabel("add_lan")][stream.JobFailed]) == 1
	})
	oneAtATime(t, events)
}

func TestTheHeartbeatKeepsALeaseForAsLongAsTheApplierTakes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a := newApplier()
	startWorker(t, db, func(c *Config) { c.Applier, c.Lease, c.Poll = a, 900*time.Millisecond, 50*time.Millisecond })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	first := pgtest.Scan[time.Time](t, conn, `SELECT leased_until FROM mutations`)
	pgtest.Eventually(t, "the lease to be extended thrice over", func() bool {
		return pgtest.Scan[time.Time](t, conn, `SELECT leased_until FROM mutations`).Sub(first) > 3*900*time.Millisecond
	})
	a.answer <- nil
	awaitState(t, conn, m, "applied")
	if got, want := story(journal(t, conn, id), m), "enqueued applying applied"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestALostLeaseCancelsTheApplier(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a := newApplier()
	w := startWorker(t, db, func(c *Config) { c.Applier, c.Lease, c.Poll = a, 600*time.Millisecond, time.Hour })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	// As if another one had it.
	pgtest.Exec(t, conn, `UPDATE mutations SET lease = gen_random_uuid(), leased_until = leased_until + interval '1 hour'`)
	w.log.says(t, "too late", string(m))
	if s := stateOf(t, conn, m); s != "applying" {
		t.Error(s)
	}
}

func TestAWorkerThatStopsFinishesWhatItCanAndGivesTheRestBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	a := newApplier()
	w := newWorker(t, db.URL, func(c *Config) { c.Applier, c.Grace = a, 1500*time.Millisecond })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	quick, slow := newLAN(t, conn, ids[0]), newLAN(t, conn, ids[1])
	behind := enqueue(t, conn, ids[0], "add_lan", `{"name":"b"}`)
	receive(t, a.called, "the first")
	receive(t, a.called, "the second")
	stop()
	a.answer <- nil // to one of them
	must(t, receive(t, done, "the worker to stop"))
	states := map[string]int{}
	states[story(journal(t, conn, ids[0]), quick)]++
	states[story(journal(t, conn, ids[1]), slow)]++
	if states["enqueued applying applied"] != 1 || states["enqueued applying requeued"] != 1 {
		t.Errorf("%v", states)
	}
	if s := stateOf(t, conn, behind); s != "pending" {
		t.Errorf("a worker that stops claimed another one: %s", s)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT sum(attempt) FROM mutations`); n != 1 { // giving back is no attempt
		t.Errorf("%d attempts", n)
	}
	startWorker(t, db, nil)
	awaitState(t, conn, quick, "applied")
	awaitState(t, conn, slow, "applied")
}

func TestAnEditUnderWayIsFinishedWhenItsTopologyIsTornDownMeanwhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	a := newApplier()
	w := startWorker(t, db, func(c *Config) { c.Applier = a })
	m, behind := newLAN(t, conn, ids[0]), newLAN(t, conn, ids[0])
	receive(t, a.called, "the applier")
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'tearing_down' WHERE id = $1::text::uuid`, ids[0])
	a.answer <- nil
	awaitState(t, conn, m, "applied")

	other := enqueue(t, conn, ids[1], "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	if s := stateOf(t, conn, behind); s != "pending" {
		t.Error(s)
	}
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, ids[1])
	a.answer <- errors.New("the machine burns")
	w.log.says(t, "too late", string(other))
}

func TestAFailureOfATornDownTopologyDoesNotDegradeIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a := newApplier()
	startWorker(t, db, func(c *Config) { c.Applier = a })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'tearing_down'`)
	a.answer <- errors.New("the machine burns")
	if got := awaitState(t, conn, m, "failed"); !strings.Contains(got, "burns") {
		t.Error(got)
	}
	if s := pgtest.Scan[string](t, conn, `SELECT status FROM topologies`); s != "tearing_down" {
		t.Error(s)
	}
}

func TestALeaseOutlivesALockThatIsHeldForLonger(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	ids := active(t, conn, 24) // more than the worker has places and connections for
	pgtest.Exec(t, holder, `BEGIN; LOCK TABLE lans`)
	const lease = 6 * time.Second
	startWorker(t, db, func(c *Config) { c.Lease, c.LockTimeout, c.MaxAttempts = lease, 1200*time.Millisecond, 1 })
	for _, id := range ids {
		newLAN(t, conn, id)
	}
	start := pgtest.Scan[time.Time](t, conn, `SELECT clock_timestamp()`)
	most := 0 // connections that wait at once: the others are for the heartbeats
	pgtest.Eventually(t, "each lease to last for longer than two", func() bool {
		most = max(most, pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_locks WHERE NOT granted
			AND relation = 'lans'::regclass`))
		const query = `SELECT coalesce(min(leased_until), 'epoch') FROM mutations`
		return pgtest.Scan[time.Time](t, conn, query).Sub(start) > 3*lease
	})
	if all := int(Connections(4)); most > all-2 {
		t.Errorf("%d of %d connections wait for the table at once", most, all)
	}
	pgtest.Exec(t, holder, `ROLLBACK`)
	pgtest.Eventually(t, "all edits", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == len(ids)
	})
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE attempt <> 1`); n != 0 {
		t.Errorf("%d mutations lost their lease", n)
	}
}
