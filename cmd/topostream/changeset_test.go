package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// bridged adds a LAN and attaches to it the decky that is in another one.
const bridged = `{"ops":[
	{"op":"add_lan","payload":{"name":"b","subnet":"10.0.1.0/24"}},
	{"op":"attach_decky","payload":{"decky":"web","lan":"b"}},
	{"op":"update_decky","payload":{"decky":"web","patch":{"bridges":true}}}]}`

func enqueueOp(t *testing.T, conn *pgx.Conn, id, op, payload string) (mutation string) {
	t.Helper()
	const insert = `
INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb) RETURNING id::text`
	return pgtest.Scan[string](t, conn, insert, id, op, payload)
}

// TestAChangesetIsOneCallOneResultAndAllOrNothing has an applier note what it is called with.
func TestAChangesetIsOneCallOneResultAndAllOrNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	calls := filepath.Join(t.TempDir(), "calls")
	mutate(t, buildProgram(t), db.URL, "--apply-exec", "cat >> "+calls+"; echo >> "+calls)
	awaitMutation(t, conn, enqueueOp(t, conn, id, "add_lan", `{"name":"a","subnet":"10.0.0.0/24"}`), "applied")
	awaitMutation(t, conn, enqueueOp(t, conn, id, "add_decky", `{"name":"web","lan":"a"}`), "applied")
	mutation := enqueueOp(t, conn, id, "changeset", bridged)
	awaitMutation(t, conn, mutation, "applied")
	var result struct{ LANs, Deckies, Edges []json.RawMessage }
	text := pgtest.Scan[string](t, conn, `SELECT result::text FROM mutations WHERE id = $1::text::uuid`, mutation)
	if err := json.Unmarshal([]byte(text), &result); err != nil || len(result.LANs) != 1 || len(result.Deckies) != 1 ||
		len(result.Edges) != 1 {
		t.Errorf("%v: %s", err, text)
	}
	const state = `SELECT string_agg(l.name, ',' ORDER BY l.name) || ' ' || (SELECT count(*) FROM edges) FROM lans l`
	if s := pgtest.Scan[string](t, conn, state); s != "a,b 2" {
		t.Errorf("the graph is %s", s)
	}

	bad := strings.Replace(bridged, `"b","subnet":"10.0.1.0/24"`, `"c"`, 1)
	bad = strings.Replace(bad, `"update_decky","payload":{"decky":"web"`, `"update_decky","payload":{"decky":"nobody"`, 1)
	bad = strings.Replace(bad, `"lan":"b"`, `"lan":"c"`, 1)
	reason := awaitMutation(t, conn, enqueueOp(t, conn, id, "changeset", bad), "failed")
	if reason != `ops[2]: decky "nobody" does not exist` {
		t.Errorf("%s", reason)
	}
	if s := pgtest.Scan[string](t, conn, state); s != "a,b 2" {
		t.Errorf("after one that failed the graph is %s", s)
	}
	body, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	// What is refused beforehand is not shown to the applier at all.
	if n := strings.Count(string(body), `"op":"changeset"`); n != 1 || !strings.Contains(string(body), `"ops"`) {
		t.Errorf("%d calls with a changeset:\n%s", n, body)
	}
}

// A trigger holds the worker up in the middle of its transaction, until it is killed there.
func TestAWorkerThatIsKilledInTheMiddleOfAChangesetLeavesNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	id := live(t, conn, 1)[0]
	binary := buildProgram(t)
	pgtest.Exec(t, conn, `INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'a', '10.0.0.0/24')`, id)
	pgtest.Exec(t, conn, `INSERT INTO deckies (topology_id, name, ip) VALUES ($1::text::uuid, 'web', '10.0.0.2')`, id)
	pgtest.Exec(t, conn, `INSERT INTO edges (topology_id, decky_uuid, lan_id) SELECT l.topology_id, d.uuid, l.id
		FROM lans l, deckies d`)
	pgtest.Exec(t, conn, `CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$`)
	pgtest.Exec(t, conn, `CREATE TRIGGER hold BEFORE INSERT ON edges FOR EACH ROW WHEN (NEW.is_bridge)
		EXECUTE FUNCTION hold()`)
	pgtest.Exec(t, holder, `SELECT pg_advisory_lock(7)`)
	first := mutate(t, binary, db.URL, "--lease", "2s")
	mutation := enqueueOp(t, conn, id, "changeset", bridged)
	const waits = `SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE d.datname = current_database() AND l.locktype = 'advisory' AND NOT l.granted`
	pgtest.Eventually(t, "the worker to be in the middle", func() bool { return pgtest.Scan[int](t, conn, waits) > 0 })
	<-first.signal(syscall.SIGKILL)
	const state = `SELECT string_agg(l.name, ',' ORDER BY l.name) || ' ' || (SELECT count(*) FROM edges) FROM lans l`
	if s := pgtest.Scan[string](t, conn, state); s != "a 1" {
		t.Errorf("while it is held the graph is %s", s)
	}
	pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'topostream mutator' AND wait_event = 'advisory'`)
	pgtest.Exec(t, holder, `SELECT pg_advisory_unlock(7)`)
	if s := pgtest.Scan[string](t, conn, state); s != "a 1" {
		t.Errorf("after the kill the graph is %s", s)
	}
	mutate(t, binary, db.URL)
	awaitMutation(t, conn, mutation, "applied")
	if s := pgtest.Scan[string](t, conn, state); s != "a,b 2" {
		t.Errorf("the graph is %s", s)
	}
	const told = `SELECT string_agg(type, ' ' ORDER BY seq) FROM topology_events WHERE payload ->> 'mutation_id' = $1`
	const want = "mutation.enqueued mutation.applying mutation.requeued mutation.applying mutation.applied"
	if s := pgtest.Scan[string](t, conn, told, mutation); s != want {
		t.Errorf("%s", s)
	}
}
