package sql_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

func TestWhatSomebodyShouldMendIsNamed(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	role := "forced_" + strings.ToLower(rand.Text())
	odd := func() string {
		t.Helper()
		s, _, err := sql.Odd(t.Context(), conn)
		must(t, err)
		return s
	}
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('goes'), ('stays')`)
	gone := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 'goes'`)
	stays := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 'stays'`)
	if s := odd(); s != "" {
		t.Errorf("in a whole database: %s", s)
	}
	for _, c := range []struct{ do, want, undo string }{
		{
			`ALTER TABLE lans DISABLE TRIGGER record_insert`, "triggers are off (lans.record_insert)",
			`ALTER TABLE lans ENABLE TRIGGER record_insert`,
		},
		{
			`CREATE ROLE {role}; ALTER TABLE lans OWNER TO {role};
			 ALTER TABLE lans ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
			"row level security is forced on lans for their owner",
			`ALTER TABLE lans DISABLE ROW LEVEL SECURITY; ALTER TABLE lans OWNER TO CURRENT_USER; DROP ROLE {role}`,
		},
		{`SET default_transaction_read_only = on`, "transactions are read-only", `RESET default_transaction_read_only`},
		{
			`SET session_replication_role = replica; DELETE FROM topologies WHERE name = 'goes';
			 RESET session_replication_role`, "heads of topologies that are gone (such as " + gone + ")",
			`SELECT topology_repair_gone()`,
		},
		{
			`SET session_replication_role = replica; INSERT INTO topologies (name) VALUES ('came');
			 RESET session_replication_role`, "topologies without a head (such as ",
			`SELECT topology_repair(id) FROM topologies`,
		},
		{
			`SET session_replication_role = replica; INSERT INTO mutations (topology_id, op, payload)
			 SELECT id, 'add_lan', '{"name":"x"}' FROM topologies WHERE name = 'stays';
			 RESET session_replication_role`, "mutations that were not counted (such as in topology " + stays + ")",
			`SELECT topology_repair(id) FROM topologies`,
		},
		{
			`SET session_replication_role = replica; UPDATE topologies SET status = 'failed', reason = 'by hand'
			  WHERE name = 'stays'; RESET session_replication_role`, "whose status no event says (such as " + stays + ")",
			`SELECT topology_repair(id) FROM topologies`,
		},
		{
			`SET session_replication_role = replica; UPDATE topologies SET status = 'pending', reason = NULL
			  WHERE name = 'stays'; RESET session_replication_role`, "whose status no event says (such as " + stays + ")",
			`SELECT topology_repair(id) FROM topologies`,
		},
	} {
		exec := func(statements string) {
			t.Helper()
			_, err := conn.PgConn().Exec(t.Context(), strings.ReplaceAll(statements, "{role}", role)).ReadAll()
			must(t, err)
		}
		exec(c.do)
		if s := odd(); !strings.Contains(s, c.want) || strings.Contains(s, "\n") {
			t.Errorf("%s: %s", c.do, s)
		}
		exec(c.undo)
		if s := odd(); s != "" {
			t.Errorf("%s: %s", c.undo, s)
		}
	}
	const last = `SELECT type FROM topology_events WHERE topology_id = $1::text::uuid ORDER BY seq DESC LIMIT 1`
	if got := pgtest.Scan[string](t, conn, last, gone); got != "deleted" {
		t.Errorf("the last event of what is gone is %s", got)
	}
}

func TestAServerDoesNotBeginWhereItCannotWork(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `CREATE SCHEMA theirs`)
	pgtest.Exec(t, conn, `CREATE TABLE theirs.edges (a int)`)
	for setting, want := range map[string]error{
		`session_replication_role = replica`: sql.ErrSilent,
		`search_path = theirs, public`:       sql.ErrMixed,
		`search_path = public, theirs`:       nil,
	} {
		pgtest.Exec(t, conn, `SET `+setting)
		if _, err := sql.Check(t.Context(), conn); !errors.Is(err, want) {
			t.Errorf("%s: %v", setting, err)
		}
		pgtest.Exec(t, conn, `RESET ALL`)
	}
}
