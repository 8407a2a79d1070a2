package sql_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"topostream/pgbus/pgtest"
)

// miscounted are heads whose counters are not what the mutations give, or -1 where the topology is gone.
const miscounted = `
SELECT coalesce(string_agg(h.topology_id || ': head says ' || (h.in_flight, h.in_flight_bytes, h.in_flight_from)::text
           || ', mutations say ' || (m.n, m.bytes, m.lowest)::text, '; '), '')
  FROM topology_heads h, LATERAL (
       SELECT CASE WHEN EXISTS (SELECT FROM topologies t WHERE t.id = h.topology_id) THEN count(*) ELSE -1 END AS n,
              coalesce(sum(octet_length(payload::text) + coalesce(octet_length(requested_by), 0)), 0) AS bytes,
              min(position) AS lowest
         FROM mutations WHERE topology_id = h.topology_id AND state IN ('pending', 'applying')) m
 WHERE (h.in_flight, h.in_flight_bytes) IS DISTINCT FROM (m.n, m.bytes)
    OR h.in_flight_from IS NULL AND m.n > 0 OR h.in_flight_from > m.lowest`

// counted fails unless each head's counters are what the mutations give.
func counted(t interface {
	Errorf(format string, args ...any)
}, conn *pgx.Conn) {
	var wrong string
	if err := conn.QueryRow(background, miscounted).Scan(&wrong); err != nil || wrong != "" {
		t.Errorf("%s %v", wrong, err)
	}
}

func TestHeadsCountWhatIsInFlightWhateverTwoWritersDo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		must(t, flag.Set("rapid.checks", "10"))
	}
	db := pgtest.New(t)
	writers, admin := []*pgx.Conn{db.Conn(t), db.Conn(t)}, db.Conn(t)
	for _, conn := range writers {
		pgtest.Exec(t, conn, `SET lock_timeout = '5ms'`)
	}
	steps := slices.Sorted(maps.Keys(writerSteps))
	rapid.Check(t, func(t *rapid.T) {
		for _, conn := range writers {
			step(t, conn, `ROLLBACK`)
		}
		if _, err := admin.Exec(background, reset); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			conn := rapid.SampledFrom(writers).Draw(t, "writer")
			step(t, conn, writerSteps[rapid.SampledFrom(steps).Draw(t, "step")])
			counted(t, admin)
		}
	})
}

// reset leaves three topologies, one with mutations from before.
const reset = `
DELETE FROM topologies;
INSERT INTO topologies (id, name)
    SELECT ('00000000-0000-4000-8000-00000000000' || i)::uuid, 't' || i FROM generate_series(1, 3) i;
INSERT INTO mutations (topology_id, op, payload)
    SELECT id, 'add_lan', '{"a": 1}' FROM topologies, generate_series(1, 3) WHERE name = 't1'`

// writerSteps are what a writer does at random. :some is a condition on a mutation, :named one on a topology t.
var writerSteps = map[string]string{
	"begin":            `BEGIN`,
	"begin repeatable": `BEGIN ISOLATION LEVEL REPEATABLE READ`,
	"commit":           `COMMIT`,
	"roll back":        `ROLLBACK`,
	"savepoint":        `SAVEPOINT s`,
	"roll back to":     `ROLLBACK TO s`,
	"emit":             `SELECT topology_emit(t.id, 'x', '{}') FROM topologies t WHERE :named`,
	"insert": `
		INSERT INTO mutations (topology_id, op, payload, requested_by)
		SELECT t.id, 'add_lan', jsonb_build_object('name', repeat('é', i * 10)), nullif(repeat('a', i - 1), '')
		  FROM topologies t, generate_series(1, 3) i WHERE :named`,
	"insert one":  `INSERT INTO mutations (topology_id, op) SELECT t.id, 'add_lan' FROM topologies t WHERE :named`,
	"insert none": `INSERT INTO mutations (topology_id, op) SELECT t.id, 'add_lan' FROM topologies t WHERE false`,
	"take":        `UPDATE mutations SET state = 'applying' WHERE state = 'pending' AND :some`,
	"apply":       `UPDATE mutations SET state = 'applied' WHERE state = 'applying' AND :some`,
	"fail":        `UPDATE mutations SET state = 'failed', reason = 'x' WHERE state = 'applying' AND :some`,
	"requeue":     `UPDATE mutations SET state = 'pending' WHERE state = 'applying' AND :some`,
	"move": `
		UPDATE mutations SET state = CASE state WHEN 'pending' THEN 'applying' WHEN 'applying' THEN 'failed' ELSE state END
		 WHERE :some`,
	"apply and insert": `
		WITH done AS (UPDATE mutations SET state = 'applied' WHERE state = 'applying' AND :some RETURNING topology_id)
		INSERT INTO mutations (topology_id, op) SELECT topology_id, 'add_lan' FROM done`,
	"lengthen":          `UPDATE mutations SET payload_bytes = 7, reason = 'longer' WHERE :some`,
	"remove finished":   `DELETE FROM mutations WHERE state IN ('applied', 'failed') AND :some`,
	"delete a topology": `DELETE FROM topologies t WHERE :named AND name <> 't3'`,
	"make it anew": `
		INSERT INTO topologies (id, name)
		SELECT ('00000000-0000-4000-8000-00000000000' || i)::uuid, 't' || i FROM generate_series(1, 3) i
		    ON CONFLICT DO NOTHING`,
}

// step runs a statement on what it draws. What a rule or a lock refuses is no failure, but must leave the counters
// right.
func step(t *rapid.T, conn *pgx.Conn, statement string) {
	if strings.Contains(statement, ":") {
		named := rapid.SampledFrom([]string{"true", "t.name = 't1'", "t.name <> 't1'", "t.name = 't2'"}).Draw(t, "topologies")
		some := "topology_id IN (SELECT id FROM topologies t WHERE " + named + ")"
		if salt := rapid.IntRange(0, 20).Draw(t, "half of the mutations"); salt > 0 {
			some += fmt.Sprintf(" AND hashint8(position + %d) %% 2 = 0", salt)
		}
		statement = strings.NewReplacer(":some", some, ":named", named).Replace(statement)
	}
	_, err := conn.Exec(background, statement)
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
	case !errors.As(err, &pgErr):
		t.Fatal(err)
	case !slices.Contains(refusals, pgErr.Code):
		t.Fatalf("%s: %v", statement, err)
	}
}

// refusals are a lock's timeout, a deadlock, a conflict of two transactions, a foreign key, a unique key, a rule, a
// transaction that has failed, none, one that is under way, and a savepoint that is not there.
var refusals = []string{
	"55P03", "40P01", "40001", "23503", "23505", "23514", "25P02", "25P01", "25001", "3B001",
}

func TestTheBoundGoesBackForWhoeverInsertedEarlierAndCommitsLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	early, late := db.Conn(t), db.Conn(t)
	id := topologies(t, early, 1)[0]
	// A trigger that holds the row back between its position and the head's lock, as the network or a scheduler may.
	pgtest.Exec(t, early, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.requested_by = 'early' THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN NEW; END $$`)
	pgtest.Exec(t, early, `CREATE TRIGGER hold AFTER INSERT ON mutations FOR EACH ROW EXECUTE FUNCTION hold()`)
	pgtest.Exec(t, late, `SELECT pg_advisory_lock(7)`)
	done := make(chan error)
	const insert = `INSERT INTO mutations (topology_id, op, requested_by) VALUES ($1, 'add_lan', 'early')`
	go func() {
		_, err := early.Exec(t.Context(), insert, id)
		done <- err
	}()
	watch := db.Conn(t)
	const held = `SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted`
	pgtest.Eventually(t, "the early one to have its position", func() bool {
		return pgtest.Scan[int](t, watch, held) == 1
	})
	enqueue(t, late, id, 20, 0)
	counted(t, watch)
	pgtest.Exec(t, late, `UPDATE mutations SET state = 'applying'`)
	pgtest.Exec(t, late, `UPDATE mutations SET state = 'applied' WHERE position < 20`)
	if from := pgtest.Scan[int](t, watch, `SELECT in_flight_from FROM topology_heads`); from != 20 {
		t.Errorf("the bound is %d, want 20", from)
	}
	pgtest.Exec(t, late, `SELECT pg_advisory_unlock(7)`)
	must(t, <-done)
	if from := pgtest.Scan[int](t, watch, `SELECT in_flight_from FROM topology_heads`); from != 1 {
		t.Errorf("the bound is %d, want 1", from)
	}
	counted(t, watch)
}

func TestTheBoundDoesNotPassWhatCommitsWhileItWaitsForTheHead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, held, watch := db.Conn(t), db.Conn(t), db.Conn(t)
	id := topologies(t, conn, 1)[0]
	enqueue(t, conn, id, 20, 0)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying'`)
	const at = `INSERT INTO mutations (topology_id, position, op) OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'add_lan')`
	pgtest.Exec(t, conn, at, id, 101)
	pgtest.Exec(t, held, `BEGIN`)
	pgtest.Exec(t, held, at, id, 100)
	done := make(chan error)
	go func() {
		_, err := conn.Exec(background, `UPDATE mutations SET state = 'applied' WHERE state = 'applying'`)
		done <- err
	}()
	const waits = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
	pgtest.Eventually(t, "who finishes to wait for the head", func() bool {
		return pgtest.Scan[int](t, watch, waits) == 1
	})
	pgtest.Exec(t, held, `COMMIT`)
	must(t, <-done)
	counted(t, watch)
}

func TestATriggerOfTheirOwnThatFinishesWhatIsInsertedLeavesTheCountersRight(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := topologies(t, conn, 2)
	enqueue(t, conn, ids[0], 1, 0) // the other one has nothing in flight
	pgtest.Exec(t, conn, `CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		UPDATE mutations SET state = 'applying' WHERE id = NEW.id;
		UPDATE mutations SET state = 'applied' WHERE id = NEW.id; RETURN NULL; END $$`)
	pgtest.Exec(t, conn, `CREATE TRIGGER a_finish AFTER INSERT ON mutations FOR EACH ROW EXECUTE FUNCTION finish()`)
	for _, id := range []string{ids[0], ids[1], ids[0], ids[1]} {
		enqueue(t, conn, id, 2, 0)
		counted(t, conn)
	}
}

func TestWhatAMutationCountsForStaysWhatItWasWhenItWasEnqueued(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	enqueue(t, conn, topologies(t, conn, 1)[0], 2, 100)
	pgtest.Exec(t, conn, `UPDATE mutations
		SET state = 'applying', payload_bytes = 7, reason = 'r', requested_by = 'somebody'`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied'`)
	const none = `SELECT (in_flight, in_flight_bytes) = (0, 0) FROM topology_heads`
	if !pgtest.Scan[bool](t, conn, none) {
		t.Error("with nothing in flight the head counts something")
	}
}
