package sql_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// minors are the migrations that begin a minor version of the program: they alone may change what the version before
// uses, and say so by additive = false.
var minors = []int32{1}

// schemaParts is what a program may use of the schema, one row a thing: its name, and what of it must stay.
const schemaParts = `
WITH tables AS (SELECT c.oid, c.relname, c.relfilenode FROM pg_class c
                 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v')
                   AND c.relname NOT IN ('topology_schema_version', 'seen', 'going'))
SELECT 'table ' || relname, 'whose file is ' || relfilenode FROM tables
 UNION ALL
SELECT 'column ' || relname || '.' || attname, format_type(atttypid, atttypmod)
       || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
       || CASE WHEN atthasdef OR attidentity <> '' THEN ' DEFAULT' ELSE '' END
  FROM tables JOIN pg_attribute ON attrelid = oid WHERE attnum > 0 AND NOT attisdropped
 UNION ALL
SELECT 'constraint ' || relname || '.' || conname, '' FROM tables t JOIN pg_constraint ON conrelid = t.oid
 WHERE contype IN ('c', 'f', 'x')
 UNION ALL
SELECT 'unique index ' || relname || '.' || indexrelid::regclass, '' FROM tables t JOIN pg_index ON indrelid = t.oid
 WHERE indisunique
 UNION ALL
SELECT 'function ' || p.oid::regprocedure, pg_get_function_result(p.oid) FROM pg_proc p
 WHERE p.pronamespace = current_schema()::regnamespace`

func parts(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	rows, err := conn.Query(t.Context(), schemaParts)
	must(t, err)
	all := map[string]string{}
	var name, what string
	_, err = pgx.ForEachRow(rows, []any{&name, &what}, func() error { all[name] = what; return nil })
	must(t, err)
	return all
}

// takenFrom lists what a program that knows the schema as it was before cannot rely on any more.
func takenFrom(before, after map[string]string) (wrong []string) {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		// That a constraint or an index goes makes nobody fail.
		if what, there := after[name]; there && what != before[name] {
			wrong = append(wrong, name+": "+before[name]+", now "+what)
		} else if !there && !restricts.MatchString(name) {
			wrong = append(wrong, name+" is gone")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		m := ofTable.FindStringSubmatch(name)
		if _, there := before[name]; there || m == nil || before["table "+m[2]] == "" {
			continue
		}
		if m[1] != "column" {
			wrong = append(wrong, name+" refuses what the version before writes")
		} else if mustBeGiven.MatchString(after[name]) {
			wrong = append(wrong, name+" must be given: "+after[name])
		}
	}
	return wrong
}

var (
	restricts   = regexp.MustCompile(`^(constraint|unique index) `)
	ofTable     = regexp.MustCompile(`^(column|constraint|unique index) ([^.]+)\.`)
	mustBeGiven = regexp.MustCompile(` NOT NULL$`)
)

// Servers, workers and writers of the version before go on working on the schema of the next. That they do is shown by
// testdata/upgrade/check; here each migration is held against the schema that it found.
func TestMigrationsWithinAMinorVersionOnlyAddAndNoneWaitsLongForALock(t *testing.T) {
	t.Parallel()
	conn := pgtest.NewEmpty(t).Conn(t)
	to := func(version int32) { must(t, sql.Down(t.Context(), conn, version)) } // which goes up, too
	to(0)
	for _, statement := range []string{
		`CREATE TABLE seen (tag text, version int, lock_timeout text)`,
		`CREATE TABLE going (to_version) AS SELECT 0`, // tern resets all settings, so that this cannot be one
		`CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		     INSERT INTO public.seen SELECT tg_tag, to_version, current_setting('lock_timeout') FROM public.going;
		 END $$`,
		`CREATE EVENT TRIGGER see ON ddl_command_start EXECUTE FUNCTION see()`,
	} {
		pgtest.Exec(t, conn, statement)
	}
	var before map[string]string
	for version := int32(1); version <= sql.Latest(); version++ {
		pgtest.Exec(t, conn, `UPDATE going SET to_version = $1`, version)
		to(version)
		after := parts(t, conn)
		additive := pgtest.Scan[bool](t, conn, `SELECT additive FROM topology_migrations WHERE version = $1`, version)
		if begins := slices.Contains(minors, version); additive == begins {
			t.Errorf("migration %d: additive is %v, and that it begins a minor version %v", version, additive, begins)
		}
		for _, wrong := range takenFrom(before, after) {
			if additive {
				t.Errorf("migration %d: %s", version, wrong)
			}
		}
		before = after
	}
	pgtest.Exec(t, conn, `UPDATE going SET to_version = 0`)
	to(0)
	const waits = `SELECT count(*) FROM seen WHERE lock_timeout <> '1s'`
	if n := pgtest.Scan[int](t, conn, waits); n > 0 {
		t.Errorf("%d statements of migrations wait for a lock for as long as it takes", n)
	}
	const versions = `SELECT count(DISTINCT version) FROM seen`
	if n := pgtest.Scan[int](t, conn, versions); n != int(sql.Latest())+1 { // and the way down
		t.Errorf("statements of %d migrations were seen", n)
	}
}

func TestWhatIsNotAdditiveIsFound(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	before := parts(t, conn)
	for _, c := range []struct{ statement, want string }{
		{`DROP TABLE sse_tickets`, "table sse_tickets is gone"},
		{`ALTER TABLE lans RENAME TO networks`, "table lans is gone"},
		{`ALTER TABLE lans DROP COLUMN x`, "column lans.x is gone"},
		{`ALTER TABLE lans RENAME COLUMN x TO abscissa`, "column lans.x is gone"},
		{`ALTER TABLE mutations ALTER COLUMN lease SET NOT NULL`, "column mutations.lease: uuid, now uuid NOT NULL"},
		{
			`ALTER TABLE mutations ALTER COLUMN state DROP DEFAULT`,
			"column mutations.state: text NOT NULL DEFAULT, now text NOT NULL",
		},
		{
			`ALTER TABLE mutations ALTER COLUMN attempt TYPE bigint`,
			"column mutations.attempt: integer NOT NULL DEFAULT, now bigint",
		},
		{`ALTER TABLE lans ADD COLUMN z int NOT NULL`, "column lans.z must be given: integer NOT NULL"},
		{`ALTER TABLE lans ADD COLUMN z uuid DEFAULT gen_random_uuid()`, "table lans: whose file is "},
		{`ALTER TABLE lans ADD CONSTRAINT few CHECK (x < 9)`, "constraint lans.few refuses "},
		{`CREATE UNIQUE INDEX one ON lans (subnet)`, "unique index lans.one refuses "},
		{`DROP FUNCTION topology_emit(uuid, text, jsonb)`, "function topology_emit(uuid,text,jsonb) is gone"},
		{`ALTER TABLE lans ADD COLUMN z int NOT NULL DEFAULT 0, DROP CONSTRAINT lans_pkey CASCADE`, ""},
		{`CREATE TABLE more (id int PRIMARY KEY, n int NOT NULL UNIQUE CHECK (n > 0))`, ""},
	} {
		pgtest.Exec(t, conn, `BEGIN`)
		pgtest.Exec(t, conn, c.statement)
		wrong := takenFrom(before, parts(t, conn))
		pgtest.Exec(t, conn, `ROLLBACK`)
		found := slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, c.want) })
		if found != (c.want != "") || !found && len(wrong) > 0 {
			t.Errorf("%s: %q", c.statement, wrong)
		}
	}
}

// Who adds a migration must say which commit has the schema before it, or the check begins with older ones alone.
func TestTheUpgradeCheckBeginsWithTheSchemaBeforeThisOne(t *testing.T) {
	t.Parallel()
	before, err := os.ReadFile("../testdata/upgrade/before")
	must(t, err)
	wanted := fmt.Sprintf(`(?m)^[0-9a-f]{40} schema %d\b`, sql.Latest()-1)
	if !regexp.MustCompile(wanted).Match(before) {
		t.Errorf("testdata/upgrade/before names no commit of schema %d:\n%s", sql.Latest()-1, before)
	}
}
