package sql_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/retention"
	"topostream/pgbus/store"
	"topostream/sql"
	"topostream/stream"
)

// documentedGrants gives the statements of deploy/postgres/grants.sql for a role, with the role's name put in.
func documentedGrants(t *testing.T, role, name string) string {
	t.Helper()
	page, err := os.ReadFile("../deploy/postgres/grants.sql")
	must(t, err)
	m := regexp.MustCompile(`(?s)-- ` + role + `\n(.*?)\n\n`).FindSubmatch(page)
	if m == nil {
		t.Fatalf("grants.sql has no grants for %s", role)
	}
	return strings.ReplaceAll(string(m[1]), "topostream_"+role, pgx.Identifier{name}.Sanitize())
}

// Who does what the file says, makes the roles by the statements of its head and gives it to psql as the owner, is told
// of no error.
func TestTheGrantsRunWholeAfterTheStatementsOfTheirHead(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it starts a PostgreSQL of its own: left out with -short")
	}
	const file = "../deploy/postgres/grants.sql"
	page, err := os.ReadFile(file)
	must(t, err)
	var roles strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^--   (CREATE ROLE .*\n)`).FindAllSubmatch(page, -1) {
		roles.Write(m[1])
	}
	cluster := pgtest.Cluster(t) // the roles are the cluster's, and their names are fixed
	owner, superuser := pgtest.NewOwnedOn(t, cluster.URL("postgres"), "owner", "UTF8")
	out, err := superuser.Psql(t, roles.String())
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, sql.Up(t.Context(), owner.Conn(t)))
	for range 2 { // it may be run again
		if out, err := owner.Psql(t, "", "-f", file); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// Servers and workers go on through an upgrade without new grants: whoever had those of the version before has, after
// `migrate up`, those that grants.sql gives today.
func TestAfterAnUpgradeARoleHasTheGrantsOfTheNewVersion(t *testing.T) {
	t.Parallel()
	const rights = `
SELECT coalesce(string_agg(what, E'\n' ORDER BY what), '')
  FROM (SELECT p.proname || ' ' || a.privilege_type AS what, a.grantee FROM pg_proc p, aclexplode(p.proacl) a
        UNION ALL
        SELECT c.relname || ' ' || a.privilege_type, a.grantee FROM pg_class c, aclexplode(c.relacl) a
        UNION ALL
        SELECT c.relname || '.' || t.attname || ' ' || a.privilege_type, a.grantee
          FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a) r
 WHERE grantee = $1::text::regrole`
	statement := regexp.MustCompile(`(?s)GRANT (.*?) ON (FUNCTION )?(.*?) TO (.*?);`)
	for _, before := range []int32{4, 7, sql.Latest() - 1} {
		db := pgtest.New(t)
		conn := db.Conn(t)
		must(t, sql.Down(t.Context(), conn, before))
		roles := map[string]string{}
		for _, role := range []string{"reader", "injector", "server", "worker", "deployer"} {
			name := fmt.Sprintf("%s_%d", role, time.Now().UnixNano())
			roles[role] = name
			pgtest.Exec(t, conn, `CREATE ROLE `+name)
			t.Cleanup(func() {
				conn := db.Conn(t)
				pgtest.Exec(t, conn, `DROP OWNED BY `+name)
				pgtest.Exec(t, conn, `DROP ROLE `+name)
			})
			for _, m := range statement.FindAllStringSubmatch(documentedGrants(t, role, name), -1) {
				for object := range strings.SplitSeq(m[3], ", ") {
					// What this version has not yet cannot be granted.
					_, err := conn.Exec(t.Context(), "GRANT "+m[1]+" ON "+m[2]+object+" TO "+m[4])
					var pgErr *pgconn.PgError
					if err != nil && (!errors.As(err, &pgErr) || pgErr.Code != "42883" && pgErr.Code != "42P01") {
						t.Fatal(err)
					}
				}
			}
		}
		must(t, sql.Up(t.Context(), conn))
		for role, name := range roles {
			upgraded := pgtest.Scan[string](t, conn, rights, name)
			pgtest.Exec(t, conn, documentedGrants(t, role, name))
			if fresh := pgtest.Scan[string](t, conn, rights, name); fresh != upgraded {
				t.Errorf("from version %d: %s has\n%s\nwant\n%s", before, role, upgraded, fresh)
			}
		}
	}
}

func TestTheDocumentedGrantsAreEnoughWithAnEmptySearchPathAndNoMore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner := db.Conn(t)
	id := pgtest.Scan[string](t, owner, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	as := func(role string) (_ *pgx.Conn, databaseURL string) {
		name := fmt.Sprintf("%s_%d", role, time.Now().UnixNano()) // roles are the cluster's, not the database's
		pgtest.Exec(t, owner, `CREATE ROLE `+name+` LOGIN PASSWORD 'x'`)
		t.Cleanup(func() {
			conn := db.Conn(t)
			pgtest.Exec(t, conn, `DROP OWNED BY `+name)
			pgtest.Exec(t, conn, `DROP ROLE `+name)
		})
		pgtest.Exec(t, owner, documentedGrants(t, role, name))
		u, err := url.Parse(db.URL)
		must(t, err)
		u.User = url.UserPassword(name, "x")
		conn, err := pgx.Connect(t.Context(), u.String())
		must(t, err)
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		return conn, u.String()
	}
	refused := func(conn *pgx.Conn, statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v, want permission denied", statement, err)
		}
	}

	injector, _ := as("injector")
	pgtest.Exec(t, injector, `SET search_path = ''`)
	pgtest.Exec(t, injector, `UPDATE public.topologies SET status = 'deploying' WHERE name = 'demo'`)
	pgtest.Exec(t, injector, `INSERT INTO public.topologies (name) VALUES ('other')`)
	pgtest.Exec(t, injector, `INSERT INTO public.mutations (topology_id, op)
		SELECT id, 'add_lan' FROM public.topologies WHERE name = 'demo'`)
	pgtest.Exec(t, injector, `UPDATE public.mutations SET state = 'applying'`)
	pgtest.Exec(t, injector, `UPDATE public.mutations SET state = 'applied'`)
	pgtest.Exec(t, injector, `SELECT public.topology_emit(id, 'x', '{}') FROM public.topologies`)
	pgtest.Exec(t, injector, `DELETE FROM public.topologies WHERE name = 'other'`)
	refused(injector, `SELECT * FROM public.topology_settings`)
	refused(injector, `SELECT * FROM public.sse_tickets`)
	refused(injector, `INSERT INTO public.topology_events SELECT * FROM public.topology_events`)
	refused(injector, `UPDATE public.topology_heads SET seq = 0`)
	refused(injector, `SELECT public.topology_new_epoch()`)
	refused(injector, `INSERT INTO public.topology_edits (topology_id) VALUES ('`+id+`')`) // it could be silent
	refused(injector, `DELETE FROM public.topology_untold`)

	deployer, _ := as("deployer")
	pgtest.Exec(t, deployer, `UPDATE deckies SET state = 'running'`)
	refused(deployer, `INSERT INTO topology_edits (topology_id) VALUES ('`+id+`')`)
	refused(deployer, `DELETE FROM topology_untold`)
	refused(deployer, `UPDATE deckies SET name = 'x'`)

	reader, _ := as("reader")
	pgtest.Exec(t, reader, `SELECT * FROM topology_events, topology_heads, topologies, mutations, lans, deckies, edges`)
	refused(reader, `SELECT topology_emit('`+id+`', 'x', '{}')`)
	refused(reader, `SELECT topology_begin()`)
	refused(reader, `SELECT topology_identify()`)
	refused(reader, `SELECT topology_raise('{}')`)
	refused(reader, `SELECT * FROM topology_settings`)
	refused(reader, `SELECT hash FROM sse_tickets`)
	refused(reader, `DELETE FROM topologies`)

	server, serverURL := as("server")
	pgtest.Exec(t, server, `SELECT topology_check_epoch(), topology_prune('1 hour', NULL, 10)`)
	pgtest.Exec(t, server, `SELECT * FROM topology_snapshots(ARRAY['`+id+`']::uuid[], true),
		topology_journal('`+id+`', 0, 1, 10, 1000)`)
	pgtest.Exec(t, server, `SELECT topology_identify(), topology_raise_epoch(gen_random_uuid())`)
	pgtest.Exec(t, server, `SELECT FROM topology_identity(), topology_raise(ARRAY['`+id+`']::uuid[])`)
	pgtest.Exec(t, server, `SELECT FROM topology_light(ARRAY['`+id+`']::uuid[]), topology_document('`+id+`', true)`)
	pgtest.Exec(t, server, `SELECT FROM topology_heads_of(ARRAY['`+id+`']::uuid[])`)
	pgtest.Exec(t, server, `SELECT FROM topology_pages(ARRAY['`+id+`']::uuid[], ARRAY[0], 10, 1000)`)
	pgtest.Exec(t, server, `SELECT key FROM topology_settings`)
	pgtest.Exec(t, server, `SELECT version FROM topology_migrations`)
	refused(server, `SELECT topology_new_epoch()`)
	refused(server, `UPDATE topology_heads SET seq = 0`)
	refused(server, `UPDATE topologies SET version = 7`)
	refused(server, `UPDATE mutations SET state = 'applying'`)
	refused(server, `INSERT INTO topology_events SELECT * FROM topology_events`)
	everyCallOfTheStore(t, serverURL)

	worker, _ := as("worker")
	pgtest.Exec(t, worker, `SET search_path = ''`)
	pgtest.Exec(t, owner, `INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies`)
	pgtest.Exec(t, worker, `SELECT id FROM public.topologies ORDER BY id FOR NO KEY UPDATE`)
	pgtest.Exec(t, worker, `UPDATE public.mutations SET state = 'applying' WHERE state = 'pending'`)
	pgtest.Exec(t, worker, `INSERT INTO public.lans (topology_id, name, subnet) VALUES ('`+id+`', 'a', '10.0.0.0/24')`)
	pgtest.Exec(t, worker, `UPDATE public.mutations SET state = 'applied', result = '{}' WHERE state = 'applying'`)
	pgtest.Exec(t, worker, `UPDATE public.topologies SET status = 'degraded', reason = 'x'`)
	pgtest.Exec(t, worker, `SELECT public.topology_check_epoch(), version FROM public.topology_migrations`)
	pgtest.Exec(t, worker, `SELECT public.topology_identify() FROM public.topology_identity()`)
	refused(worker, `SELECT public.topology_raise_epoch(gen_random_uuid())`)
	refused(worker, `SELECT public.topology_raise('{}')`)
	refused(worker, `DELETE FROM public.topology_edits`)
	refused(worker, `INSERT INTO public.topology_edits (xid, topology_id) VALUES ('7', '`+id+`')`) // another's
	refused(worker, `DELETE FROM public.topology_untold`)
	refused(worker, `DELETE FROM public.topologies`)
	refused(worker, `UPDATE public.topology_heads SET seq = 0`)
	refused(worker, `SELECT public.topology_emit('`+id+`', 'x', '{}')`)
	refused(worker, `SELECT key FROM public.topology_settings`)
	refused(worker, `SELECT subject FROM public.sse_tickets`)
	contiguous(t, owner)
}

// everyCallOfTheStore does all that the REST API and the pruning do in the database.
func everyCallOfTheStore(t *testing.T, databaseURL string) {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), databaseURL)
	must(t, err)
	defer pool.Close()
	rest := store.New(pool, 0, nil)
	made, err := rest.CreateTopology(t.Context(), stream.NewTopology{
		Name:    "rest",
		LANs:    []stream.AddLAN{{Name: "a", IsDMZ: true}, {Name: "b"}},
		Deckies: []stream.AddDecky{{Name: "web-1", LAN: "a", ForwardsL3: true}},
	})
	must(t, err)
	for _, status := range []string{"deploying", "active"} {
		_, err := rest.ChangeStatus(t.Context(), made.ID, stream.StatusChange{Status: status})
		must(t, err)
	}
	expected := int64(0)
	mutation := stream.NewMutation{
		Op:              stream.OpRemoveLAN,
		Payload:         []byte(`{"name":"b"}`),
		IdempotencyKey:  "k",
		ExpectedVersion: &expected,
	}
	for range 2 {
		_, err = rest.Enqueue(t.Context(), made.ID, mutation)
		must(t, err)
	}
	_, err = rest.Topologies(t.Context(), nil, 10, 0, 1<<20)
	must(t, err)
	_, err = rest.Topology(t.Context(), made.ID, 1<<20)
	must(t, err)
	_, _, err = rest.Mutations(t.Context(), made.ID, stream.MutationQuery{Limit: 10}, 1<<20)
	must(t, err)
	must(t, rest.DeleteTopology(t.Context(), made.ID))
	_, err = retention.Events(t.Context(), pool, time.Hour, 1)
	must(t, err)
	_, err = retention.Mutations(t.Context(), pool, time.Hour)
	must(t, err)
	_, err = retention.Keys(t.Context(), pool)
	must(t, err)
	tickets := store.NewTickets(pool)
	ticket, _, err := tickets.Mint(t.Context(),
		stream.Principal{Subject: "ada", Role: stream.RoleViewer, Topologies: []stream.TopologyID{made.ID}})
	must(t, err)
	_, err = tickets.Redeem(t.Context(), ticket)
	must(t, err)
	_, err = retention.Tickets(t.Context(), pool)
	must(t, err)
}

func TestDumpAndRestoreKeepHeadsAndJournalAndRaiseTheEpochOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it runs pg_dump: left out with -short")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	needDumpFor(t, conn)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op)
		SELECT id, 'add_lan' FROM topologies, generate_series(1, 50)`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position % 2 = 0`)
	before := pgtest.Scan[string](t, conn, state)

	restored := pgtest.NewEmpty(t)
	dumped := program(t, nil, "pg_dump", "-d", db.URL)
	program(t, dumped, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", restored.URL)

	other := restored.Conn(t)
	if after := pgtest.Scan[string](t, other, state); after != before {
		t.Error("the restored database holds something else")
	}
	contiguous(t, other)
	history := pgtest.Scan[string](t, other, `SELECT history::text FROM topology_identity() WHERE other`)
	epoch := pgtest.Scan[int64](t, other, `SELECT topology_identify()`)
	if epoch < 1 {
		t.Errorf("the epoch is still %d", epoch)
	}
	if again := pgtest.Scan[int64](t, other, `SELECT topology_check_epoch()`); again != epoch {
		t.Errorf("the epoch rose again, from %d to %d", epoch, again)
	}
	if pgtest.Scan[string](t, other, `SELECT history::text FROM topology_identity() WHERE NOT other`) == history {
		t.Error("the restored database goes on with the history of the dumped one")
	}
	pgtest.Exec(t, other, `SELECT topology_raise(ARRAY[$1::text::uuid])`, id)
	if n := pgtest.Scan[int64](t, other, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id); n != epoch<<32+1 {
		t.Errorf("the first event after the restore is %d", n)
	}
}

// needDumpFor skips the test where the only pg_dump is of an older major version than conn's server: it refuses to
// dump that.
func needDumpFor(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	var dump int
	version := program(t, nil, "pg_dump", "--version")
	if _, err := fmt.Sscanf(string(version), "pg_dump (PostgreSQL) %d", &dump); err != nil {
		t.Fatalf("pg_dump --version says %q: %v", version, err)
	}
	if server := pgtest.Scan[int](t, conn, `SELECT current_setting('server_version_num')::int / 10000`); dump < server {
		t.Skipf("pg_dump %d does not dump a PostgreSQL %d server: put a newer pg_dump into PATH", dump, server)
	}
}

// program runs one of PostgreSQL's programs on in and gives what it printed.
func program(t *testing.T, in []byte, name string, args ...string) []byte {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := osexec.CommandContext(t.Context(), pgtest.Bin(t, name), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, errOut.String())
	}
	return out.Bytes()
}
