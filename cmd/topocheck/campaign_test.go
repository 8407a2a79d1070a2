package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"topostream/cmd/topocheck/check"
	"topostream/cmd/topocheck/fault"
	"topostream/harness/command"
	"topostream/harness/process"
	scene "topostream/harness/stage"
	"topostream/pgbus/pgtest"
)

// scratch gives this test a directory of its own for all temporary files, so that it can tell what is left.
// PostgreSQL's user must get through it.
func scratch(t *testing.T) (dir string) {
	t.Helper()
	long(t)
	//nolint:usetesting // t.TempDir is closed to the user that PostgreSQL runs as
	dir, err := os.MkdirTemp("", "topocheck-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

func leftIn(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "topostream-stage-*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// The server counts one that no client sees. A campaign ends with what its stage says here.
func TestAViolationThatAServerCountsItselfIsMoreThanBefore(t *testing.T) {
	t.Parallel()
	const checked = "if newest = fr; fr.Seq != p.sent+1 {"
	binary := planted(t, []edit{{"stream/delivery/delivered.go", checked, "stats.Violations.Inc()\n" + checked}})
	s, err := scene.Open(t.Context(), scene.Config{
		Topostream: binary, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	before, err := s.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := check.Run(t.Context(), check.Config{
		URLs: func() []string { return []string{s.URL()} }, DatabaseURL: s.DatabaseURL(),
		Token: s.Issuer().Token, Limited: s.Issuer().Limited,
		Topologies: 1, Writers: 1, Clients: 2, Duration: time.Second, CatchUp: time.Minute, Idle: 5 * time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	now, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.AwaitCensus(now, before); err == nil ||
		!strings.Contains(err.Error(), "topostream_promise_violations_total") {
		t.Errorf("it says %v", err)
	}
}

//nolint:paralleltest // t.Setenv gives it a directory for temporary files
func TestAnInterruptedCampaignEndsAllThatItStarted(t *testing.T) {
	whole(t)
	dir := scratch(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out process.Output
	errOut := watchedBuffer{seen: func(text string) {
		if strings.Count(text, "msg=mended") >= 3 { // by then clients have had events
			interrupt()
		}
	}}
	code := run(ctx, []string{"--duration", "10m", "--topologies", "8", "--clients", "8", "--faults",
		"postgres.freeze,server.freeze"}, command.Output{Out: &out, Err: &errOut})
	left := leftIn(t, dir)
	if code != command.ExitOK || left != nil || !strings.Contains(out.String(), "faults injected: ") {
		t.Errorf("exit code %d, left: %v: %s%s", code, left, errOut.String(), out.String())
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			t.Errorf("still there: %q", line)
		}
	}
}

func TestSomebodysServersGetOnlyFaultsThatSQLCanDo(t *testing.T) {
	t.Parallel()
	binary := build(t)
	db := pgtest.New(t)
	url := serve(t, binary, db.URL)
	code, text, report := runCheck(t, url, db.URL, "--duration", "12s", "--topologies", "12", "--clients", "8",
		"--faults", "backend,table,locks,transactions,retention,server,disk")
	t.Log(text)
	if code != command.ExitOK {
		t.Fatalf("exit code %d", code)
	}
	for _, want := range []string{"SKIPPED fault server.kill: the servers are not ours",
		"SKIPPED fault disk.wal-full: the servers are not ours"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q", want)
		}
	}
	if len(report.Faults) == 0 {
		t.Error("no fault was injected")
	}
}

func TestTheHelpTellsEveryFault(t *testing.T) {
	t.Parallel()
	var out, errOut process.Output
	code := run(t.Context(), []string{"--help"}, command.Output{Out: &out, Err: &errOut})
	for _, name := range fault.Names() {
		if code != command.ExitOK || !strings.Contains(out.String(), name+": ") {
			t.Errorf("exit code %d; nothing about %s", code, name)
		}
	}
}

func TestAnUnknownFaultIsAWrongCommandLine(t *testing.T) {
	t.Parallel()
	var out, errOut process.Output
	code := run(t.Context(), []string{"--faults", "backend,nonsense"}, command.Output{Out: &out, Err: &errOut})
	if code != command.ExitUsage || !strings.Contains(errOut.String(), `"nonsense" names no fault`) {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}
