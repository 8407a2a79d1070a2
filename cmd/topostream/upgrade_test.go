package main

import (
	"sync"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// migrationWait is how long a writer may wait for a lock of a migration.
const migrationWait = 2 * time.Second

// TestWritersHardlyWaitForAMigrationOfAFullDatabase migrates what the version before filled, while writers write and
// somebody is idle in a transaction for a while; then down, and up again.
func TestWritersHardlyWaitForAMigrationOfAFullDatabase(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, idle := db.Conn(t), db.Conn(t)
	const before = 5 // the newest of the version before
	if err := sql.Down(t.Context(), conn, before); err != nil {
		t.Fatal(err)
	}
	events := 20_000
	if isAlone() {
		events = 1_000_000
	}
	fillAsTheVersionBefore(t, db, events)
	ids := pgtest.Scan[[]string](t, conn, `SELECT array_agg(id::text ORDER BY name) FROM topologies
		WHERE status = 'active'`)
	for again := range 2 {
		w := writeTo(t, db, ids[:4], migrationWait)
		pgtest.Exec(t, idle, `BEGIN`)
		pgtest.Exec(t, idle, `SELECT FROM topologies, mutations, lans LIMIT 1`)
		var migrating sync.WaitGroup
		migrating.Go(func() {
			if err := sql.Up(t.Context(), db.Conn(t)); err != nil {
				t.Error(err)
			}
		})
		const waiting = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock' AND query LIKE '%LOCK TABLE%')`
		for _, want := range []bool{true, false, true} { // it gives up, so that the writers go on, and tries again
			pgtest.Eventually(t, "the migration to wait and to give up",
				func() bool { return pgtest.Scan[bool](t, conn, waiting) == want })
		}
		pgtest.Exec(t, idle, `COMMIT`)
		migrating.Wait()
		w.waitForNobody(t, "a migration")
		w.end()
		if again == 0 {
			if err := sql.Down(t.Context(), conn, before); err != nil {
				t.Fatal(err)
			}
		}
	}
	const gaps = `
SELECT count(*) FROM topology_heads h WHERE h.seq - h.first + 1 <> (SELECT count(*) FROM topology_events e
 WHERE e.topology_id = h.topology_id)`
	if n := pgtest.Scan[int](t, conn, gaps); n != 0 {
		t.Errorf("%d journals have a gap", n)
	}
	for _, statement := range []string{ // rows that are older than the rules
		`UPDATE lans SET x = 1 WHERE name = ' old'`, `UPDATE lans SET name = 'renamed' WHERE name = ' old'`,
		`UPDATE topologies SET name = 'renamed' WHERE name = 'old '`, `DELETE FROM lans WHERE name = 'renamed'`,
	} {
		pgtest.Exec(t, conn, statement)
	}
}

// fillAsTheVersionBefore makes rows of every kind, some of which this version would not take.
func fillAsTheVersionBefore(t *testing.T, db *pgtest.DB, events int) {
	t.Helper()
	conn := db.Conn(t)
	for _, statement := range []string{
		`INSERT INTO topologies (name) SELECT 't-' || n FROM generate_series(1, 99) n UNION ALL SELECT 'old '`,
		`UPDATE topologies SET status = 'deploying'`, `UPDATE topologies SET status = 'active' WHERE name <> 'old '`,
		`INSERT INTO lans (topology_id, name, subnet) SELECT id, 'a', '10.0.0.0/24'::cidr FROM topologies
		 UNION ALL SELECT id, ' old', '0.0.0.0/0' FROM topologies`,
		`INSERT INTO deckies (topology_id, name, decky_config) SELECT id, 'd', '{"a": 1}' FROM topologies`,
		`INSERT INTO edges (topology_id, decky_uuid, lan_id)
		 SELECT d.topology_id, d.uuid, l.id FROM deckies d JOIN lans l USING (topology_id) WHERE l.name = 'a'`,
		`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies,
		 generate_series(1, 4)`,
		`UPDATE mutations SET state = 'applying' WHERE position % 4 > 0`,
		`UPDATE mutations SET state = 'applied', result = '{}' WHERE position % 4 = 2`,
		`UPDATE mutations SET state = 'failed', reason = 'no' WHERE position % 4 = 3`,
	} {
		pgtest.Exec(t, conn, statement)
	}
	pgtest.Exec(t, conn, `
WITH more AS (INSERT INTO topology_events (topology_id, seq, type, payload, at)
     SELECT h.topology_id, h.seq + n, 'filled', '{}', now() FROM topology_heads h, generate_series(1, $1::int / 100) n)
UPDATE topology_heads SET seq = seq + $1::int / 100`, events)
}
