package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A graph is what clients read, by table and id.
type graph map[string]map[string]map[string]any

func ids() map[string]string {
	return map[string]string{"lans": "id", "deckies": "uuid", "edges": "id"}
}

const (
	makeDemo     = `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`
	becomesFalse = `forwards_l3 of decky "web" would become false, which changes what it lets through: ` +
		`say "force": true if that is meant`
)

// A bench is one topology that a test edits.
type bench struct {
	t    *testing.T
	conn *pgx.Conn
	id   stream.TopologyID
	ops  map[string]bool // those that were done or refused
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return benchOn(t, pgtest.New(t).Conn(t))
}

func benchOn(t *testing.T, conn *pgx.Conn) *bench {
	t.Helper()
	return &bench{t, conn, pgtest.Scan[stream.TopologyID](t, conn, makeDemo), map[string]bool{}}
}

// hasMetEachOp fails unless the test has done or refused each op, but for changesets, which have tests of their own.
func (b *bench) hasMetEachOp() {
	b.t.Helper()
	for _, op := range stream.Ops() {
		if op != stream.OpChangeset && !b.ops[op] {
			b.t.Errorf("%s is missing here", op)
		}
	}
}

// try has a mutation claimed and makes its edit.
func (b *bench) try(op, payload string) (json.RawMessage, error) {
	b.t.Helper()
	b.ops[op] = true
	return b.work(b.claim(op, payload), op, payload)
}

func (b *bench) claim(op, payload string) (mutation string) {
	b.t.Helper()
	const enqueue = `
INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb) RETURNING id::text`
	mutation = pgtest.Scan[string](b.t, b.conn, enqueue, b.id, op, payload)
	pgtest.Exec(b.t, b.conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, mutation)
	return mutation
}

func (b *bench) work(mutation, op, payload string) (json.RawMessage, error) {
	b.t.Helper()
	const (
		lock   = `SELECT FROM topologies WHERE id = $1::text::uuid FOR NO KEY UPDATE`
		finish = `UPDATE mutations SET state = 'applied' WHERE id = $1::text::uuid RETURNING result::text`
	)
	parsed, err := stream.ParseOp(op, json.RawMessage(payload))
	must(b.t, err)
	var result string
	err = pgx.BeginFunc(b.t.Context(), b.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(b.t.Context(), lock, b.id); err != nil {
			return err
		}
		applyErr := ApplyMutation(b.t.Context(), tx, b.id, parsed)
		if isRefusal(applyErr) {
			_, err := tx.Exec(b.t.Context(), `SELECT 1`) // the transaction can be used on
			must(b.t, err)
		}
		if applyErr != nil {
			return applyErr
		}
		return tx.QueryRow(b.t.Context(), finish, mutation).Scan(&result)
	})
	return json.RawMessage(result), err
}

// do makes an edit that is allowed, and checks its result against what a reader sees before and after.
func (b *bench) do(op, payload string) graph {
	b.t.Helper()
	before := b.read()
	raw, err := b.try(op, payload)
	if err != nil {
		b.t.Fatalf("%s %s: %v", op, payload, err)
	}
	after := b.read()
	b.check(raw, before, after)
	return after
}

// refused makes an edit that is not allowed.
func (b *bench) refused(op, payload, want string) {
	b.t.Helper()
	before := b.read()
	_, err := b.try(op, payload)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != want {
		b.t.Errorf("%s %s:\n got %v\nwant %s", op, payload, err, want)
	}
	if after := b.read(); fmt.Sprint(before) != fmt.Sprint(after) {
		b.t.Errorf("%s %s was refused and changed the graph", op, payload)
	}
}

func (b *bench) read() graph {
	b.t.Helper()
	var doc map[string][]map[string]any
	text := pgtest.Scan[string](b.t, b.conn, `SELECT '{' || topology_graph_json($1::text::uuid) || '}'`, b.id)
	must(b.t, json.Unmarshal([]byte(text), &doc))
	g := graph{}
	for table, id := range ids() {
		g[table] = map[string]map[string]any{}
		for _, row := range doc[table] {
			g[table][fmt.Sprint(row[id])] = row
		}
	}
	return g
}

// changed is what a result has of each table.
type changed struct{ Lans, Deckies, Edges []map[string]any }

func (c changed) tables() map[string][]map[string]any {
	return map[string][]map[string]any{"lans": c.Lans, "deckies": c.Deckies, "edges": c.Edges}
}

// check fails unless result holds exactly the rows by which after differs from before, as a reader gets them, and
// leads back from after to before.
func (b *bench) check(raw json.RawMessage, before, after graph) {
	b.t.Helper()
	var result struct {
		changed

		Removed []struct{ Table, ID string }
		Before  changed
	}
	must(b.t, json.Unmarshal(raw, &result))
	removed := map[string]bool{}
	for _, r := range result.Removed {
		removed[r.Table+r.ID] = true
	}
	for table, rows := range result.tables() {
		given := map[string]bool{}
		for _, row := range rows {
			id := fmt.Sprint(row[ids()[table]])
			given[id] = true
			if fmt.Sprint(row) != fmt.Sprint(after[table][id]) {
				b.t.Errorf("%s: result has %v, the reader %v", table, row, after[table][id])
			}
		}
		for id, row := range after[table] {
			if old, ok := before[table][id]; (!ok || fmt.Sprint(old) != fmt.Sprint(row)) && !given[id] {
				b.t.Errorf("%s: result lacks %v", table, row)
			}
		}
		for id, row := range before[table] {
			if _, ok := after[table][id]; ok == removed[table+id] {
				b.t.Errorf("%s: removed tells %t of %v", table, removed[table+id], row)
			}
		}
		back := maps.Clone(after[table])
		for id := range given {
			if _, ok := before[table][id]; !ok {
				delete(back, id)
			}
		}
		for _, old := range result.Before.tables()[table] {
			row := maps.Clone(back[fmt.Sprint(old[ids()[table]])])
			if row == nil {
				row = map[string]any{}
			}
			maps.Copy(row, old)
			back[fmt.Sprint(old[ids()[table]])] = row
		}
		if fmt.Sprint(back) != fmt.Sprint(before[table]) {
			b.t.Errorf("%s: backwards it gives\n%v, and before was\n%v", table, back, before[table])
		}
	}
}

// named finds a row by its name.
func (g graph) named(table, name string) map[string]any {
	for _, row := range g[table] {
		if row["name"] == name {
			return row
		}
	}
	return nil
}

func TestEachOpChangesWhatItSaysAndItsResultIsWhatAReaderSees(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g := b.do("add_lan", `{"name":"a"}`)
	if a := g.named("lans", "a"); a["subnet"] != "172.16.0.0/24" || a["is_dmz"] != false || a["x"] != nil {
		t.Errorf("%v", a)
	}
	g = b.do("add_lan", `{"name":"dmz","subnet":"10.0.0.0/29","is_dmz":true,"x":1.5,"y":-2}`)
	d := g.named("lans", "dmz")
	if d["subnet"] != "10.0.0.0/29" || d["is_dmz"] != true || d["x"] != 1.5 || d["y"] != -2.0 {
		t.Errorf("%v", d)
	}
	g = b.do("add_decky", `{"name":"web","lan":"a","services":["ssh","http"],"archetype":"linux",
		"forwards_l3":true,"x":3}`)
	web := g.named("deckies", "web")
	if web["ip"] != "172.16.0.2" || web["state"] != "pending" || fmt.Sprint(web["services"]) != "[ssh http]" ||
		fmt.Sprint(web["decky_config"]) != "map[archetype:linux forwards_l3:true]" {
		t.Errorf("%v", web)
	}
	for _, e := range g["edges"] {
		if e["is_bridge"] != false || e["forwards_l3"] != true || e["ip"] != "172.16.0.2" {
			t.Errorf("the home: %v", e)
		}
	}
	g = b.do("add_decky", `{"name":"db","lan":"a","ip":"172.16.0.9"}`)
	db := g.named("deckies", "db")
	if db["ip"] != "172.16.0.9" || fmt.Sprint(db["services"], db["decky_config"]) != "[] map[forwards_l3:false]" {
		t.Errorf("%v", db)
	}
	g = b.do("attach_decky", `{"decky":"web","lan":"dmz","forwards_l3":true}`)
	bridges := 0
	for _, e := range g["edges"] {
		if e["is_bridge"] == true {
			bridges++
			if e["ip"] != "10.0.0.2" || e["forwards_l3"] != true || e["decky_uuid"] != web["uuid"] {
				t.Errorf("the bridge: %v", e)
			}
		}
	}
	if bridges != 1 {
		t.Errorf("%d bridges", bridges)
	}
	b.do("update_lan", `{"name":"a","patch":{"name":"b","x":7}}`)
	g = b.do("update_lan", `{"name":"b","y":8}`)
	if l := g.named("lans", "b"); l["x"] != 7.0 || l["y"] != 8.0 {
		t.Errorf("%v", l)
	}
	g = b.do("update_decky", `{"decky":"web","patch":{"archetype":null,"banner":{"ssh":"hi"},"forwards_l3":false},
		"services":[],"y":4,"force":true}`)
	web = g.named("deckies", "web")
	const want = "map[banner:map[ssh:hi] forwards_l3:false] [] 3 4"
	if fmt.Sprint(web["decky_config"], web["services"], web["x"], web["y"]) != want {
		t.Errorf("%v", web)
	}
	b.do("detach_decky", `{"decky":"web","lan":"dmz"}`)
	b.do("attach_decky", `{"decky":"web","lan":"dmz","ip":"10.0.0.6"}`)
	b.do("remove_lan", `{"name":"dmz"}`)
	b.do("remove_decky", `{"decky":"web"}`)
	b.do("remove_decky", `{"decky":"db"}`)
	g = b.do("remove_lan", `{"name":"b"}`)
	for table, rows := range g {
		if len(rows) != 0 {
			t.Errorf("%s stayed: %v", table, rows)
		}
	}
	b.hasMetEachOp()
}

func TestWhatTheRulesForbidIsRefusedInOneSentenceAndChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.do("add_lan", `{"name":"a","subnet":"10.0.0.0/29","is_dmz":true}`)
	b.do("add_lan", `{"name":"b","subnet":"10.0.1.0/24"}`)
	b.do("add_decky", `{"name":"web","lan":"a","forwards_l3":true}`)
	b.do("add_decky", `{"name":"db","lan":"b"}`)
	b.do("attach_decky", `{"decky":"db","lan":"a"}`)
	clear(b.ops)
	for _, c := range []struct{ op, payload, want string }{
		{"add_lan", `{"name":"a"}`, `LAN "a" exists already`},
		{"add_lan", `{"name":"c","subnet":"10.0.0.0/8"}`, `subnet 10.0.0.0/8 overlaps 10.0.0.0/29 of LAN "a"`},
		{"add_lan", `{"name":"c","is_dmz":true}`, `LAN "a" is the DMZ already: a topology has one`},
		{"remove_lan", `{"name":"c"}`, `LAN "c" does not exist`},
		{"remove_lan", `{"name":"a"}`, `LAN "a" is the home of decky "web": remove that first`},
		{"update_lan", `{"name":"c","x":1}`, `LAN "c" does not exist`},
		{"update_lan", `{"name":"a","patch":{"name":"b"}}`, `LAN "b" exists already`},
		{"add_decky", `{"name":"web","lan":"a"}`, `decky "web" exists already`},
		{"add_decky", `{"name":"x","lan":"c"}`, `LAN "c" does not exist`},
		{"add_decky", `{"name":"x","lan":"a","ip":"10.0.1.5"}`, `ip 10.0.1.5 is no host's address in 10.0.0.0/29 of LAN "a"`},
		{"add_decky", `{"name":"x","lan":"a","ip":"10.0.0.0"}`, `ip 10.0.0.0 is no host's address in 10.0.0.0/29 of LAN "a"`},
		{"add_decky", `{"name":"x","lan":"a","ip":"10.0.0.7"}`, `ip 10.0.0.7 is no host's address in 10.0.0.0/29 of LAN "a"`},
		{"add_decky", `{"name":"x","lan":"a","ip":"::1"}`, `ip ::1 is no host's address in 10.0.0.0/29 of LAN "a"`},
		{"add_decky", `{"name":"x","lan":"a","ip":"10.0.0.1"}`, `ip 10.0.0.1 is kept for the gateway of LAN "a"`},
		{"add_decky", `{"name":"x","lan":"a","ip":"10.0.0.2"}`, `ip 10.0.0.2 is taken by decky "web" in LAN "a"`},
		{"attach_decky", `{"decky":"x","lan":"a"}`, `decky "x" does not exist`},
		{"attach_decky", `{"decky":"web","lan":"c"}`, `LAN "c" does not exist`},
		{"attach_decky", `{"decky":"db","lan":"a"}`, `decky "db" is attached to LAN "a" already`},
		{"attach_decky", `{"decky":"web","lan":"a"}`, `decky "web" is attached to LAN "a" already`},
		{"attach_decky", `{"decky":"web","lan":"b","ip":"10.0.1.2"}`, `ip 10.0.1.2 is taken by decky "db" in LAN "b"`},
		{"detach_decky", `{"decky":"web","lan":"b"}`, `decky "web" is not attached to LAN "b"`},
		{"detach_decky", `{"decky":"web","lan":"a"}`,
			`LAN "a" is the home of decky "web": it can only be removed as a whole`},
		{"detach_decky", `{"decky":"x","lan":"a"}`, `decky "x" does not exist`},
		{"detach_decky", `{"decky":"web","lan":"c"}`, `LAN "c" does not exist`},
		{"remove_decky", `{"decky":"x"}`, `decky "x" does not exist`},
		{"update_decky", `{"decky":"x"}`, `decky "x" does not exist`},
		{"update_decky", `{"decky":"web","patch":{"forwards_l3":false}}`, becomesFalse},
		{"update_decky", `{"decky":"web","patch":{"forwards_l3":null}}`, becomesFalse},
	} {
		b.refused(c.op, c.payload, c.want)
	}
	b.hasMetEachOp()
	b.do("update_decky", `{"decky":"web","patch":{"forwards_l3":true}}`) // it flips nothing
	large := strings.Repeat("x", 262_100)
	b.do("update_decky", `{"decky":"db","patch":{"a":"`+large+`"}}`)
	b.refused("update_decky", `{"decky":"db","patch":{"b":"`+large+`"}}`,
		`PostgreSQL refused the edit: deckies.decky_config: 524240 bytes are more than 262144 (256 KiB): make it smaller`)
	// Each is six bytes in Go's JSON.
	b.do("update_decky", `{"decky":"db","patch":{"a":"`+strings.Repeat("<", 262_100)+`"}}`)
	for range 3 { // .4 to .6: .2 and .3 are taken
		b.do("add_decky", fmt.Sprintf(`{"name":"d%d","lan":"a"}`, len(b.read()["deckies"])))
	}
	b.refused("add_decky", `{"name":"x","lan":"a"}`, `LAN "a" has no free address in 10.0.0.0/29`)
	pgtest.Exec(t, b.conn, `UPDATE deckies SET decky_config = '[]' WHERE name = 'web'`)
	b.refused("update_decky", `{"decky":"web"}`, `decky_config of decky "web" is no JSON object: correct it by hand`)
}

func TestAnEditThatCollidesWithWhatSomebodyWritesByHandIsRefusedAndTheTransactionGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pgtest.Exec(t, b.conn, `
CREATE FUNCTION house_rule() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.name = 'forbidden' THEN RAISE EXCEPTION 'the house forbids it'; END IF; RETURN NEW; END $f$;
CREATE TRIGGER house_rule BEFORE INSERT ON lans FOR EACH ROW EXECUTE FUNCTION house_rule();
CREATE UNIQUE INDEX one_x ON lans (topology_id, x)`)
	b.do("add_lan", `{"name":"a","x":1}`)
	b.refused("add_lan", `{"name":"b","x":1}`, `the edit collides with what somebody wrote by hand: `+
		`duplicate key value violates unique constraint "one_x"`)
	b.refused("add_lan", `{"name":"forbidden"}`, `PostgreSQL refused the edit: the house forbids it`)
}

// TestARaceWithHandWrittenSQLIsARefusal has psql's part insert the same name, uncommitted until the edit waits for it.
func TestARaceWithHandWrittenSQLIsARefusal(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, hand, admin := db.Conn(t), db.Conn(t), db.Conn(t)
	b := benchOn(t, conn)
	pid := conn.PgConn().PID()
	const op, payload = "add_lan", `{"name":"a"}`
	mutation := b.claim(op, payload)
	pgtest.Exec(t, hand, `BEGIN`)
	pgtest.Exec(t, hand, `INSERT INTO lans (topology_id, name, subnet) SELECT id, 'a', '10.0.0.0/24' FROM topologies`)
	done := make(chan error, 1)
	go func() {
		_, err := b.work(mutation, op, payload)
		done <- err
	}()
	pgtest.Eventually(t, "the edit to wait", func() bool {
		return pgtest.Scan[int](t, admin, `SELECT cardinality(pg_blocking_pids($1))`, pid) == 1
	})
	pgtest.Exec(t, hand, `COMMIT`)
	if err := <-done; !isRefusal(err) || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}

func TestSubnetsAndAddressesAreTheLowestThatAreFree(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 3 {
		b.do("add_lan", fmt.Sprintf(`{"name":"l%d"}`, i))
	}
	b.do("remove_lan", `{"name":"l1"}`)
	b.do("add_lan", `{"name":"wide","subnet":"172.16.3.128/25"}`)
	b.do("add_lan", `{"name":"again"}`)
	g := b.do("add_lan", `{"name":"behind"}`)
	for name, want := range map[string]string{
		"l0": "172.16.0.0/24", "again": "172.16.1.0/24", "l2": "172.16.2.0/24", "behind": "172.16.4.0/24",
	} {
		if got := g.named("lans", name)["subnet"]; got != want {
			t.Errorf("%s has %s, want %s", name, got, want)
		}
	}
	const all = `INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'all', '172.16.0.0/12')`
	pgtest.Exec(t, b.conn, all, b.id)
	b.refused("add_lan", `{"name":"none"}`, `no /24 of 172.16.0.0/12 is free: give a subnet`)

	b.do("add_lan", `{"name":"six","subnet":"fd00::/126"}`)
	for _, name := range []string{"first", "second"} { // fd00:: is the network's, ::1 the gateway's; IPv6 has no broadcast
		b.do("add_decky", fmt.Sprintf(`{"name":%q,"lan":"six"}`, name))
	}
	b.refused("add_decky", `{"name":"third","lan":"six"}`, `LAN "six" has no free address in fd00::/126`)
	g = b.read()
	if a, z := g.named("deckies", "first")["ip"], g.named("deckies", "second")["ip"]; a != "fd00::2" || z != "fd00::3" {
		t.Errorf("%v, %v", a, z)
	}
}

func TestACancelledEditIsNoRefusal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := pgx.BeginFunc(t.Context(), b.conn, func(tx pgx.Tx) error {
		cancel()
		return Apply(ctx, tx, b.id, stream.AddLAN{Name: "a"})
	})
	if err == nil || isRefusal(err) {
		t.Errorf("%v", err)
	}
}

func TestAChangesetIsMadeWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.do("add_lan", `{"name":"a"}`)
	g := b.do("changeset", `{"ops":[
		{"op":"add_lan","payload":{"name":"b"}},
		{"op":"add_decky","payload":{"name":"web","lan":"b"}},
		{"op":"attach_decky","payload":{"decky":"web","lan":"a"}},
		{"op":"update_lan","payload":{"name":"b","x":1}},
		{"op":"remove_lan","payload":{"name":"a"}}]}`)
	if g.named("lans", "b")["x"] != 1.0 || len(g["deckies"]) != 1 || len(g["edges"]) != 1 || len(g["lans"]) != 1 {
		t.Errorf("%v", g)
	}
	b.refused("changeset", `{"ops":[
		{"op":"add_lan","payload":{"name":"c"}},
		{"op":"remove_decky","payload":{"decky":"web"}},
		{"op":"add_decky","payload":{"name":"x","lan":"nowhere"}}]}`, `ops[2]: LAN "nowhere" does not exist`)
	pgtest.Exec(t, b.conn, `CREATE UNIQUE INDEX one_x ON lans (topology_id, x)`)
	b.refused("changeset",
		`{"ops":[{"op":"add_lan","payload":{"name":"c"}},{"op":"add_lan","payload":{"name":"d","x":1}}]}`,
		`ops[1]: the edit collides with what somebody wrote by hand: duplicate key value violates unique constraint "one_x"`)
}
