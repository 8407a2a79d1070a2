package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

func TestAServerReadsStreamsFromAStandbyAndWritesToThePrimary(t *testing.T) {
	t.Parallel()
	long(t)
	primary := pgtest.Cluster(t)
	standby := pgtest.Standby(t, primary)
	db := pgtest.NewOn(t, primary.URL("postgres"))
	setBus(t, db.URL, "wal")
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	replica := standby.URL(strings.TrimPrefix(u.Path, "/"))
	pgtest.Eventually(t, "the database on the standby", func() bool {
		conn, err := pgx.Connect(t.Context(), replica)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		var bus string
		return conn.QueryRow(t.Context(), `SELECT topology_bus()`).Scan(&bus) == nil && bus == "wal"
	})
	if v := pgtest.Version(t); v < 16 {
		code, _, errOut := program(t, "serve", "--addr", "127.0.0.1:0", "--database-url", db.URL, "--replica-database-url",
			replica, "--jwt-secret", testSecret)
		if want := "whose standbys cannot decode their WAL: use 16 or newer"; code != exitError ||
			!strings.Contains(errOut, want) {
			t.Errorf("%d %s, want %q", code, errOut, want)
		}
		t.Skipf("PostgreSQL %d: a standby decodes its WAL from 16 on", v)
	}
	server := serve(t, db.URL, func(c *serveCmd) { withWorker(c); c.ReplicaDatabaseURL = replica }).url
	streaming(t, server)
	conn := db.Conn(t)
	for _, name := range []string{"a", "b", "c"} { // each is asked for at once, when the standby may not have it yet
		id := topology(t, conn, name)
		c := newClient(t, server, id, "").watch()
		pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying' WHERE name = $1`, name)
		pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active' WHERE name = $1`, name)
		awaitMutation(t, conn, enqueueLAN(t, conn, id, "lan"), "applied")
		c.awaitSeq(6) // created, twice changed; enqueued, applying, applied
		c.awaitSeq(emit(t, conn, id))
		c.stayedConnected()
	}
	metric(t, server, "topostream_replica_lag_bytes")
	if lag := metric(t, server, "topostream_replica_lag_seconds"); lag > 60 {
		t.Errorf("a lag of %v s", lag)
	}
}
