package sql_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// The legal changes, as the interface lists them. Whatever else is refused.
var (
	statusChanges = map[string][]string{
		"pending":      {"deploying", "torn_down"},
		"deploying":    {"active", "failed", "degraded", "tearing_down"},
		"active":       {"degraded", "tearing_down"},
		"degraded":     {"active", "tearing_down"},
		"failed":       {"tearing_down"},
		"tearing_down": {"torn_down", "degraded"},
		"torn_down":    {},
	}
	stateChanges = map[string][]string{
		"pending":  {"applying"},
		"applying": {"applied", "failed", "pending"},
		"applied":  {},
		"failed":   {},
	}
)

func TestEveryChangeOfStatusAndStateIsLegalOrRefusedAsTheInterfaceSays(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo')`)
	check(t, conn, statusChanges, `SELECT status FROM topologies`, `UPDATE topologies SET status = `, func(path []string) {
		pgtest.Exec(t, conn, `DELETE FROM topologies`)
		pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo')`)
		for _, status := range path {
			pgtest.Exec(t, conn, `UPDATE topologies SET status = '`+status+`'`)
		}
	})
	check(t, conn, stateChanges, `SELECT state FROM mutations`, `UPDATE mutations SET state = `, func(path []string) {
		pgtest.Exec(t, conn, `DELETE FROM topologies`)
		pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('demo')`)
		pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies`)
		for _, state := range path {
			pgtest.Exec(t, conn, `UPDATE mutations SET state = '`+state+`'`)
		}
	})
	contiguous(t, conn)
}

// check tries every change from every value, and every value that a row may not begin with. begin makes a row that
// took the path.
func check(t *testing.T, conn *pgx.Conn, legal map[string][]string, read, update string, begin func(path []string)) {
	t.Helper()
	for from, path := range paths(legal) {
		for to := range legal {
			if from == to {
				continue // no change
			}
			begin(path)
			before := pgtest.Scan[string](t, conn, state)
			_, err := conn.Exec(t.Context(), update+`'`+to+`'`)
			switch {
			case slices.Contains(legal[from], to):
				if now := pgtest.Scan[string](t, conn, read); err != nil || now != to {
					t.Errorf("%s → %s: %v, it is %s", from, to, err, now)
				}
			case err == nil:
				t.Errorf("%s → %s was not refused", from, to)
			default:
				want := from + " cannot become " + to
				if !strings.Contains(err.Error(), want) || pgtest.Scan[string](t, conn, state) != before {
					t.Errorf("%s → %s: %v, want %q and nothing stored", from, to, err, want)
				}
			}
		}
		begin(path)
		if _, err := conn.Exec(t.Context(), update+`NULL`); err == nil || !strings.Contains(err.Error(), "null is no sta") {
			t.Errorf("%s → null: %v", from, err)
		}
	}
}

// paths gives a way of legal changes from pending to each value.
func paths(legal map[string][]string) map[string][]string {
	found := map[string][]string{"pending": nil}
	for queue := []string{"pending"}; len(queue) > 0; queue = queue[1:] {
		for _, to := range legal[queue[0]] {
			if _, ok := found[to]; !ok {
				found[to] = append(slices.Clone(found[queue[0]]), to)
				queue = append(queue, to)
			}
		}
	}
	return found
}

func TestWhoMayCreateOperatorsInTheSchemaCannotBorrowTheServersRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `CREATE TABLE stolen (what text)`)
	// A better match for the reading functions' || than PostgreSQL's own, as anybody may make where CREATE on the schema
	// is PUBLIC's (before 15).
	for _, right := range []string{"uuid", "bigint"} {
		pgtest.Exec(t, conn, `CREATE FUNCTION steal(text, `+right+`) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN INSERT INTO stolen VALUES ($1); RETURN pg_catalog.concat($1, $2); END $$`)
		pgtest.Exec(t, conn, `CREATE OPERATOR || (LEFTARG = text, RIGHTARG = `+right+`, FUNCTION = steal)`)
	}
	if got := pgtest.Scan[string](t, conn, `SELECT 'a'::text || gen_random_uuid()`); len(got) != 37 ||
		pgtest.Scan[int](t, conn, `SELECT count(*) FROM stolen`) != 1 {
		t.Fatal("the operator does not steal: the test sees nothing")
	}
	pgtest.Exec(t, conn, `SELECT snapshot FROM topology_snapshots(ARRAY[$1::text::uuid], true)`, id)
	pgtest.Exec(t, conn, `SELECT event FROM topology_journal($1::text::uuid, 0, 1, 10, 10000)`, id)
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
	pgtest.Exec(t, conn, `SELECT topology_check_epoch(), topology_prune('1 hour', 5, 10)`)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM stolen`); n != 1 {
		t.Errorf("%d calls ran somebody else's operator", n-1)
	}
}
