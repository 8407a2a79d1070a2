package sql_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// trigger makes a trigger of an installation's own, which runs a statement after each row. Its name sorts before ours.
func (b *graphBench) trigger(on, when, statement string) {
	b.t.Helper()
	name := fmt.Sprintf("a_%d", pgtest.Scan[int](b.t, b.conn, `SELECT count(*) FROM pg_trigger`))
	b.exec(fmt.Sprintf(`CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN %s; RETURN NULL; END $f$`, name,
		statement))
	b.exec(fmt.Sprintf(`CREATE TRIGGER %s AFTER %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %[1]s()`, name, on, when))
}

// told gives the types of the events since the last call, each with what a test looks at.
func (b *graphBench) told() string {
	b.t.Helper()
	const query = `SELECT coalesce(string_agg(concat_ws(' ', type, payload ->> 'state', payload ->> 'version'), ', '
		ORDER BY seq), ''),
	coalesce(max(seq), $2) FROM topology_events WHERE topology_id = $1 AND seq > $2`
	var told string
	must(b.t, b.conn.QueryRow(b.t.Context(), query, b.id, b.seen).Scan(&told, &b.seen))
	return told
}

func TestWhatATriggerOfTheirOwnWritesAgainIsToldAsTheTableHasIt(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.trigger(`UPDATE ON topologies`, `NEW.status = 'deploying'`, `UPDATE topologies SET status = 'active'
		WHERE id = NEW.id`)
	b.exec(`UPDATE topologies SET status = 'deploying'`)
	if told := b.told(); told != "status active" {
		t.Errorf("a status that is changed on: %s", told)
	}
	b.trigger(`UPDATE ON topologies`, `NEW.reason = 'a'`, `UPDATE topologies SET reason = OLD.reason WHERE id = NEW.id`)
	b.exec(`UPDATE topologies SET reason = 'a'`)
	if told := b.told(); told != "" {
		t.Errorf("a reason that is taken back: %s", told)
	}
	b.trigger(`INSERT ON mutations`, `NEW.requested_by = 'fast'`, `UPDATE mutations SET state = 'applying'
		WHERE id = NEW.id`)
	b.trigger(`UPDATE ON mutations`, `NEW.state = 'applying'`, `UPDATE mutations SET state = 'failed' WHERE id = NEW.id`)
	b.exec(`INSERT INTO mutations (topology_id, op, requested_by) VALUES ($1, 'add_lan', 'fast')`)
	if told := b.told(); told != "mutation.enqueued, mutation.failed 1" {
		t.Errorf("a mutation: %s", told)
	}
	b.exec(`INSERT INTO mutations (topology_id, op, requested_by) SELECT $1, 'add_lan', 'fast' FROM generate_series(1, 2)`)
	if told := b.told(); strings.Count(told, "mutation.enqueued") != 2 || !strings.HasSuffix(told, "mutation.failed 3") {
		t.Errorf("two mutations: %s", told)
	}
	counted(t, b.conn)
	b.trigger(`UPDATE ON deckies`, `NEW.state = 'running'`, `UPDATE deckies SET state = 'checked' WHERE uuid = NEW.uuid`)
	b.exec(`UPDATE deckies SET state = 'running'`)
	_, graph := b.events()
	if len(graph) != 1 || graph[0].Deckies[0]["state"] != "checked" || graph[0].Before.Deckies[0]["state"] != "pending" {
		t.Errorf("a decky: %v", graph)
	}
	for _, table := range []string{"topology_edits", "topology_untold"} {
		if n := pgtest.Scan[int](t, b.conn, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("%d rows stay in %s", n, table)
		}
	}
}

// A function of the statement's own changes what the statement inserts before any trigger has seen its end; another
// INSERT within it ends first.
func TestAMutationIsEnqueuedBeforeAFunctionOfItsStatementChangesIt(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`CREATE FUNCTION claim(_id uuid) RETURNS boolean LANGUAGE plpgsql AS $f$
		DECLARE
			_other uuid;
		BEGIN
			UPDATE mutations SET state = 'applying' WHERE id = _id;
			INSERT INTO mutations (topology_id, op) SELECT topology_id, 'add_lan' FROM mutations WHERE id = _id
				RETURNING id INTO _other;
			UPDATE mutations SET state = 'applying' WHERE id = _other;
			UPDATE mutations SET state = 'failed' WHERE id = _other;
			RETURN true;
		END $f$`)
	b.exec(`SET topostream.inserting = 'no id'`) // whoever may write may set this
	for _, n := range []int{1, 3} {
		b.exec(fmt.Sprintf(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, %d)
			RETURNING claim(id)`, n))
		want := "mutation.enqueued, mutation.applying, mutation.enqueued, mutation.applying, mutation.failed "
		var wanted []string
		for i := range n {
			version := pgtest.Scan[int](t, b.conn, `SELECT version FROM topologies WHERE id = $1`, b.id) - n + i + 1
			wanted = append(wanted, want+strconv.Itoa(version))
		}
		if told := b.told(); told != strings.Join(wanted, ", ") {
			t.Errorf("%d: %s", n, told)
		}
	}
	counted(t, b.conn)
	// Whoever changes the setting in between, which only a trigger can, records nothing twice.
	b.exec(`CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $f$
		BEGIN
			PERFORM set_config('topostream.inserting', '', true);
			RETURN NEW;
		END $f$`)
	b.exec(`CREATE TRIGGER a_forge BEFORE INSERT ON mutations FOR EACH ROW EXECUTE FUNCTION forge()`)
	for _, n := range []int{1, 2} {
		b.exec(fmt.Sprintf(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, %d)`, n))
		if told := b.told(); told != strings.TrimSuffix(strings.Repeat("mutation.enqueued, ", n), ", ") {
			t.Errorf("%d: %s", n, told)
		}
	}
	b.exec(`DROP TRIGGER a_forge ON mutations`)
	counted(t, b.conn)
	b.exec(`DELETE FROM topology_untold`)
	b.exec(`UPDATE mutations SET state = 'pending' WHERE state = 'applying'`)
	if told := b.told(); told != strings.TrimSuffix(strings.Repeat("mutation.requeued, ", 4), ", ") {
		t.Errorf("%s", told)
	}
	if n := pgtest.Scan[int](t, b.conn, `SELECT count(*) FROM topology_untold`); n != 0 {
		t.Errorf("%d rows stay", n)
	}
}

func TestATopologysCreationComesBeforeWhatTheirTriggersMakeOfIt(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.trigger(`INSERT ON topologies`, `NEW.name LIKE 'with%'`, `
		INSERT INTO lans (topology_id, name, subnet) VALUES (NEW.id, 'first', '10.0.0.0/24');
		INSERT INTO mutations (topology_id, op) VALUES (NEW.id, 'add_lan');
		UPDATE topologies SET status = 'deploying' WHERE id = NEW.id`)
	const all = `SELECT coalesce(string_agg(concat_ws(' ', type, payload ->> 'state'), ', ' ORDER BY seq), '')
		FROM topology_events WHERE topology_id = $1`
	const want = "status pending, graph, mutation.enqueued, status deploying"
	id := pgtest.Scan[string](t, b.conn, `INSERT INTO topologies (name) VALUES ('with one') RETURNING id::text`)
	if told := pgtest.Scan[string](t, b.conn, all, id); told != want {
		t.Errorf("one: %s", told)
	}
	b.exec(`INSERT INTO topologies (name) VALUES ('with two'), ('with three')`)
	const wrong = `SELECT count(*) FROM topologies t WHERE t.name LIKE 'with t%' AND $1 <> (
		SELECT string_agg(concat_ws(' ', type, payload ->> 'state'), ', ' ORDER BY seq) FROM topology_events
			WHERE topology_id = t.id)`
	if n := pgtest.Scan[int](t, b.conn, wrong, want); n != 0 {
		t.Errorf("%d of two are told otherwise", n)
	}
	// The same with an id that another one had.
	pgtest.Exec(t, b.conn, `DELETE FROM topologies WHERE id = $1`, id)
	pgtest.Exec(t, b.conn, `INSERT INTO topologies (id, name) VALUES ($1, 'with one again')`, id)
	if told := pgtest.Scan[string](t, b.conn, all, id); told != want+", deleted, "+want {
		t.Errorf("again: %s", told)
	}
	counted(t, b.conn)
}

func TestWhatIsWrittenWhileAMutationFinishesIsInItsResult(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.trigger(`UPDATE ON mutations`, `NEW.state = 'applied'
		AND OLD.state <> NEW.state`, `UPDATE deckies SET state = 'from applied'`)
	b.trigger(`UPDATE ON deckies`, `NEW.y = 1`, `UPDATE deckies SET y = 2 WHERE uuid = NEW.uuid`)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'update_decky' FROM generate_series(1, 3)`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	results := func(finish string) []graphEvent {
		t.Helper()
		b.events()
		b.exec(`BEGIN`)
		b.exec(edit)
		b.exec(`UPDATE deckies SET x = coalesce(x, 0) + 5, y = 1`)
		b.exec(finish)
		seen := b.seen
		b.exec(`COMMIT`)
		if types, _ := b.events(); strings.Contains(types, "graph") {
			t.Errorf("%s: %s", finish, types)
		}
		const query = `SELECT coalesce(json_agg(payload -> 'result' ORDER BY seq), '[]')::text FROM topology_events
			WHERE topology_id = $1 AND type = 'mutation.applied' AND seq > $2`
		var all []graphEvent
		must(t, json.Unmarshal([]byte(pgtest.Scan[string](t, b.conn, query, b.id, seen)), &all))
		return all
	}
	r := results(`UPDATE mutations SET state = 'applied' WHERE position = 1`)
	if len(r) != 1 || len(r[0].Deckies) != 1 || r[0].Deckies[0]["state"] != "from applied" || r[0].Deckies[0]["y"] != 2. ||
		r[0].Before.Deckies[0]["state"] != "pending" || r[0].Before.Deckies[0]["x"] != nil {
		t.Errorf("%v", r)
	}
	const stored = `SELECT count(*) FROM mutations m JOIN topology_events e ON e.payload ->> 'mutation_id' = m.id::text
		WHERE e.type = 'mutation.applied' AND m.result = e.payload -> 'result'`
	if n := pgtest.Scan[int](t, b.conn, stored); n != 1 {
		t.Error("the row's result is not the event's")
	}
	r = results(`UPDATE mutations SET state = 'applied' WHERE state = 'applying'`)
	const one, none = "0 1 0 removed map[] before 0 1 0 more false", "0 0 0 removed map[] before 0 0 0 more false"
	if len(r) != 2 || r[0].String() != one || r[1].String() != none {
		t.Errorf("two of one edit: %v", r)
	}
}

func TestRowsOfTwoTablesWithOneIDAreToldApart(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	const id = "11111111-1111-4111-8111-111111111111"
	b.exec(`INSERT INTO lans (id, topology_id, name, subnet) VALUES ('` + id + `', $1, 'c', '10.0.2.0/24')`)
	b.exec(`INSERT INTO deckies (uuid, topology_id, name) VALUES ('` + id + `', $1, 'c')`)
	b.exec(`INSERT INTO mutations (topology_id, op) VALUES ($1, 'update_decky')`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	b.exec(`BEGIN`)
	b.exec(edit)
	b.exec(`UPDATE lans SET x = 1 WHERE name = 'c'`)
	b.exec(`UPDATE deckies SET x = 2 WHERE name = 'c'`)
	b.exec(`UPDATE mutations SET state = 'applied'`)
	b.exec(`COMMIT`)
	var result graphEvent
	must(t, json.Unmarshal([]byte(pgtest.Scan[string](t, b.conn, `SELECT result::text FROM mutations`)), &result))
	if len(result.LANs) != 1 || len(result.Deckies) != 1 || result.LANs[0]["x"] != 1. || result.Deckies[0]["x"] != 2. {
		t.Errorf("%v", result)
	}
}

func TestNothingFollowsDeletedInOneStatementEither(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, 3)`)
	b.exec(`UPDATE mutations SET state = 'applying' WHERE position <= 2`)
	b.told()
	b.exec(`WITH m AS (UPDATE mutations SET state = CASE state WHEN 'applying' THEN 'applied' ELSE 'applying' END
			WHERE topology_id = $1 RETURNING 1), d AS (UPDATE deckies SET x = 1 WHERE topology_id = $1 RETURNING 1)
		DELETE FROM topologies WHERE id = $1`)
	if told := b.told(); told != "deleted" {
		t.Errorf("%s", told)
	}
}

// A change that a document shows is an event, also where the old and the new number are equal, such as 1.0 and 1.00.
func TestEveryChangeOfADocumentIsAnEventInTheDocumentsForm(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`ALTER TABLE deckies ADD COLUMN secret text DEFAULT 'hunter2'`)
	b.exec(`SET extra_float_digits = 0`)
	document := func() string {
		t.Helper()
		const query = `SELECT string_agg(convert_from(chunk, 'UTF8'), '') FROM topology_document($1, true)`
		text := pgtest.Scan[string](t, b.conn, query, b.id)
		_, graph, _ := strings.Cut(text, `"lans":`)
		return graph
	}
	for _, statement := range []string{
		`UPDATE deckies SET decky_config = '{"a": 1.0}'`, `UPDATE deckies SET decky_config = '{"a": 1.00}'`,
		`UPDATE deckies SET x = 0.1::float8 + 0.2::float8`, `UPDATE deckies SET x = 0.3`, `UPDATE deckies SET x = '-0'`,
		`UPDATE deckies SET x = 0`, `UPDATE deckies SET x = 1e300`, `UPDATE deckies SET secret = 'other'`,
		`UPDATE lans SET x = 'NaN' WHERE name = 'a'`,
	} {
		before := document()
		b.exec(statement)
		now := document()
		_, graph := b.events()
		if changed := now != before; changed != (len(graph) == 1) {
			t.Errorf("%s: the document changed: %v, events: %v", statement, changed, graph)
		}
		const last = `SELECT coalesce(payload #>> '{deckies,0}', payload #>> '{lans,0}') FROM topology_events
			ORDER BY seq DESC LIMIT 1`
		if row := pgtest.Scan[string](t, b.conn, last); !strings.Contains(now, row) || strings.Contains(row, "secret") {
			t.Errorf("%s: the event's row %s is not the document's %s", statement, row, now)
		}
	}
}

func TestRowsThatNoEventCanHoldStayAndCanBeChangedAndRemoved(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`ALTER TABLE deckies DISABLE TRIGGER guard`)
	b.exec(`UPDATE deckies SET decky_config = jsonb_build_object('x', repeat('x', 17000000))`)
	b.exec(`ALTER TABLE deckies ENABLE TRIGGER guard`)
	for _, statement := range []string{`UPDATE deckies SET x = 1`, `UPDATE deckies SET decky_config = '{}'`} {
		b.exec(statement)
		if _, graph := b.events(); len(graph) != 1 {
			t.Errorf("%s: %d events", statement, len(graph))
		}
	}
	b.exec(`ALTER TABLE deckies DISABLE TRIGGER guard`)
	b.exec(`UPDATE deckies SET decky_config = jsonb_build_object('x', repeat('x', 17000000))`)
	b.exec(`ALTER TABLE deckies ENABLE TRIGGER guard`)
	b.exec(`DELETE FROM deckies`)
	if types, graph := b.events(); len(graph) != 2 {
		t.Errorf("%s", types)
	}
	const truncated = `SELECT count(*) FROM topology_events WHERE payload ->> 'truncated' = 'true'`
	if n := pgtest.Scan[int](t, b.conn, truncated); n != 3 {
		t.Errorf("%d events say that they are truncated", n)
	}
}

// Rows that came without triggers were counted by nobody.
func TestMutationsThatNobodyCountedMakeNoCountNegative(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`SET session_replication_role = replica`)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, 3)`)
	b.exec(`SET session_replication_role = origin`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	b.exec(`UPDATE mutations SET state = 'applied' WHERE position = 1`)
	b.exec(`UPDATE mutations SET state = 'applied' WHERE state = 'applying'`)
	const light = `SELECT document IS NOT NULL FROM topology_light(ARRAY[$1::text::uuid])`
	if !pgtest.Scan[bool](t, b.conn, light, b.id) {
		t.Error("there is no light document")
	}
}

// Default privileges must not give anybody the means to be silent.
func TestNobodyIsGivenARightOnEditsByDefaultPrivileges(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	conn := db.Conn(t)
	role := "app_" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "_"))[:20] +
		strconv.FormatUint(uint64(conn.PgConn().PID()), 10)
	pgtest.Exec(t, conn, `CREATE ROLE `+role)
	t.Cleanup(func() {
		last := db.Conn(t)
		pgtest.Exec(t, last, `DROP OWNED BY `+role)
		pgtest.Exec(t, last, `DROP ROLE `+role)
	})
	pgtest.Exec(t, conn, `ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO `+role)
	must(t, sql.Up(t.Context(), conn))
	const may = `
SELECT count(*) FROM unnest('{topology_edits,topology_untold}'::text[]) n,
       unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p
 WHERE has_table_privilege($1, n, p)`
	if n := pgtest.Scan[int](t, conn, may, role); n != 0 {
		t.Errorf("%d rights", n)
	}
}

// Names that our own statements use for something else.
func TestColumnsThatSomebodyHasAddedDisturbNothing(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	for _, table := range []string{"topologies", "mutations", "lans", "deckies", "edges"} {
		for _, column := range pgtest.OurNames(t) {
			b.exec(`ALTER TABLE ` + table + ` ADD COLUMN IF NOT EXISTS "` + column + `" text`)
		}
	}
	for _, statement := range []string{
		`INSERT INTO topologies (name) VALUES ('one')`, `INSERT INTO topologies (name) VALUES ('two'), ('three')`,
		`UPDATE topologies SET reason = 'x' WHERE name = 'one'`, `UPDATE topologies SET reason = 'y'`,
		`INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies, generate_series(1, 3)`,
		`UPDATE mutations SET state = 'applying' WHERE position = 1`, `UPDATE mutations SET state = 'applying'
			WHERE position > 1`,
		`UPDATE mutations SET state = 'applied' WHERE position = 1`,
		`UPDATE mutations SET state = CASE position % 3 WHEN 0 THEN 'failed' WHEN 1 THEN 'pending' ELSE 'applied' END
			WHERE position > 1`,
		`UPDATE deckies SET x = 1`, `UPDATE lans SET x = 1`, `DELETE FROM edges WHERE is_bridge`,
		`SELECT topology_document(id, true), topology_light(ARRAY[id]), topology_emit(id, 'x', '{}'), topology_repair(id)
			FROM topologies`,
		`DELETE FROM topologies WHERE name = 'one'`, `DELETE FROM topologies`,
	} {
		b.exec(statement)
	}
}

// An INSERT that finds its row there has run the triggers before it all the same.
func TestAnInsertThatFindsItsRowThereLeavesNothingBehindThatMatters(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, 2)`)
	b.told()
	b.trigger(`UPDATE ON lans`, `NEW.x = 7`, `UPDATE mutations SET state = 'applying' WHERE state = 'pending'`)
	b.exec(`BEGIN`)
	b.exec(`INSERT INTO mutations (id, topology_id, op) SELECT id, topology_id, op FROM mutations ON CONFLICT DO NOTHING`)
	b.exec(`INSERT INTO topologies (id, name) SELECT id, 'again' FROM topologies ON CONFLICT DO NOTHING`)
	b.exec(`INSERT INTO lans (id, topology_id, name, subnet) SELECT id, topology_id, name, subnet FROM lans
		ON CONFLICT DO NOTHING`)
	b.exec(`UPDATE lans SET x = 7 WHERE name = 'a'`)
	b.exec(`INSERT INTO lans (id, topology_id, name, subnet) SELECT id, topology_id, name, '10.9.0.0/24' FROM lans
		WHERE name = 'b'
		ON CONFLICT (id) DO UPDATE SET y = 8`)
	b.exec(`COMMIT`)
	types, graph := b.events()
	if strings.Count(types, "mutation.applying") != 2 || strings.Count(types, " ") != 3 || len(graph) != 2 {
		t.Fatalf("%s", types)
	}
	for i, want := range []string{"x", "y"} {
		if old := graph[i].Before.LANs; len(old) != 1 || len(old[0]) != 2 || old[0]["id"] == nil || old[0][want] != nil {
			t.Errorf("%v", old)
		}
	}
	b.exec(`BEGIN`)
	b.exec(`INSERT INTO topologies (id, name) SELECT id, 'again' FROM topologies ON CONFLICT DO NOTHING`)
	b.exec(`DELETE FROM topologies`)
	b.exec(`COMMIT`)
	if told := b.told(); told != "deleted" {
		t.Errorf("%s", told)
	}
	pgtest.Eventually(t, "what is left to be swept away", func() bool { // when older transactions have ended
		b.exec(`SELECT topology_sweep()`)
		return pgtest.Scan[int](t, b.conn, `SELECT count(*) FROM topology_untold`) == 0
	})
}
