package mutator

import (
	"fmt"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestATopologyThatIsHeldForAMomentIsNotForgotten(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	id := active(t, conn, 1)[0]
	w := startWorker(t, db, never)
	for range 3 {
		// As a request does that is refused: it ends without a word to anybody.
		pgtest.Exec(t, holder, `BEGIN`)
		pgtest.Exec(t, holder, `SELECT FROM topologies WHERE id = $1::text::uuid FOR NO KEY UPDATE`, id)
		m := enqueue(t, conn, id, "add_decky", `{"name":"d","lan":"nowhere"}`)
		queries := w.cfg.Pool.Stat().AcquireCount()
		pgtest.Eventually(t, "the worker to find the topology held, again and again", func() bool {
			return w.cfg.Pool.Stat().AcquireCount() > queries+10
		})
		if s := stateOf(t, conn, m); s != "pending" {
			t.Fatalf("claimed in a topology that is held: %s", s)
		}
		pgtest.Exec(t, holder, `ROLLBACK`)
		awaitState(t, conn, m, "failed")
	}
}

func TestATableThatSomebodyLocksIsAnOutageThatNamesTheHolder(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	db := pgtest.New(t)
	conn, operator := db.Conn(t), db.Conn(t)
	id := active(t, conn, 1)[0]
	m := newLAN(t, conn, id)
	pgtest.Exec(t, operator, `BEGIN; LOCK TABLE topologies`)
	w := startWorker(t, db, func(c *Config) { c.LockTimeout, c.Poll = 300*time.Millisecond, time.Hour })
	w.log.says(t, "waiting for the database", fmt.Sprintf("held by pid %d)", operator.PgConn().PID()))
	pgtest.Exec(t, operator, `ROLLBACK`)
	awaitState(t, conn, m, "applied")
	w.log.says(t, "can be claimed again")
}

func TestATopologyInTroubleDoesNotHoldTheOthersUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	w := newWorker(t, db.URL, func(c *Config) { c.Poll, c.Concurrency = time.Hour, 1 })
	enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`)
	pgtest.Exec(t, conn, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'not this one'; END $$`)
	pgtest.Exec(t, conn, fmt.Sprintf(`CREATE TRIGGER refuse BEFORE UPDATE ON mutations FOR EACH ROW
		WHEN (NEW.topology_id = '%s') EXECUTE FUNCTION refuse()`, ids[0]))
	m := enqueue(t, conn, ids[1], "add_lan", `{"name":"a"}`)
	w.run(t)
	awaitState(t, conn, m, "applied")
	w.log.says(t, "cannot be claimed; going on with others", string(ids[0]))
}

func TestALockThatSomebodyHoldsCostsTheOtherTopologiesNothingAndTheLogNamesWho(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]string{
		"the head, before the claim":     `SELECT topology_emit($1::text::uuid, 'by.hand', '{}')`,
		"the topology, before the claim": `SELECT FROM topologies WHERE id = $1::text::uuid FOR UPDATE`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn, operator := db.Conn(t), db.Conn(t)
			ids := active(t, conn, 2)
			held := enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`)
			pgtest.Exec(t, operator, `BEGIN`)
			pgtest.Exec(t, operator, hold, ids[0])
			w := startWorker(t, db, impatient)
			w.log.says(t, "going on with others", fmt.Sprintf(`blocked_by="[pid %d]"`, operator.PgConn().PID()), string(ids[0]))
			for range 5 {
				awaitState(t, conn, newLAN(t, conn, ids[1]), "applied")
			}
			if s := stateOf(t, conn, held); s != "pending" {
				t.Error(s)
			}
			pgtest.Exec(t, operator, `COMMIT`)
			awaitState(t, conn, held, "applied")
		})
	}
}

func TestALockOnWhatAnEditNeedsCostsTheOtherTopologiesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, operator := db.Conn(t), db.Conn(t)
	ids := active(t, conn, 2)
	startWorker(t, db, impatient)
	awaitState(t, conn, enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`), "applied")
	pgtest.Exec(t, operator, `BEGIN; SELECT FROM lans FOR UPDATE`)
	held := enqueue(t, conn, ids[0], "update_lan", `{"name":"a","x":1}`)
	awaitState(t, conn, held, "applying")
	for range 5 {
		awaitState(t, conn, newLAN(t, conn, ids[1]), "applied")
	}
	pgtest.Exec(t, operator, `COMMIT`)
	awaitState(t, conn, held, "applied")
	oneAtATime(t, journal(t, conn, ids[0]))
}

// impatient is a worker of one loop that waits for no lock for long.
func impatient(c *Config) {
	c.Concurrency, c.LockTimeout, c.Poll = 1, 500*time.Millisecond, 200*time.Millisecond
}
