package main

import (
	"strings"
	"testing"

	"topostream/cmd/topobench/check"
	"topostream/pgbus/pgtest"
)

func TestARunOnAServerThatKeepsItsPromiseIsCleanAndLookedAtEverything(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	url := serve(t, build(t, module), db.URL)
	code, text, report := runCheck(t, url, db.URL, "--duration", "6s", "--topologies", "12", "--clients", "16")
	t.Log(text)
	if code != exitOK || !report.Clean() || !strings.HasSuffix(text, "\nlost 0, doubled 0, reordered 0, torn 0, wrong snapshots 0\n") {
		t.Fatalf("exit code %d", code)
	}
	for kind, c := range report.Clients {
		if c.Deliveries < 50 || c.Snapshots == 0 {
			t.Errorf("%s clients got %d events and %d snapshots: too few to judge", kind, c.Deliveries, c.Snapshots)
		}
	}
	if c := report.Clients[check.Dropping]; c.Resumes < 5 {
		t.Errorf("dropping clients resumed %d times: too few to judge", c.Resumes)
	}
	if report.Graphs == 0 || report.Rollbacks == 0 || report.Undone == 0 || report.Notifies == 0 {
		t.Errorf("a run without graphs, rollbacks or raw NOTIFYs: %+v", report)
	}
	if report.DatabaseErrors != 0 || report.Unknown != 0 || report.Unchecked != 0 {
		t.Errorf("nothing was disturbed, but %d database errors, %d unknown, %d not compared", report.DatabaseErrors, report.Unknown, report.Unchecked)
	}
	if n := pgtest.Scan[int](t, db.Conn(t), `SELECT count(*) FROM topologies`); n != 0 {
		t.Errorf("%d topologies are left", n)
	}
}
