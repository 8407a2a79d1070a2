package sql_test

import (
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

func TestARollbackGivesItsNumberBackAndCommitOrderIsSeqOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	a, b := db.Conn(t), db.Conn(t)
	id := pgtest.Scan[string](t, a, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, a, `BEGIN`)
	pgtest.Exec(t, b, `BEGIN`) // b began last and commits first
	if n := pgtest.Scan[int](t, b, `SELECT topology_emit($1::text::uuid, 'b', '{}')`, id); n != 2 {
		t.Errorf("b got %d", n)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var n int
		if err := a.QueryRow(t.Context(), `SELECT topology_emit($1::text::uuid, 'a', '{}')`, id).
			Scan(&n); err != nil ||
			n != 3 {
			t.Errorf("a got %d, %v", n, err)
		}
	}()
	pgtest.Exec(t, b, `COMMIT`)
	<-done
	pgtest.Exec(t, a, `ROLLBACK`)
	if n := pgtest.Scan[int](t, b, `SELECT topology_emit($1::text::uuid, 'c', '{}')`, id); n != 3 {
		t.Errorf("after the rollback c got %d", n)
	}
	contiguous(t, b)
}

func TestABulkUpdateMakesAllEventsInOrderWithOneHeadUpdateEach(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, 100) i`)
	const insert = `INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies, generate_series(1, 100)`
	pgtest.Exec(t, conn, insert)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position = (SELECT min(position) FROM mutations)`)
	const updates = `SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'topology_heads'`
	pgtest.Exec(t, conn, `BEGIN`)
	before := pgtest.Scan[int](t, conn, updates)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE state = 'pending'`)
	if n := pgtest.Scan[int](t, conn, updates) - before; n != 100 {
		t.Errorf("%d head updates, want 100", n)
	}
	pgtest.Exec(t, conn, `COMMIT`)
	const events = `SELECT count(*) FROM topology_events WHERE type = 'mutation.applying'`
	if n := pgtest.Scan[int](t, conn, events); n != 10000 {
		t.Errorf("%d events, want 10000", n)
	}
	const disorder = `
SELECT count(*) FROM (
       SELECT m.position, lag(m.position) OVER (PARTITION BY e.topology_id ORDER BY e.seq) AS before
         FROM topology_events e JOIN mutations m ON m.id = (e.payload->>'mutation_id')::uuid
        WHERE e.type = 'mutation.applying') s
 WHERE before > position`
	if n := pgtest.Scan[int](t, conn, disorder); n != 0 {
		t.Errorf("%d events are out of order", n)
	}
	contiguous(t, conn)
}

func TestNoSizeUpTo16MiBFailsAWriter(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it moves much: left out with -short")
	}
	conn := pgtest.New(t).Conn(t)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	for n := 7500; n < 8100; n += 7 {
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'size', to_jsonb(repeat('x', $2)))`, id, n)
	}
	for n := 2500; n < 2700; n += 3 {
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'size', to_jsonb(repeat('€', $2)))`, id, n)
	}
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'size', to_jsonb(repeat('x', 16000000)))`, id)
	contiguous(t, conn)
}

func TestPruningRemovesAPrefixAlsoWhenTimesJumpBack(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}') FROM generate_series(1, 9)`, id)
	// 1 to 4 are old, 5 is young, 6 to 8 are old again, as after a clock that was set back.
	pgtest.Exec(t, conn, `UPDATE topology_events SET at = now() - interval '2 days' WHERE seq <= 4 OR seq BETWEEN 6 AND 8`)
	if n := pgtest.Scan[int](t, conn, `SELECT topology_prune('1 day', NULL, 1000)`); n != 4 {
		t.Errorf("removed %d by age, want 4", n)
	}
	contiguous(t, conn)
	if n := pgtest.Scan[int](t, conn, `SELECT topology_prune(NULL, 3, 1000)`); n != 3 {
		t.Errorf("removed %d by count, want 3", n)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT first FROM topology_heads`); n != 8 {
		t.Errorf("first is %d, want 8", n)
	}
	contiguous(t, conn)
	if n := pgtest.Scan[int](t, conn, `SELECT topology_prune(NULL, NULL, 1000)`); n != 0 {
		t.Errorf("removed %d without a limit", n)
	}
}

func TestPruningRemovesWhatAnOlderEpochLeft(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo'), ('gone')`)
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies, generate_series(1, 9)`)
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE name = 'gone'`)
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	pgtest.Exec(t, conn, `SELECT topology_raise(ARRAY(SELECT topology_id FROM topology_heads))`)
	removed := 0
	for range 10 { // batches of 4
		removed += pgtest.Scan[int](t, conn, `SELECT topology_prune('1 day', NULL, 4)`)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topology_events`); n != 0 || removed != 21 {
		t.Errorf("%d rows are left, %d removed, want none and 21", n, removed)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topology_heads`); n != 1 {
		t.Errorf("%d heads are left, want that of the topology that still is", n)
	}
}

func TestTheTriggerRaisesSynchronousCommitFromOff(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `SET synchronous_commit = off`)
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo')`)
	if v := pgtest.Scan[string](t, conn, `SHOW synchronous_commit`); v != "local" {
		t.Errorf("synchronous_commit is %s in a transaction that recorded an event", v)
	}
	pgtest.Exec(t, conn, `COMMIT`)
	if v := pgtest.Scan[string](t, conn, `SHOW synchronous_commit`); v != "off" {
		t.Errorf("synchronous_commit is %s afterwards", v)
	}
}

func TestNotificationsHoldTheJournalsBytes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, writer := db.Conn(t), db.Conn(t)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `LISTEN "topology.`+id+`"`)
	pgtest.Exec(t, writer, `SELECT topology_emit($1::text::uuid, 'x', '{"a": "ü\n"}')`, id)
	n, err := conn.WaitForNotification(t.Context())
	must(t, err)
	event := pgtest.Scan[string](t, conn, `SELECT event FROM topology_journal($1::text::uuid, 1, 1, 10, 10000)`, id)
	if _, inline, _ := strings.Cut(n.Payload, " "); inline != event {
		t.Errorf("heard %s, the journal holds %s", inline, event)
	}
}
