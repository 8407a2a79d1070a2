package sql_test

import (
	"slices"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

const state = `SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
	SELECT 't' || t::text AS x FROM topologies t UNION ALL SELECT 'm' || m::text FROM mutations m
	UNION ALL SELECT 'h' || h::text FROM topology_heads h UNION ALL SELECT 'e' || e::text FROM topology_events e) s`

func TestIllegalChangesAreRefusedWithWhatIsLegalAndStoreNothing(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('pending'), ('demo'), ('down')`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'torn_down' WHERE name = 'down'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying' WHERE name = 'demo'`)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload) SELECT id, op, '{"name":"a"}'
		FROM topologies, unnest('{add_lan,remove_lan,update_lan}'::text[]) op WHERE name = 'demo'`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE op <> 'add_lan'`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE op = 'update_lan'`)
	before := pgtest.Scan[string](t, conn, state)
	for _, c := range []struct{ statement, want string }{
		{`INSERT INTO topologies (name, status) VALUES ('x', 'active')`, "begins as pending"},
		{`INSERT INTO topologies (name, version) VALUES ('x', 7)`, "begins with version 0"},
		{
			`UPDATE topologies SET status = 'active' WHERE name = 'pending'`,
			"from pending it may become deploying or torn_down",
		},
		{
			`UPDATE topologies SET status = 'pending' WHERE name = 'demo'`,
			"from deploying it may become active or failed or degraded or tearing_down",
		},
		{`UPDATE topologies SET status = 'deploying' WHERE name = 'down'`, "from torn_down it may become nothing else"},
		{`UPDATE topologies SET status = 'odd' WHERE name = 'demo'`, "legal are pending, deploying"},
		{`UPDATE topologies SET id = gen_random_uuid() WHERE name = 'demo'`, "topologies.id cannot be changed"},
		{`UPDATE topologies SET version = version + 1 WHERE name = 'demo'`, "rises by 1 with each mutation that finishes"},
		{
			`INSERT INTO mutations (topology_id, op, state) SELECT id, 'add_lan', 'applying' FROM topologies`,
			"begins as pending",
		},
		{`INSERT INTO mutations (topology_id, op) SELECT id, 'explode' FROM topologies`, "legal are add_lan"},
		{`INSERT INTO mutations (topology_id, op) VALUES (gen_random_uuid(), 'add_lan')`, "foreign key"},
		{`UPDATE mutations SET state = 'applied' WHERE op = 'add_lan'`, "from pending it may become applying"},
		{`UPDATE mutations SET state = 'pending' WHERE op = 'update_lan'`, "from applied it may become nothing else"},
		{`UPDATE mutations SET state = 'odd' WHERE op = 'add_lan'`, "legal are pending, applying"},
		{`UPDATE mutations SET op = 'add_decky' WHERE op = 'add_lan'`, "cannot be changed"},
		{`UPDATE mutations SET payload = '{}' WHERE op = 'add_lan'`, "cannot be changed"},
		{`UPDATE mutations SET id = gen_random_uuid() WHERE op = 'add_lan'`, "cannot be changed"},
		{
			`UPDATE mutations SET topology_id = (SELECT id FROM topologies WHERE name = 'down')`,
			"id, position and topology_id cannot be changed",
		},
		{`UPDATE mutations SET position = DEFAULT WHERE op = 'add_lan'`, "id, position and topology_id cannot be changed"},
		{`INSERT INTO topologies (name, status) VALUES ('x', NULL)`, "null is no status"},
		{`INSERT INTO topologies (name) VALUES ('')`, "topologies.name: a name has 1 to 200 characters, not 0"},
		{`INSERT INTO topologies (name) VALUES ('demo')`, "topologies_name_key"},
		{`INSERT INTO mutations (topology_id, op, state) SELECT id, 'add_lan', NULL FROM topologies`, "null is no state"},
		{`DELETE FROM mutations WHERE op = 'add_lan'`, "in flight (pending)"},
		{`DELETE FROM mutations WHERE op = 'remove_lan'`, "in flight (applying)"},
		{`TRUNCATE mutations`, "TRUNCATE mutations is refused"},
		{`TRUNCATE topologies CASCADE`, "is refused"},
		{`TRUNCATE topology_events`, "TRUNCATE topology_events is refused"},
		{`TRUNCATE topology_heads`, "TRUNCATE topology_heads is refused"},
		{`SELECT topology_emit(gen_random_uuid(), 'x', '{}')`, "there is no topology"},
		{`SELECT topology_emit(NULL, 'x', '{}')`, "topology_id is null"},
		{`SELECT topology_emit(id, NULL, '{}') FROM topologies`, "is malformed"},
		{`SELECT topology_emit(id, 'A', '{}') FROM topologies`, "is malformed"},
		{`SELECT topology_emit(id, E'a\n', '{}') FROM topologies`, "is malformed"},
		{`SELECT topology_emit(id, 'a..b', '{}') FROM topologies`, "is malformed"},
		{`SELECT topology_emit(id, repeat('a', 65), '{}') FROM topologies`, "at most 64 characters"},
		{`SELECT topology_emit(id, 'snapshot', '{}') FROM topologies`, "is reserved"},
		{`SELECT topology_emit(id, 'status', '{}') FROM topologies`, "by the triggers alone"},
		{`SELECT topology_emit(id, 'mutation.applied', '{}') FROM topologies`, "by the triggers alone"},
		{
			`SELECT topology_emit(id, 'big', to_jsonb(repeat('x', 17000000))) FROM topologies WHERE name = 'demo'`,
			"the limit is 16777216 bytes",
		},
	} {
		_, err := conn.Exec(t.Context(), c.statement)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.statement, err, c.want)
		}
		if after := pgtest.Scan[string](t, conn, state); after != before {
			t.Fatalf("%s: something was stored", c.statement)
		}
	}
	contiguous(t, conn)
}

func TestDeletingATopologyRecordsALastEventAndKeepsTheJournal(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op) VALUES ($1, 'add_lan')`, id)
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1`, id)
	const newest = `SELECT type FROM topology_events WHERE topology_id = $1 ORDER BY seq DESC LIMIT 1`
	if last := pgtest.Scan[string](t, conn, newest, id); last != "deleted" {
		t.Errorf("the last event is %s", last)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1`, id); n != 3 {
		t.Errorf("the head is %d", n)
	}
	contiguous(t, conn)
}

// Three lists must agree with the program's: the ops that the trigger takes, those that it names as legal, and those
// that the table's constraint takes where no trigger fires.
func TestTheDatabaseAndTheProgramHaveTheSameOps(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo')`)
	const insert = `INSERT INTO mutations (topology_id, op) SELECT id, $1 FROM topologies`
	for _, op := range stream.Ops() {
		pgtest.Exec(t, conn, insert, op)
	}
	_, err := conn.Exec(t.Context(), insert, "explode")
	if err == nil {
		t.Fatal("explode is an op")
	}
	_, listed, _ := strings.Cut(err.Error(), "legal are ")
	listed, _, _ = strings.Cut(listed, " (SQLSTATE")
	said := strings.Split(listed, ", ")
	slices.Sort(said)
	if !slices.Equal(said, stream.Ops()) {
		t.Errorf("the trigger says that legal are %v, and the ops are %v", said, stream.Ops())
	}
	pgtest.Exec(t, conn, `SET session_replication_role = replica`)
	_, err = conn.Exec(t.Context(), insert, "explode")
	if err == nil || !strings.Contains(err.Error(), "mutations_op_check") {
		t.Errorf("without the trigger: %v", err)
	}
}
