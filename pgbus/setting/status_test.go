package setting

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/source/wal"
	"topostream/sql"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect opens a connection like the database's test ones, but for what change changes.
func connect(t *testing.T, db *pgtest.DB, change func(*pgx.ConnConfig)) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(db.URL)
	must(t, err)
	change(cfg)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may be closed by then
	return conn
}

// newRole makes a role that can log in, and gives what connects as that role.
func newRole(t *testing.T, db *pgtest.DB, options string) (name string, as func(*pgx.ConnConfig)) {
	t.Helper()
	name = "role_" + strings.ToLower(rand.Text())
	db.Exec(t, `CREATE ROLE `+name+` LOGIN PASSWORD 'x' `+options)
	t.Cleanup(func() { db.Exec(t, `DROP ROLE `+name) })
	return name, func(cfg *pgx.ConnConfig) { cfg.User, cfg.Password = name, "x" }
}

// able is a database that has nothing in the way of the bus wal.
func able() Status {
	return Status{
		Version: 140000, WALLevel: "logical", Slots: Usage{1, 100}, Senders: Usage{2, 100},
		Publication: Publication{Name: "p", Exists: true, Table: true, Insert: true},
	}
}

func TestWhatMustBeChangedForTheBusWALIsSaid(t *testing.T) {
	t.Parallel()
	const own, other = true, false
	for name, c := range map[string]struct {
		change func(*Status)
		want   []string // a part of each problem
	}{
		"nothing":     {func(*Status) {}, nil},
		"the version": {func(s *Status) { s.Version = 139999 }, []string{"server_version is 13: "}},
		"wal_level":   {func(s *Status) { s.WALLevel = "replica" }, []string{"wal_level is replica: ALTER SYSTEM"}},
		"a publication without the table": {
			func(s *Status) { s.Publication.Name, s.Publication.Table = "a b", false },
			[]string{`publication a b does not hold topology_events: ALTER PUBLICATION "a b" ADD TABLE topology_events`},
		},
		"a publication that is not made yet": {func(s *Status) { s.Publication = Publication{Name: "p"} }, nil},
		"a role": {
			func(s *Status) {
				s.Roles = []Role{{"a", true, own}, {"b", false, other}, {"c", true, other}, {"d", false, other}}
			},
			[]string{`role b may not replicate: ALTER ROLE "b" REPLICATION`, "role d may not replicate"},
		},
		"the role of the command, if there is no other": {
			func(s *Status) { s.Roles = []Role{{"a", false, own}} }, []string{"role a may not replicate"},
		},
		"the role of the command beside others, which only runs it": {
			func(s *Status) { s.Roles = []Role{{"a", false, own}, {"b", true, other}} }, nil,
		},
		"a role behind the one of the command": {
			func(s *Status) { s.Roles = []Role{{"a", false, own}, {"b", false, other}} }, []string{"role b may"},
		},
		"several at once": {
			func(s *Status) { s.Version, s.WALLevel = 90600, "minimal" },
			[]string{"server_version is 9", "wal_level is minimal"},
		},
	} {
		s := able()
		c.change(&s)
		got := s.Missing()
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestEachServerThatHasNoSlotYetWantsASlotAndASender(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		servers, readers, used, most int
		want                         string // of max_…; empty: nothing is missing
	}{
		{0, 0, 9, 10, ""}, // one that is to come
		{0, 0, 10, 10, "is 10 with 0 free: servers and workers here want 1: ALTER SYSTEM SET max_ = 13, and"},
		{1, 0, 9, 10, ""},
		{3, 0, 7, 10, ""},
		{3, 0, 8, 10, "is 10 with 2 free: servers and workers here want 3: ALTER SYSTEM SET max_ = 13, and"},
		{3, 1, 8, 10, ""},
		{3, 1, 9, 10, "is 10 with 1 free: servers and workers here want 2: ALTER SYSTEM SET max_ = 13, and"},
		{1, 1, 10, 10, ""}, // all have one
		{2, 2, 10, 10, ""},
		{0, 2, 10, 10, ""},
		{2, 1, 10, 10, "is 10 with 0 free: servers and workers here want 1: ALTER SYSTEM SET max_ = 13, and"},
	} {
		for name, usage := range map[string]func(*Status) *Usage{
			"max_replication_slots": func(s *Status) *Usage { return &s.Slots },
			"max_wal_senders":       func(s *Status) *Usage { return &s.Senders },
		} {
			s := able()
			s.Servers, s.Readers = c.servers, make([]Reader, c.readers)
			*usage(&s) = Usage{c.used, c.most}
			var want []string
			if c.want != "" {
				want = []string{name + " " + strings.ReplaceAll(c.want, "max_", name)}
			}
			if got := s.Missing(); !slices.EqualFunc(got, want, strings.Contains) {
				t.Errorf("%s, %+v: %q, want %q", name, c, got, want)
			}
		}
	}
}

func TestTheBusOfADatabaseIsChangedWithItsPublication(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	status := func(bus string, want Publication) {
		t.Helper()
		s, err := Read(t.Context(), conn)
		if want.Name = "topostream"; err != nil || s.Setting != bus || s.Publication != want {
			t.Errorf("%v, the bus is %s, %+v, want %s, %+v", err, s.Setting, s.Publication, bus, want)
		}
	}
	whole := Publication{Exists: true, Table: true, Insert: true}
	status(Notify, Publication{})
	must(t, Set(t.Context(), conn, Notify))
	status(Notify, Publication{}) // which takes none
	must(t, Set(t.Context(), conn, WAL))
	status(WAL, whole)
	for _, publish := range []string{"insert, delete", "update", ""} { // by hand
		pgtest.Exec(t, conn, `ALTER PUBLICATION topostream SET (publish = '`+publish+`')`)
		insert := strings.Contains(publish, "insert")
		status(WAL, Publication{Exists: true, Table: true, Insert: insert, More: publish != ""})
		must(t, Set(t.Context(), conn, WAL))
		status(WAL, whole)
	}
	must(t, Set(t.Context(), conn, Notify))
	status(Notify, whole)
	pgtest.Exec(t, conn, `ALTER PUBLICATION topostream DROP TABLE topology_events`)
	err := Set(t.Context(), conn, WAL)
	refused, ok := errors.AsType[*WALError](err)
	const why = "the bus wal cannot work yet:\n  publication topostream does not hold topology_events: "
	if !ok || len(refused.Problems) != 1 || !strings.HasPrefix(err.Error(), why) {
		t.Errorf("%v", err)
	}
	status(Notify, Publication{Exists: true, Insert: true})
	must(t, Set(t.Context(), conn, Notify)) // nothing is in its way
	if err := Set(t.Context(), conn, "telegraph"); err == nil {
		t.Error("the bus is another one")
	} else if _, right := errors.AsType[*RightError](err); right {
		t.Errorf("no right is missing: %v", err)
	}
}

// Whoever owns the tables and nothing else may not even look into most schemas.
func TestAPlainOwnerChangesTheBusThereAndBack(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEmpty(t)
	owner, asOwner := newRole(t, db, `REPLICATION`)
	database := pgtest.Scan[string](t, db.Conn(t), `SELECT quote_ident(current_database())`)
	db.Exec(t, `GRANT CREATE ON DATABASE `+database+` TO `+owner)
	t.Cleanup(func() { db.Exec(t, `DROP OWNED BY `+owner) })
	db.Exec(t, `CREATE SCHEMA topo AUTHORIZATION `+owner)
	conn := connect(t, db, func(cfg *pgx.ConnConfig) {
		asOwner(cfg)
		cfg.RuntimeParams["search_path"] = "topo"
	})
	must(t, sql.Up(t.Context(), conn))
	for _, bus := range []string{WAL, WAL, Notify, WAL, Notify} {
		must(t, Set(t.Context(), conn, bus))
		s, err := Read(t.Context(), conn)
		must(t, err)
		if s.Setting != bus || !s.Publication.Table || len(s.Missing()) > 0 {
			t.Errorf("%s: %+v: %v", bus, s, s.Missing())
		}
	}
}

func TestAStatusNamesWhoReadsAndWhoMayRead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	plain, asPlain := newRole(t, db, "")
	for _, name := range []string{"topostream listen", "topostream mutator listen", "psql"} {
		connect(t, db, func(cfg *pgx.ConnConfig) {
			cfg.RuntimeParams["application_name"] = name
			if name != "psql" {
				asPlain(cfg)
			}
		})
	}
	reader := connect(t, db, func(cfg *pgx.ConnConfig) { cfg.RuntimeParams["application_name"] = "topostream wal" })
	slot := wal.SlotPrefix + strings.ToLower(rand.Text())
	for _, name := range []string{slot, "other_" + slot} {
		pgtest.Exec(t, reader, `SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)`, name)
	}
	s, err := Read(t.Context(), conn)
	must(t, err)
	own := pgtest.Scan[string](t, conn, `SELECT current_user::text`)
	roles := []Role{{own, true, true}, {plain, false, false}}
	slices.SortFunc(roles, func(a, b Role) int { return strings.Compare(a.Name, b.Name) })
	if !reflect.DeepEqual(s.Roles, roles) || s.Servers != 2 {
		t.Errorf("%d servers, roles %+v, want %+v", s.Servers, s.Roles, roles)
	}
	pid := int64(reader.PgConn().PID())
	if len(s.Readers) != 1 || s.Readers[0].Slot != slot || s.Readers[0].PID == nil || *s.Readers[0].PID != pid ||
		s.Readers[0].Name != "topostream wal" || s.Readers[0].Retained < 0 {
		t.Errorf("%+v, want %s of %d", s.Readers, slot, pid)
	}
	const most = `SELECT current_setting('max_replication_slots') || ' ' || current_setting('max_wal_senders')
		|| ' ' || current_setting('server_version_num') || ' ' || current_setting('wal_level')`
	want := strings.Fields(pgtest.Scan[string](t, conn, most))
	got := []string{strconv.Itoa(s.Slots.Most), strconv.Itoa(s.Senders.Most), strconv.Itoa(s.Version), s.WALLevel}
	if !slices.Equal(got, want) || s.Slots.Used < 2 {
		t.Errorf("%q, %+v, want %q", got, s.Slots, want)
	}
}

func TestWhatCannotBeReadOfABusIsAnError(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA none`)
	for table, want := range map[string]string{
		"pg_stat_replication": "read the bus", "pg_publication": "look for the publication topostream",
		"pg_roles": "read the roles", "pg_replication_slots": "read the replication slots",
	} {
		// A view of that name without any column that is asked for.
		db.Exec(t, `CREATE SCHEMA fake_`+table)
		db.Exec(t, `CREATE VIEW fake_`+table+`.`+table+` AS SELECT 1 / (n - n) AS nothing FROM generate_series(1, 1) n`)
		conn := connect(t, db, func(cfg *pgx.ConnConfig) {
			cfg.RuntimeParams["search_path"] = "fake_" + table + ", pg_catalog, public"
		})
		if table == "pg_stat_replication" {
			must(t, conn.Close(t.Context()))
		}
		_, err := Read(t.Context(), conn)
		for _, err := range []error{err, Set(t.Context(), conn, Notify)} {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%s: %v, want %s", table, err, want)
			}
		}
	}
}

func TestWhoLacksARightIsToldWhoHasIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, as := newRole(t, db, "REPLICATION")
	conn := connect(t, db, as)
	refused := func(bus, what, advice string) {
		t.Helper()
		err := Set(t.Context(), conn, bus)
		right, ok := errors.AsType[*RightError](err)
		if !ok || !strings.HasPrefix(right.What, what) || !strings.Contains(right.Advice, advice) ||
			err.Error() != right.What+": "+right.Advice {
			t.Errorf("%v, want %s: %s", err, what, advice)
		}
	}
	refused(WAL, "make the publication topostream: ", "GRANT CREATE ON DATABASE")
	refused(Notify, "set the bus: ", "`topostream migrate up`")
	if err := advise(io.EOF, "none"); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestAStatusNamesThePreparedTransactionsThatASlotWaitsFor(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Cluster(t, "max_prepared_transactions=5").URL("postgres"))
	conn := db.Conn(t)
	for _, want := range [][]string{{}, {"forgotten"}} {
		s, err := Read(t.Context(), conn)
		must(t, err)
		if !slices.Equal(s.Prepared, want) {
			t.Errorf("%v, want %v", s.Prepared, want)
		}
		pgtest.Exec(t, conn, `BEGIN`)
		pgtest.Exec(t, conn, `SELECT pg_current_xact_id()`)
		if len(want) == 0 {
			pgtest.Exec(t, conn, `PREPARE TRANSACTION 'forgotten'`)
		} else {
			pgtest.Exec(t, conn, `ROLLBACK`)
		}
	}
	pgtest.Exec(t, conn, `ROLLBACK PREPARED 'forgotten'`)
}
