package sql_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// A graphEvent is the payload of a `graph` event, or the result of a mutation.
type graphEvent struct {
	LANs, Deckies, Edges []map[string]any
	Removed              []struct{ Table, ID string }
	Before               struct{ LANs, Deckies, Edges []map[string]any }
	More                 bool
}

// String is what a test compares: how many rows of each table came, went, and were there before.
func (g graphEvent) String() string {
	gone := map[string]int{}
	for _, r := range g.Removed {
		gone[r.Table]++
	}
	return fmt.Sprint(len(g.LANs), len(g.Deckies), len(g.Edges), " removed ", gone,
		" before ", len(g.Before.LANs), len(g.Before.Deckies), len(g.Before.Edges), " more ", g.More)
}

// A graphBench is a topology with LANs a and b, a decky in a, and a bridge of it to b.
type graphBench struct {
	t    *testing.T
	conn *pgx.Conn
	id   string
	seen int64 // events that the test has looked at
}

func newGraphBench(t *testing.T) *graphBench {
	t.Helper()
	conn := pgtest.New(t).Conn(t)
	b := &graphBench{t: t, conn: conn, id: topologies(t, conn, 1)[0]}
	b.exec(`INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'a', '10.0.0.0/24'), ($1, 'b', '10.0.1.0/24')`)
	b.exec(`INSERT INTO deckies (topology_id, name, ip) VALUES ($1, 'web', '10.0.0.2')`)
	b.exec(`INSERT INTO edges (topology_id, decky_uuid, lan_id, is_bridge)
		SELECT $1::uuid, d.uuid, l.id, l.name = 'b' FROM lans l, deckies d`)
	b.events()
	return b
}

func (b *graphBench) exec(statement string) {
	b.t.Helper()
	var args []any
	if strings.Contains(statement, "$1") {
		args = append(args, b.id)
	}
	pgtest.Exec(b.t, b.conn, statement, args...)
}

// events gives the types of the events since the last call, and the payloads of those of the graph.
func (b *graphBench) events() (types string, graph []graphEvent) {
	b.t.Helper()
	const query = `SELECT seq, type, payload::text FROM topology_events WHERE topology_id = $1 AND seq > $2 ORDER BY seq`
	rows, err := b.conn.Query(b.t.Context(), query, b.id, b.seen)
	must(b.t, err)
	type event struct {
		Seq           int64
		Type, Payload string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	must(b.t, err)
	names := make([]string, 0, len(all))
	for _, e := range all {
		b.seen = e.Seq
		names = append(names, e.Type)
		if e.Type == "graph" {
			var g graphEvent
			must(b.t, json.Unmarshal([]byte(e.Payload), &g))
			graph = append(graph, g)
		}
	}
	return strings.Join(names, " "), graph
}

// wrote runs a statement and compares the graph's events with what is wanted.
func (b *graphBench) wrote(statement string, want ...string) []graphEvent {
	b.t.Helper()
	b.exec(statement)
	_, graph := b.events()
	if got := fmt.Sprint(graph); got != fmt.Sprint(want) {
		b.t.Errorf("%.100s:\n got %s\nwant %s", statement, got, want)
	}
	return graph
}

func TestWhateverAPersonWritesToTheGraphIsAnEventWithWhatWasBefore(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	g := b.wrote(`UPDATE deckies SET state = 'running' WHERE topology_id = $1`,
		"0 1 0 removed map[] before 0 1 0 more false")
	if d, old := g[0].Deckies[0], g[0].Before.Deckies[0]; d["state"] != "running" || d["name"] != "web" ||
		d["ip"] != "10.0.0.2" || fmt.Sprint(old) != fmt.Sprint(map[string]any{"uuid": d["uuid"], "state": "pending"}) {
		t.Errorf("%v, before %v", d, old)
	}
	b.wrote(`UPDATE deckies SET state = 'running'`)
	b.wrote(`UPDATE lans SET x = 1 WHERE false`)
	b.wrote(`INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'c', '10.0.2.0/24')`,
		"1 0 0 removed map[] before 0 0 0 more false")
	g = b.wrote(`UPDATE lans SET name = 'd', x = 1.5 WHERE name = 'c'`, "1 0 0 removed map[] before 1 0 0 more false")
	if old := g[0].Before.LANs[0]; len(old) != 3 || old["name"] != "c" || old["x"] != nil || old["id"] == nil {
		t.Errorf("%v", old)
	}
	g = b.wrote(`DELETE FROM lans WHERE name = 'd'`, "0 0 0 removed map[lans:1] before 1 0 0 more false")
	if old := g[0].Before.LANs[0]; len(old) != 7 || old["id"] != g[0].Removed[0].ID || old["x"] != 1.5 {
		t.Errorf("%v", old)
	}
	b.wrote(`WITH gone AS (DELETE FROM edges WHERE is_bridge RETURNING decky_uuid) UPDATE deckies SET y = 1 FROM gone`,
		"0 0 0 removed map[edges:1] before 0 0 1 more false", "0 1 0 removed map[] before 0 1 0 more false")

	b.exec(`BEGIN`)
	_, err := b.conn.PgConn().CopyFrom(t.Context(), strings.NewReader(b.id+"\te\t10.0.5.0/24\n"+b.id+"\tf\t10.0.6.0/24\n"),
		`COPY lans (topology_id, name, subnet) FROM STDIN`)
	must(t, err)
	b.wrote(`COMMIT`, "2 0 0 removed map[] before 0 0 0 more false")
}

func TestALANOrDeckyGoesWithItsEdgesInOneEventAndNothingFollowsDeleted(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	g := b.wrote(`DELETE FROM lans WHERE name = 'b'`, "0 0 0 removed map[edges:1 lans:1] before 1 0 1 more false")
	if edge, lan := g[0].Before.Edges[0], g[0].Before.LANs[0]; edge["lan_id"] != lan["id"] || len(edge) != 7 ||
		g[0].Removed[0].ID != edge["id"] {
		t.Errorf("%v, %v", edge, lan)
	}
	b.wrote(`DELETE FROM deckies`, "0 0 0 removed map[deckies:1 edges:1] before 0 1 1 more false")
	b.exec(`INSERT INTO deckies (topology_id, name) VALUES ($1, 'x')`)
	b.events()
	b.exec(`DELETE FROM topologies WHERE id = $1`)
	if types, _ := b.events(); types != "deleted" {
		t.Errorf("%s", types)
	}
}

func TestAStatementOfManyRowsIsSplitIntoEventsOfABoundedSize(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.wrote(`INSERT INTO deckies (topology_id, name) SELECT $1, 'd' || n FROM generate_series(1, 1001) n`,
		"0 500 0 removed map[] before 0 0 0 more true", "0 500 0 removed map[] before 0 0 0 more true",
		"0 1 0 removed map[] before 0 0 0 more false")
	b.wrote(`UPDATE deckies SET decky_config = jsonb_build_object('x', repeat('x', 100000))
		WHERE name IN ('d1', 'd2', 'd3')`,
		"0 2 0 removed map[] before 0 2 0 more true", "0 1 0 removed map[] before 0 1 0 more false")
	b.wrote(`DELETE FROM deckies WHERE name LIKE 'd1%' AND length(name) < 5`,
		"0 0 0 removed map[deckies:111] before 0 111 0 more false")
	b.exec(`INSERT INTO edges (topology_id, decky_uuid, lan_id)
		SELECT $1::uuid, d.uuid, l.id FROM lans l, deckies d WHERE l.name = 'b' AND d.name LIKE 'd%' LIMIT 700`)
	b.events()
	b.wrote(`DELETE FROM lans WHERE name = 'b'`, "0 0 0 removed map[edges:500] before 0 0 500 more true",
		"0 0 0 removed map[edges:201 lans:1] before 1 0 201 more false")
}

// edit is how a worker begins: what follows in its transaction is told by the mutation that it finishes.
const edit = `INSERT INTO topology_edits (topology_id) VALUES ($1)`

func TestWhatAWorkerChangesIsToldByItsMutationAlone(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'update_lan', '{"name":"a","x":1}')`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	b.events()
	b.exec(`BEGIN`)
	b.exec(edit)
	b.exec(`UPDATE lans SET x = 1 WHERE name = 'a'`)
	b.exec(`UPDATE lans SET x = 2, y = 3 WHERE name = 'a'`)
	b.exec(`INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'new', '10.0.9.0/24'), ($1, 'gone', '10.0.8.0/24')`)
	b.exec(`DELETE FROM lans WHERE name IN ('gone', 'b')`)
	b.exec(`UPDATE deckies SET y = 1`)
	b.exec(`UPDATE deckies SET y = NULL`)
	b.exec(`UPDATE mutations SET state = 'applied', result = '{"what": "the writer says"}'`)
	b.exec(`UPDATE deckies SET state = 'failed'`) // after the edit: tells itself
	b.exec(`COMMIT`)
	types, graph := b.events()
	if types != "mutation.applied graph" || fmt.Sprint(graph) != "[0 1 0 removed map[] before 0 1 0 more false]" {
		t.Errorf("%s %v", types, graph)
	}
	var result graphEvent
	must(t, json.Unmarshal([]byte(pgtest.Scan[string](t, b.conn, `SELECT payload ->> 'result' FROM topology_events
		WHERE type = 'mutation.applied'`)), &result))
	if result.String() != "2 0 0 removed map[edges:1 lans:1] before 2 0 1 more false" {
		t.Errorf("%v", result)
	}
	if old := result.Before.LANs; fmt.Sprint(old[0]["x"], old[1]["x"]) != "<nil> <nil>" {
		t.Errorf("before: %v", old)
	}
	for _, table := range []string{"topology_edits", "topology_untold"} {
		if n := pgtest.Scan[int](t, b.conn, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("%d rows stay in %s", n, table)
		}
	}
}

func TestAnEditThatFinishesNoMutationCannotCommit(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`BEGIN`)
	b.exec(edit)
	b.exec(`UPDATE lans SET x = 1`)
	if _, err := b.conn.Exec(t.Context(), `COMMIT`); err == nil || !strings.Contains(err.Error(), "finished no mutation") {
		t.Errorf("%v", err)
	}
	b.exec(`BEGIN`)
	b.exec(`SAVEPOINT s`)
	b.exec(edit)
	b.exec(`UPDATE lans SET x = 1`)
	b.exec(`ROLLBACK TO s`) // as a worker does whose edit is refused
	b.exec(`UPDATE lans SET x = 2`)
	b.wrote(`COMMIT`, "2 0 0 removed map[] before 2 0 0 more false")
}

func TestAnEditOfOneTopologySaysNothingOfAnother(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	other := pgtest.Scan[string](t, b.conn, `INSERT INTO topologies (name) VALUES ('other') RETURNING id::text`)
	b.exec(`INSERT INTO mutations (topology_id, op) VALUES ($1, 'update_lan')`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	b.exec(`BEGIN`)
	b.exec(edit)
	pgtest.Exec(t, b.conn, `INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'x', '10.0.0.0/24')`, other)
	b.exec(`UPDATE mutations SET state = 'applied'`)
	b.exec(`COMMIT`)
	const query = `SELECT count(*) FROM topology_events WHERE type = 'graph' AND topology_id = $1`
	if n := pgtest.Scan[int](t, b.conn, query, other); n != 1 {
		t.Errorf("%d events of the other", n)
	}
}

func TestTheRulesOfTheGraphAreTheDatabasesToo(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	lan := func(subnet string) string {
		return `INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'x', '` + subnet + `')`
	}
	for statement, want := range map[string]string{
		lan("0.0.0.0/0"):                              "lans.subnet: 0.0.0.0/0 is no network of /8 to /30",
		lan("10.0.0.0/31"):                            "lans.subnet: 10.0.0.0/31 is no network of /8 to /30",
		lan("2001:db8::/127"):                         "lans.subnet: 2001:db8::/127 is no network of /8 to /30",
		lan("0.1.0.0/16"):                             "is in 0.0.0.0/8",
		lan("127.0.0.0/8"):                            "is in 127.0.0.0/8",
		lan("169.254.7.0/24"):                         "is in 169.254.0.0/16",
		lan("224.0.0.0/4"):                            "is no network",
		lan("239.0.0.0/8"):                            "is in 224.0.0.0/4",
		lan("255.255.255.0/24"):                       "is in 240.0.0.0/4",
		lan("::ffff:10.0.0.0/120"):                    "is in ::/16",
		lan("ff02::/32"):                              "is in ff00::/8",
		`UPDATE lans SET name = ''`:                   "lans.name: a name has 1 to 200 characters, not 0",
		`UPDATE lans SET name = repeat('x', 201)`:     "lans.name: a name has 1 to 200 characters, not 201",
		`UPDATE lans SET name = ' a'`:                 "lans.name: ' a' begins or ends with a space",
		`UPDATE deckies SET name = U&'web\00A0'`:      "begins or ends with a space",
		`UPDATE deckies SET name = U&'a\0085'`:        "holds a control character",
		`UPDATE deckies SET name = U&'a\061C'`:        "holds a bidirectional character",
		`UPDATE deckies SET name = U&'a\200Fb'`:       "holds a bidirectional character",
		`UPDATE lans SET name = U&'a\202Eb'`:          "lans.name: 'a\u202eb' holds a bidirectional character",
		`UPDATE lans SET name = U&'\2066b'`:           "holds a bidirectional character",
		`INSERT INTO topologies (name) VALUES ('x ')`: "topologies.name: 'x ' begins or ends with a space",
		`UPDATE deckies SET decky_config = jsonb_build_object('x', repeat('x', 1<<18))`: "are more than 262144 (256 KiB)",
		`UPDATE lans SET id = gen_random_uuid()`:                                        "lans.id cannot be changed",
		`UPDATE deckies SET uuid = gen_random_uuid()`:                                   "deckies.uuid cannot be changed",
		`UPDATE edges SET id = gen_random_uuid()`:                                       "edges.id cannot be changed",
		`UPDATE lans SET topology_id = gen_random_uuid()`:                               "lans.topology_id cannot be changed",
		`TRUNCATE lans CASCADE`:                                                         "TRUNCATE",
	} {
		var args []any
		if strings.Contains(statement, "$1") {
			args = append(args, b.id)
		}
		if _, err := b.conn.Exec(t.Context(), statement, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", statement, err, want)
		}
	}
	if types, _ := b.events(); types != "" {
		t.Errorf("what is refused told %s", types)
	}
}

func TestRowsThatAreOlderThanARuleStayAndCanBeChanged(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`ALTER TABLE lans DISABLE TRIGGER guard`)
	b.exec(`INSERT INTO lans (topology_id, name, subnet) VALUES ($1, ' old', '0.0.0.0/0')`)
	b.exec(`ALTER TABLE lans ENABLE TRIGGER guard`)
	b.events()
	const one = "1 0 0 removed map[] before 1 0 0 more false"
	b.wrote(`UPDATE lans SET x = 1 WHERE name = ' old'`, one)
	b.wrote(`UPDATE lans SET name = 'new' WHERE name = ' old'`, one)
	b.wrote(`DELETE FROM lans WHERE name = 'new'`, "0 0 0 removed map[lans:1] before 1 0 0 more false")
}

func TestEveryMutationThatFinishesRaisesTheVersion(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, 6)`)
	b.exec(`UPDATE mutations SET state = 'applying'`)
	b.exec(`UPDATE mutations SET state = 'failed', reason = 'no' WHERE position = 1`)
	b.exec(`UPDATE mutations SET state = 'applied' WHERE position = 2`)
	b.exec(`UPDATE mutations SET state = CASE position % 2 WHEN 0 THEN 'applied' ELSE 'failed' END WHERE position > 2`)
	const query = `SELECT string_agg(concat_ws(' ', substr(type, 10), payload ->> 'version'), ', ' ORDER BY seq)
  FROM topology_events WHERE type IN ('mutation.applied', 'mutation.failed')`
	const want = "failed 1, applied 2, failed 3, applied 4, failed 5, applied 6"
	if got := pgtest.Scan[string](t, b.conn, query); got != want {
		t.Errorf("%s", got)
	}
	if n := pgtest.Scan[int](t, b.conn, `SELECT version FROM topologies`); n != 6 {
		t.Errorf("version %d", n)
	}
}

func TestARepairCountsAnewAndMakesHeads(t *testing.T) {
	t.Parallel()
	b := newGraphBench(t)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT $1, 'add_lan' FROM generate_series(1, 6)`)
	const repair = `SELECT count(*) FILTER (WHERE topology_repair(id)) FROM topologies`
	if n := pgtest.Scan[int](t, b.conn, repair); n != 0 {
		t.Errorf("%d heads are repaired that were right", n)
	}
	b.exec(`SET session_replication_role = replica`) // which is how a restore goes on without triggers
	b.exec(`INSERT INTO topologies (name) SELECT 'late-' || n FROM generate_series(1, 3) n`)
	b.exec(`UPDATE mutations SET state = 'applied' WHERE position <= 2`)
	b.exec(`INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies`)
	b.exec(`SET session_replication_role = origin`)
	// Whoever writes to one repairs its head, but not what it counts.
	b.exec(`SELECT topology_emit(id, 'x', '{}') FROM topologies WHERE name = 'late-3'`)
	if n := pgtest.Scan[int](t, b.conn, repair); n != 4 {
		t.Errorf("%d heads are repaired", n)
	}
	counted(t, b.conn)
	b.exec(`SELECT topology_emit(id, 'x', '{}') FROM topologies WHERE name <> 'late-3'`)
	const wrong = `SELECT count(*) FROM topologies t WHERE t.name LIKE 'late-%' AND 'status pending, x' <> (
		SELECT string_agg(concat_ws(' ', type, payload ->> 'state'), ', ' ORDER BY seq) FROM topology_events
			WHERE topology_id = t.id)`
	if n := pgtest.Scan[int](t, b.conn, wrong); n != 0 {
		t.Errorf("%d journals of those that came without triggers are not as they should be", n)
	}
	// A head that is made anew goes on where the journal ends.
	b.exec(`SET session_replication_role = replica`)
	b.exec(`DELETE FROM topology_heads`)
	b.exec(`SET session_replication_role = origin`)
	if n := pgtest.Scan[int](t, b.conn, repair); n != 4 {
		t.Errorf("%d heads are made anew", n)
	}
	const gaps = `SELECT count(*) FROM (SELECT topology_id FROM topology_events GROUP BY 1
		HAVING max(seq) - min(seq) + 1 <> count(*)) g`
	if n := pgtest.Scan[int](t, b.conn, gaps); n != 0 {
		t.Errorf("%d journals have gaps", n)
	}
}
