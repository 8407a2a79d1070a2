package sql_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// A migration is read in the encoding of whatever database it is run in.
func TestMigrationsAreWrittenInASCII(t *testing.T) {
	t.Parallel()
	files, err := sql.Files.ReadDir(".")
	must(t, err)
	for _, f := range files {
		text, err := sql.Files.ReadFile(f.Name())
		must(t, err)
		for n, line := range strings.Split(string(text), "\n") {
			if i := strings.IndexFunc(line, func(r rune) bool { return r > unicode.MaxASCII }); i >= 0 {
				t.Errorf("%s:%d: %q", f.Name(), n+1, line[i:])
			}
		}
	}
}

// Where the tables are found and where they are made is decided in one place.
func TestNoSecondInstallationIsMadeUnasked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('kept')`)
	installations := func() string {
		const schemas = `SELECT string_agg(schemaname, ' ' ORDER BY 1) FROM pg_tables WHERE tablename = 'topologies'`
		return pgtest.Scan[string](t, conn, schemas)
	}
	// A schema that comes before the one that has the tables, as one of the role's name does.
	pgtest.Exec(t, conn, `CREATE SCHEMA topo`)
	path := func(path string) *pgx.Conn {
		t.Helper()
		return (&pgtest.DB{URL: pgtest.With(t, db.URL, "search_path", path)}).Conn(t)
	}
	before := path("topo,public")
	must(t, sql.Down(t.Context(), before, sql.Latest()-1))
	must(t, sql.Up(t.Context(), before))
	if got := installations(); got != "public" {
		t.Errorf("installations in %s", got)
	}
	// A path that does not name it.
	elsewhere := path("topo")
	err := sql.Up(t.Context(), elsewhere)
	if !errors.Is(err, sql.ErrElsewhere) ||
		!strings.Contains(err.Error(), "in public, which the search path of this connection (topo)") {
		t.Errorf("%v", err)
	}
	if got := installations(); got != "public" {
		t.Errorf("installations in %s", got)
	}
	must(t, sql.UpBeside(t.Context(), elsewhere))
	must(t, sql.Up(t.Context(), elsewhere)) // it is found now
	n := pgtest.Scan[int](t, elsewhere, `SELECT count(*) FROM topologies`)
	if got := installations(); got != "public topo" || n != 0 {
		t.Errorf("installations in %s; %d topologies in the new one", got, n)
	}
	// A path that names nothing.
	err = sql.Up(t.Context(), path("nowhere"))
	if err == nil || !strings.Contains(err.Error(), "(nowhere) names no schema that exists") {
		t.Errorf("%v", err)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topologies`); n != 1 {
		t.Errorf("%d topologies are left in public", n)
	}
}

// What a function of ours reads or writes is the same under whatever settings its caller has.
func TestAnEmittedEventIsTheSameUnderEachReadingOfStrings(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	id := topologies(t, conn, 1)[0]
	texts := []string{`a"b`, "a\rb\"c", "a\nb", `a\b`, `a\\"b`, "it's", "é"}
	const emit = `SELECT topology_emit($1::text::uuid, $2, jsonb_build_object('what', $3::text))`
	for _, setting := range []string{"on", "off"} {
		pgtest.Exec(t, conn, `SET standard_conforming_strings = `+setting)
		for _, text := range texts {
			if _, err := conn.Exec(t.Context(), emit, id, text, ""); err == nil || !strings.Contains(err.Error(), "malformed") {
				t.Errorf("the type %q with %s: %v", text, setting, err)
			}
			pgtest.Exec(t, conn, emit, id, "by.hand", text)
		}
	}
	const events = `SELECT topology_event_json(e.topology_id, e.seq, e.type, e.payload, e.at)
		FROM topology_events e WHERE e.type = 'by.hand' ORDER BY e.seq`
	rows, err := conn.Query(t.Context(), events)
	must(t, err)
	written, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	for i, want := range append(texts, texts...) {
		var event struct{ Payload struct{ What string } }
		if err := json.Unmarshal([]byte(written[i]), &event); err != nil || event.Payload.What != want ||
			strings.ContainsAny(written[i], "\r\n") {
			t.Errorf("%s: %v, want %q", written[i], err, want)
		}
	}
	if len(written) != 2*len(texts) {
		t.Errorf("%d events", len(written))
	}
}
