package pgcluster_test

import (
	"testing"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

func TestAStandbyFollowsAndTakesWritesOnceItIsPromoted(t *testing.T) {
	if testing.Short() {
		t.Skip("long: two clusters")
	}
	t.Parallel()
	primary := start(t, pgcluster.Config{Binaries: mustBinaries(t), DataDir: pgtest.OpenDir(t)})
	standby := pgtest.Standby(t, primary)
	pgtest.Exec(t, connect(t, primary.URL("postgres")), `CREATE TABLE kept AS SELECT 1 AS n`)
	pgtest.Eventually(t, "replication", func() bool {
		return query(t, standby.URL("postgres"), `SELECT coalesce(to_regclass('kept')::text, '')`) == "kept"
	})
	if got := query(t, standby.URL("postgres"), `SELECT pg_is_in_recovery()::text`); got != "true" {
		t.Errorf("in recovery: %s", got)
	}
	primary.Kill()
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	const insert = `INSERT INTO kept VALUES (2) RETURNING (SELECT count(*) FROM kept)::text`
	if got := query(t, standby.URL("postgres"), insert); got != "1" {
		t.Errorf("%s rows before the insert, want 1", got)
	}
	if _, err := primary.Standby(t.Context(), pgtest.OpenDir(t)); err == nil {
		t.Error("a standby of a dead primary was made")
	}
}
