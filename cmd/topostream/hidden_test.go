package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// oddity is what /readyz says to anybody of what is odd about the database.
const oddity = "database: something is odd about it"

// readyz is what /readyz says.
func readyz(t *testing.T, server string) string {
	t.Helper()
	res, err := http.Get(server + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// Rows that came while triggers were off (logical apply, pg_restore --disable-triggers) have no head.
func TestTopologiesThatCameWithoutTriggersAreNamedAndRepaired(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.heartbeat = 200 * time.Millisecond })
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `SET session_replication_role = replica`)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name, status, version) VALUES ('came', 'active', 7)`)
	id := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies`)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, state) VALUES ('`+id+`', 'add_lan', 'pending')`)
	pgtest.Exec(t, conn, `RESET session_replication_role`)
	named := "there are topologies without a head (such as " + id + ")"
	pgtest.Eventually(t, "a notice", func() bool { return strings.Contains(readyz(t, server.url), oddity) })
	if text := readyz(t, server.url); strings.Contains(text, id) {
		t.Errorf("anybody may read which topologies there are: %s", text)
	}
	if log := server.log.String(); !strings.Contains(log, named) || !strings.Contains(log, "migrate repair") {
		t.Error("the log does not have it")
	}
	if code, out, errOut := program(t, "migrate", "repair", "--database-url", db.URL); code != exitOK ||
		!strings.HasPrefix(out, "1 heads repaired\n") {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	pgtest.Eventually(t, "the notice to go", func() bool { return !strings.Contains(readyz(t, server.url), oddity) })
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(2) // its creation, and that it is active
	c.awaitSeq(emit(t, conn, id))
	admin := newOperator(t, server.url, "admin", stream.RoleAdmin)
	if r := admin.do("DELETE", "/topologies/"+id, ""); r.status != http.StatusNoContent {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// What a policy hides looks as if it were not there: whoever runs the server hears of it, before clients do.
func TestRowLevelSecurityThatHidesRowsFromTheServerIsNamed(t *testing.T) {
	t.Parallel()
	owner, superuser := pgtest.NewOwned(t, "hidden", "UTF8")
	if code, _, errOut := program(t, "migrate", "up", "--database-url", owner.URL); code != exitOK {
		t.Fatal(errOut)
	}
	server := serve(t, owner.URL, func(c *serveCmd) { c.heartbeat = 200 * time.Millisecond })
	ready := func() string { return readyz(t, server.url) }
	const named = "row level security is active on topologies for the role "
	pgtest.Eventually(t, "/readyz", func() bool { return strings.TrimSpace(ready()) == "ready" })
	admin := superuser.Conn(t)
	const whose = `SELECT tableowner FROM pg_tables WHERE tablename = 'topologies'`
	role := pgx.Identifier{pgtest.Scan[string](t, admin, whose)}
	operator := newOperator(t, server.url, "admin", stream.RoleAdmin)
	id := operator.create(`{"name":"seen"}`)
	pgtest.Exec(t, admin, `ALTER TABLE topologies ENABLE ROW LEVEL SECURITY`) // which its owner is above
	serveOn := func(addr string) (code int, errOut string) {
		code, _, errOut = program(t, "serve", "--addr", addr, "--database-url", owner.URL, "--jwt-secret", testSecret)
		return code, errOut
	}
	if code, errOut := serveOn("x"); code == exitOK || strings.Contains(errOut, named) {
		t.Errorf("%d %s", code, errOut)
	}
	pgtest.Exec(t, admin, `ALTER TABLE topologies FORCE ROW LEVEL SECURITY`)
	pgtest.Eventually(t, "a notice", func() bool { return strings.Contains(ready(), "the database hides its rows") })
	if !strings.Contains(server.log.String(), named) {
		t.Error("the log does not have it")
	}
	if text := ready(); !strings.Contains(text, "503") || strings.Contains(text, "role") {
		t.Error(text)
	}
	if r := operator.do("GET", "/topologies/"+id, ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("what cannot be seen: %d %s", r.status, r.body)
	}
	if r := operator.do("GET", "/topologies", ""); r.status != http.StatusServiceUnavailable {
		t.Errorf("a list of what cannot be seen: %d %s", r.status, r.body)
	}
	status, _, body := get(t, server.url+"/api/v1/topologies/"+id+"/events", "Accept", "text/event-stream")
	if status != http.StatusOK || !strings.Contains(body, "unavailable") { // to which a browser comes back
		t.Errorf("a stream of what cannot be seen: %d %s", status, body)
	}
	code, errOut := serveOn("127.0.0.1:0")
	if code != exitError || !strings.Contains(errOut, "the database hides its rows: "+named) ||
		!strings.Contains(errOut, "BYPASSRLS") {
		t.Errorf("%d %s", code, errOut)
	}
	pgtest.Exec(t, admin, `CREATE POLICY mine ON topologies FOR ALL TO `+role.Sanitize()+` USING (name <> 'x')`)
	if code, _, errOut := program(t, "migrate", "repair", "--database-url", owner.URL); code == exitOK ||
		!strings.Contains(errOut, "what is hidden is not gone") {
		t.Errorf("%d %s", code, errOut)
	}
	serve(t, owner.URL, nil) // what policies show is served, and that there are some is said
	pgtest.Exec(t, admin, `ALTER TABLE topologies DISABLE ROW LEVEL SECURITY`)
	pgtest.Eventually(t, "the notice to go", func() bool { return strings.TrimSpace(ready()) == "ready" })
}

// A server whose worker cannot work serves streams on, and says so.
func TestReadyzNamesWhatKeepsTheWorkerFromItsWork(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := serve(t, db.URL, withWorker)
	id := live(t, conn, 1)[0]
	const (
		named  = "mutations cannot be claimed until somebody mends this"
		mutate = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{"name":"a"}')`
		left   = `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`
	)
	pgtest.Exec(t, conn, `ALTER TABLE topology_parked RENAME COLUMN until TO hidden`)
	pgtest.Exec(t, conn, mutate, id)
	pgtest.Eventually(t, "a notice", func() bool {
		text := readyz(t, server.url)
		return strings.HasPrefix(text, "ready\n") && strings.Contains(text, named)
	})
	pgtest.Exec(t, conn, `ALTER TABLE topology_parked RENAME COLUMN hidden TO until`)
	pgtest.Eventually(t, "the mutation to be done", func() bool { return pgtest.Scan[int](t, conn, left) == 0 })
	pgtest.Eventually(t, "the notice to go", func() bool { return !strings.Contains(readyz(t, server.url), named) })
}

// Where the tables are found and where they would be made is decided in one place, also for a server that migrates.
func TestAServerThatMigratesMakesNoSecondInstallation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `CREATE SCHEMA topo`)
	elsewhere := pgtest.With(t, db.URL, "search_path", "topo")
	for _, args := range [][]string{
		{"serve", "--migrate", "--addr", "127.0.0.1:0", "--jwt-secret", testSecret}, {"migrate", "up"},
	} {
		code, _, errOut := program(t, append(args, "--database-url", elsewhere)...)
		if code != exitError || !strings.Contains(errOut, "in public, which the search path of this connection (topo)") {
			t.Errorf("%v: %d %s", args, code, errOut)
		}
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_tables WHERE tablename = 'topologies'`); n != 1 {
		t.Errorf("%d installations", n)
	}
}
