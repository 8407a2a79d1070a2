package mutator

import (
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

// never is a poll that helps nobody.
func never(c *Config) { c.Poll = time.Hour }

func TestATopologyThatIsHeldForAMomentIsNotForgotten(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	id := active(t, conn, 1)[0]
	startWorker(t, db, never)
	for range 3 {
		// As a request does that is refused: it ends without a word to anybody.
		pgtest.Exec(t, holder, `BEGIN`)
		pgtest.Exec(t, holder, `SELECT FROM topologies WHERE id = $1::text::uuid FOR NO KEY UPDATE`, id)
		m := enqueue(t, conn, id, "add_decky", `{"name":"d","lan":"nowhere"}`)
		<-time.After(200 * time.Millisecond) // the worker has woken, found the topology held, and sleeps again
		if s := stateOf(t, conn, m); s != "pending" {
			t.Fatalf("claimed in a topology that is held: %s", s)
		}
		pgtest.Exec(t, holder, `ROLLBACK`)
		awaitState(t, conn, m, "failed")
	}
}

func TestATopologyInTroubleDoesNotHoldTheOthersUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	w := newWorker(t, db.URL, func(c *Config) { c.Poll, c.Concurrency = time.Hour, 1 })
	enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`)
	pgtest.Exec(t, conn, `DELETE FROM topology_heads WHERE topology_id = $1::text::uuid`, ids[0])
	m := enqueue(t, conn, ids[1], "add_lan", `{"name":"a"}`)
	w.run(t)
	awaitState(t, conn, m, "applied")
	w.log.says(t, "cannot be claimed; going on with others", string(ids[0]))
}

func TestALeaseOutlivesALockThatIsHeldForLonger(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	ids := active(t, conn, 12)
	pgtest.Exec(t, holder, `BEGIN; LOCK TABLE lans`)
	startWorker(t, db, func(c *Config) { c.Lease, c.LockTimeout, c.MaxAttempts = 4*time.Second, 1200*time.Millisecond, 1 })
	for _, id := range ids {
		enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	}
	<-time.After(10 * time.Second) // some leases
	pgtest.Exec(t, holder, `ROLLBACK`)
	pgtest.Eventually(t, "all edits", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == len(ids)
	})
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE attempt <> 1`); n != 0 {
		t.Errorf("%d mutations lost their lease", n)
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

func TestAMutationFailsAlsoWhereItsTopologyCannotBeDegraded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	pgtest.Exec(t, conn, `
CREATE FUNCTION own_rule() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.status = 'degraded' THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $f$;
CREATE TRIGGER own_rule BEFORE UPDATE ON topologies FOR EACH ROW EXECUTE FUNCTION own_rule()`)
	w := startWorker(t, db, nil)
	m := enqueue(t, conn, id, "remove_lan", `{"name":"nowhere"}`)
	awaitState(t, conn, m, "failed")
	w.log.says(t, "could not be degraded", "not here")
}
