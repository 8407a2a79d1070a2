package main

import (
	"fmt"
	"net/http"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// TestAnEditorThatCountsItsOwnEditsIsNeverRefused is DECNET's rule: each 202 raises the version that it expects by one,
// whatever becomes of the edit.
func TestAnEditorThatCountsItsOwnEditsIsNeverRefused(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	admin := newOperator(t, serve(t, db.URL, withWorker).url, "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	for expected := range 20 {
		name := fmt.Sprintf("lan-%d", expected)
		if expected%4 == 3 {
			name = "lan-0" // exists already: it fails
		}
		var queued enqueued
		body := fmt.Sprintf(`{"op":"add_lan","payload":{"name":%q},"expected_version":%d}`, name, expected)
		admin.do("POST", "/topologies/"+id+"/mutations", body).into(t, http.StatusAccepted, &queued)
		if expected%3 == 0 { // sometimes the edit has ended when the next one comes
			pgtest.Eventually(t, "the edit to end", func() bool {
				return pgtest.Scan[bool](t, conn, `SELECT state IN ('applied', 'failed') FROM mutations WHERE id = $1::text::uuid`,
					queued.ID)
			})
		}
	}
	pgtest.Eventually(t, "every edit to end", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`) == 0
	})
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'failed'`); n != 5 {
		t.Errorf("%d edits failed, want 5", n)
	}
	if v := pgtest.Scan[int](t, conn, `SELECT version FROM topologies`); v != 20 {
		t.Errorf("version %d, want 20", v)
	}
}

func TestATopologyWhoseQueueIsFullTakesNoMoreUntilSomeHaveFinished(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	admin := newOperator(t, serve(t, db.URL, func(c *serveCmd) { c.MaxInFlight = 2 }).url, "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	post := func() reply {
		return admin.do("POST", "/topologies/"+id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`)
	}
	full := func(what, want string) {
		t.Helper()
		r := post()
		r.refused(t, what, http.StatusTooManyRequests, want)
		if r.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", what)
		}
	}
	var queued enqueued
	post().into(t, http.StatusAccepted, &queued)
	post().into(t, http.StatusAccepted, &queued)
	full("the third",
		"2 mutations of 32 bytes wait already (at most 2, or 67108864 bytes): try again when some have finished")
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position = 1`)
	full("one is worked on", "2 mutations")
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE position = 1`)
	pgtest.Exec(t, conn, `UPDATE topology_heads SET in_flight_bytes = 64 * 1024 * 1024`) // as large ones have it
	full("64 MiB", "1 mutations of 67108864 bytes wait already")
	pgtest.Exec(t, conn, `UPDATE topology_heads SET in_flight_bytes = 64 * 1024 * 1024 - 1`)
	post().into(t, http.StatusAccepted, &queued)
}

func TestMigrateRepairCountsWhatCameWithoutTriggers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	pgtest.Exec(t, conn, `SET session_replication_role = replica`)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op) VALUES ($1, 'add_lan')`, id)
	for _, want := range []string{"1 heads repaired\nclients that were open meanwhile know nothing of it: " +
		"`topostream migrate new-epoch` gives them snapshots\n", "0 heads repaired\n"} {
		code, out, said := program(t, "migrate", "repair", "--database-url", db.URL)
		if code != 0 || out != want {
			t.Errorf("exit code %d, %q %s", code, out, said)
		}
	}
	if n := pgtest.Scan[int](t, conn, `SELECT in_flight FROM topology_heads WHERE topology_id = $1`, id); n != 1 {
		t.Errorf("%d in flight", n)
	}
}
