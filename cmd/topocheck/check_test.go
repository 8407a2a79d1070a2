package main

import (
	"fmt"
	"strings"
	"testing"

	"topostream/cmd/topocheck/check"
	"topostream/harness/command"
	"topostream/pgbus/pgtest"
)

func TestARunOnAServerThatKeepsItsPromiseIsCleanAndLookedAtEverything(t *testing.T) {
	t.Parallel()
	binary := build(t)
	db := pgtest.New(t)
	url := serve(t, binary, db.URL)
	missing := ""
	for _, duration := range []string{"6s", "20s", "60s"} { // a machine under load takes longer to do enough
		code, text, report := runCheck(t, url, db.URL, "--duration", duration, "--topologies", "12", "--clients", "16")
		t.Log(text)
		if code != command.ExitOK || !report.Clean() ||
			!strings.HasSuffix(text, "\nlost 0, doubled 0, reordered 0, torn 0, wrong snapshots 0\n") {
			t.Fatalf("exit code %d", code)
		}
		if report.DatabaseErrors != 0 || report.Unknown != 0 || report.Unchecked != 0 {
			t.Errorf("nothing was disturbed, but %d database errors, %d unknown, %d not compared",
				report.DatabaseErrors, report.Unknown, report.Unchecked)
		}
		if n := pgtest.Scan[int](t, db.Conn(t), `SELECT count(*) FROM topologies`); n != 0 {
			t.Errorf("%d topologies are left", n)
		}
		if missing = tooLittle(report); missing == "" {
			return
		}
	}
	t.Error(missing)
}

// tooLittle says what a run has seen too little of to judge; empty if nothing.
func tooLittle(r check.Report) string {
	for kind, c := range r.Clients {
		if c.Deliveries < 50 || c.Snapshots == 0 {
			return fmt.Sprintf("%s clients got %d events and %d snapshots", kind, c.Deliveries, c.Snapshots)
		}
	}
	if c := r.Clients[check.Dropping]; c.Resumes < 5 {
		return fmt.Sprintf("dropping clients resumed %d times", c.Resumes)
	}
	if r.Graphs == 0 || r.Rollbacks == 0 || r.Undone == 0 || r.Notifies == 0 {
		return fmt.Sprintf("no graphs, rollbacks or raw NOTIFYs: %+v", r)
	}
	return ""
}
