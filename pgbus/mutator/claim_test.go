package mutator

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// inOneStatement is the claim as one would write it first. A worker that gets the lock after another one has claimed
// and released it still has its snapshot from before that: it skips the mutation that the other took, and takes the
// next one of the same topology.
const inOneStatement = `
UPDATE mutations SET state = 'applying' WHERE id = (
    SELECT m.id FROM mutations m JOIN topologies t ON t.id = m.topology_id
     WHERE m.state = 'pending' AND t.status IN ('active', 'degraded')
       AND NOT EXISTS (SELECT FROM mutations a WHERE a.topology_id = m.topology_id AND a.state = 'applying')
     ORDER BY m.position LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)`

// makeGate makes each statement that reads topologies wait, after it has taken its snapshot and before it locks a row,
// for an advisory lock named for its application_name.
const makeGate = `
CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext(current_setting('application_name'))); RETURN true; END $f$;
ALTER TABLE topologies ENABLE ROW LEVEL SECURITY;
CREATE POLICY gate ON topologies USING (gate())`

// atGate waits until somebody is at a closed gate, who will tell done.
func atGate(t *testing.T, conn *pgx.Conn, done <-chan error) {
	t.Helper()
	const waiting = `
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	pgtest.Eventually(t, "the late one to be at its gate", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the late one is through: %v", err)
		default:
		}
		return pgtest.Scan[int](t, conn, waiting) == 1
	})
}

func TestAClaimSeesAParkThatCameAfterItsSnapshot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, gate := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, makeGate)
	late := newWorker(t, pgtest.With(t, asWorker(t, db), "application_name", "late"), nil)
	id := active(t, conn, 1)[0]
	first := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	second := enqueue(t, conn, id, "add_lan", `{"name":"b"}`)
	pgtest.Exec(t, gate, `SELECT pg_advisory_lock(hashtext('late'))`)
	done := make(chan error, 1)
	go func() {
		j, _, err := late.claim(context.Background())
		if j != nil {
			j.end()
		}
		done <- err
	}()
	atGate(t, conn, done)
	for _, state := range []string{"applying", "failed"} { // another worker is faster, and fails
		pgtest.Exec(t, conn, `UPDATE mutations SET state = $2 WHERE id = $1::text::uuid`, first, state)
	}
	pgtest.Exec(t, conn, `INSERT INTO topology_parked VALUES ($1::text::uuid, now() + interval '1 hour')`, id)
	pgtest.Exec(t, gate, `SELECT pg_advisory_unlock_all()`)
	must(t, <-done)
	if s := stateOf(t, conn, second); s != "pending" {
		t.Errorf("the queue of a parked topology goes on: %s", s)
	}
}

func TestAClaimInOneStatementRunsTwoMutationsOfOneTopologyAtOnce(t *testing.T) {
	t.Parallel()
	trials := shorter(10, 2)
	for name, c := range map[string]struct {
		claim func(*testWorker) error
		want  int
	}{
		"in one statement": {func(w *testWorker) error {
			_, err := w.cfg.Pool.Exec(context.Background(), inOneStatement)
			return err
		}, 2},
		"ours, in two": {func(w *testWorker) error {
			j, _, err := w.claim(context.Background())
			if j != nil {
				j.end()
			}
			return err
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn, gate := db.Conn(t), db.Conn(t)
			pgtest.Exec(t, conn, makeGate)
			url := asWorker(t, db)
			first := newWorker(t, pgtest.With(t, url, "application_name", "first"), nil)
			late := newWorker(t, pgtest.With(t, url, "application_name", "late"), nil)
			for range trials {
				id := active(t, conn, 1)[0]
				for i := range 3 {
					enqueue(t, conn, id, "add_lan", fmt.Sprintf(`{"name":"l%d"}`, i))
				}
				pgtest.Exec(t, gate, `SELECT pg_advisory_lock(hashtext('late'))`)
				done := make(chan error, 1)
				go func() { done <- c.claim(late) }()
				atGate(t, conn, done)
				must(t, c.claim(first))
				pgtest.Exec(t, gate, `SELECT pg_advisory_unlock_all()`)
				must(t, <-done)
				if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applying'`); n != c.want {
					t.Errorf("%d mutations of one topology at once, want %d", n, c.want)
				}
				pgtest.Exec(t, conn, `DELETE FROM topologies`)
			}
		})
	}
}

func TestSixWorkersOnOneTopologyApplyOneAtATimeInOrder(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	for range 6 {
		startWorker(t, db, func(c *Config) { c.Concurrency = 2 })
	}
	n := shorter(200, 40)
	for i := range n {
		enqueue(t, conn, id, "add_lan", fmt.Sprintf(`{"name":"l%d"}`, i))
	}
	pgtest.Eventually(t, "all to be applied", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == n
	})
	events := journal(t, conn, id)
	oneAtATime(t, events)
	inOrder(t, conn)
	if v := pgtest.Scan[int](t, conn, `SELECT version FROM topologies`); v != n {
		t.Errorf("version %d", v)
	}
}

// inOrder fails unless each topology's mutations ended in the order of their positions.
func inOrder(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	const query = `
SELECT count(*) FROM (
    SELECT e.seq, lag(m.position) OVER (PARTITION BY m.topology_id ORDER BY e.seq) AS before, m.position
      FROM topology_events e JOIN mutations m ON m.id = (e.payload ->> 'mutation_id')::uuid
     WHERE e.type IN ('mutation.applied', 'mutation.failed')) o
 WHERE before > position`
	if n := pgtest.Scan[int](t, conn, query); n != 0 {
		t.Errorf("%d mutations ended before older ones", n)
	}
}

func TestWhatAPersonAppliesByHandIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	byHand := enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`)
	behind := enqueue(t, conn, ids[0], "add_lan", `{"name":"b"}`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, byHand)
	startWorker(t, db, nil)
	awaitState(t, conn, enqueue(t, conn, ids[1], "add_lan", `{"name":"c"}`), "applied")
	if a, b := stateOf(t, conn, byHand), stateOf(t, conn, behind); a != "applying" || b != "pending" {
		t.Errorf("%s, %s", a, b)
	}
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE id = $1::text::uuid`, byHand)
	enqueue(t, conn, ids[0], "add_lan", `{"name":"d"}`) // its wake-up
	awaitState(t, conn, behind, "applied")
}

// PostgreSQL before 17 does not subtract infinity.
func TestAMutationThatWasRequestedAtNoTimeIsAppliedAndTheOnesBehindIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	const insert = `
INSERT INTO mutations (topology_id, op, payload, requested_at)
SELECT $1::text::uuid, 'add_lan', jsonb_build_object('name', at), at::timestamptz
  FROM unnest('{infinity,-infinity}'::text[]) at`
	pgtest.Exec(t, conn, insert, id)
	startWorker(t, db, nil)
	awaitState(t, conn, enqueue(t, conn, id, "add_lan", `{"name":"behind"}`), "applied")
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`); n != 3 {
		t.Errorf("%d are applied", n)
	}
}

func TestAMutationWaitsUntilItsTopologyIsLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	live := active(t, conn, 1)[0]
	startWorker(t, db, nil)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('pending')`)
	id := pgtest.Scan[stream.TopologyID](t, conn, `SELECT id::text FROM topologies WHERE name = 'pending'`)
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying' WHERE name = 'pending'`)
	awaitState(t, conn, enqueue(t, conn, live, "add_lan", `{"name":"a"}`), "applied")
	if s := stateOf(t, conn, m); s != "pending" {
		t.Error(s)
	}
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active' WHERE name = 'pending'`)
	awaitState(t, conn, m, "applied")
}

func TestAWorkerThatIsStoppedBeforeItBeganReturns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	w := newWorker(t, db.URL, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	must(t, w.Run(ctx))
}

// A stopped process cannot be had within a test of one; PostgreSQL's answer to it can.
func TestAWorkerThatStoodStillInATransactionWarnsAndGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	pgtest.Exec(t, conn, `CREATE SEQUENCE claims`)
	pgtest.Exec(t, conn, `
CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.state = 'applying' AND nextval('claims') = 1 THEN
        RAISE EXCEPTION 'terminating connection due to idle-in-transaction timeout' USING ERRCODE = '25P03';
    END IF;
    RETURN NEW;
END $f$;
CREATE TRIGGER stand_still BEFORE UPDATE ON mutations FOR EACH ROW EXECUTE FUNCTION stand_still()`)
	w := startWorker(t, db, nil)
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	w.log.says(t, "level=WARN", "stood still")
	awaitState(t, conn, m, "applied")
}
