package main

import (
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

func TestBusStatusSaysWhichBusItIsAndWhoReadsTheWAL(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	says := func(parts ...string) {
		t.Helper()
		code, out, errOut := program(t, "bus", "status", "--database-url", db.URL)
		for _, part := range parts {
			if code != exitOK || errOut != "" || !strings.Contains(strings.Join(strings.Fields(out), " "), part) {
				t.Errorf("%d %s%s, want %q", code, out, errOut, part)
			}
		}
	}
	says("bus: notify", "publication: topostream, not made yet", "wal_level: logical", "role: postgres may replicate",
		"0 have a slot", "for the bus wal: nothing is missing")
	if code, out, errOut := program(t, "bus", "wal", "--database-url", db.URL); code != exitOK ||
		!strings.HasPrefix(out, "bus: wal") {
		t.Fatalf("%d %s%s", code, out, errOut)
	}
	server := startServer(t, db.URL)
	streaming(t, server)
	says("bus: wal", "publication: topostream, inserts on topology_events", "servers and workers: 1 LISTEN, 1 have a slot",
		"slot: topostream_", "of topostream wal (pid ")
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `ALTER PUBLICATION topostream SET (publish = 'insert, delete')`)
	says("pruning is sent, too")
	setBus(t, db.URL, "wal")
	says("publication: topostream, inserts on topology_events")
	setBus(t, db.URL, "notify")
	says("bus: notify")
	setBus(t, db.URL, "notify") // again
}

func TestBusWALSaysWhatToChangeAndChangesNothing(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t, "wal_level=replica", "max_replication_slots=0", "max_wal_senders=0")
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	code, out, errOut := program(t, "bus", "wal", "--database-url", db.URL)
	for _, want := range []string{
		"wal_level is replica: ALTER SYSTEM SET wal_level = 'logical'", "max_replication_slots is 0", "max_wal_senders is 0",
		"restart PostgreSQL",
	} {
		if code != exitError || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%d %s%s, want %q", code, out, errOut, want)
		}
	}
	if bus := pgtest.Scan[string](t, conn, `SELECT bus FROM topology_settings`); bus != "notify" ||
		pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_publication`) != 0 {
		t.Errorf("the bus is %s", bus)
	}
}

func TestBusWALNamesTheRoleThatMayNotReplicate(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	pgtest.Exec(
		t,
		conn,
		`CREATE ROLE plain LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE `+pgtest.Scan[string](t, conn,
			`SELECT quote_ident(current_database())`)+` TO plain`,
	)
	pgtest.Exec(t, conn, `GRANT SELECT ON topology_migrations TO plain`)
	url := strings.Replace(db.URL, "//"+strings.SplitN(strings.SplitN(db.URL, "//", 2)[1], "@", 2)[0]+"@", "//plain:x@", 1)
	code, _, errOut := program(t, "bus", "wal", "--database-url", url)
	if want := `role plain may not replicate: ALTER ROLE "plain" REPLICATION`; code != exitError ||
		!strings.Contains(errOut, want) {
		t.Errorf("%d %s, want %q", code, errOut, want)
	}
	pgtest.Exec(t, conn, `ALTER ROLE plain REPLICATION`)
	code, _, errOut = program(t, "bus", "wal", "--database-url", url)
	if want := "run this as the role that owns"; code != exitError || !strings.Contains(errOut, want) {
		t.Errorf("%d %s, want %q", code, errOut, want)
	}
	if bus := pgtest.Scan[string](t, conn, `SELECT bus FROM topology_settings`); bus != "notify" ||
		pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_publication`) != 0 {
		t.Errorf("the bus is %s", bus)
	}
}

func TestBusStatusNamesAPreparedTransactionThatASlotWaitsFor(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.NewOn(t, pgtest.Cluster(t, "max_prepared_transactions=5").URL("postgres"))
	conn := db.Conn(t)
	for _, statement := range []string{
		`BEGIN`, `SELECT pg_current_xact_id()`, `PREPARE TRANSACTION 'forgotten by somebody'`,
	} {
		pgtest.Exec(t, conn, statement)
	}
	code, out, errOut := program(t, "bus", "status", "--database-url", db.URL)
	if code != exitOK || !strings.Contains(out, `"forgotten by somebody"`) || strings.Contains(out, "nothing is missing") {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	setBus(t, db.URL, "wal")
	server := serve(t, db.URL, nil)
	pgtest.Eventually(t, "a line of the log that names it", func() bool {
		return strings.Contains(server.log.String(), "forgotten by somebody")
	})
	pgtest.Exec(t, conn, `ROLLBACK PREPARED 'forgotten by somebody'`)
	pgtest.Eventually(t, "the bus wal", func() bool { return metric(t, server.url, "topostream_streaming_wal") == 1 })
}
