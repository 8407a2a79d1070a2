package pgcluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

func TestAClusterKeepsItsLogWhereItIsToldAndItsNextStartHasTheEnvironmentThatWasSet(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it starts a cluster twice")
	}
	t.Parallel()
	dir := pgtest.OpenDir(t)
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pgcluster.Own(elsewhere); err != nil {
		t.Fatal(err)
	}
	wal := filepath.Join(elsewhere, "pg_wal")
	c := start(t, pgcluster.Config{
		Binaries: mustBinaries(t), DataDir: filepath.Join(dir, "cluster"), WALDir: wal, Env: []string{"TOPOSTREAM_TEST=one"},
	})
	if segments, err := os.ReadDir(wal); err != nil || len(segments) == 0 {
		t.Errorf("the log is not there: %v, %v", segments, err)
	}
	environment := func(want string) {
		t.Helper()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", postmaster(t, filepath.Join(dir, "cluster"))))
		if err != nil {
			t.Skip("there is no /proc to look into")
		}
		if !strings.Contains("\x00"+string(b), "\x00TOPOSTREAM_TEST="+want+"\x00") {
			t.Errorf("its environment has no TOPOSTREAM_TEST=%s", want)
		}
	}
	environment("one")
	c.SetEnv("TOPOSTREAM_TEST=two")
	environment("one")
	if err := c.Restart(t.Context(), pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	environment("two")
	if !c.Running() {
		t.Error("it does not run")
	}
	c.Kill()
	if c.Running() {
		t.Error("it runs after SIGKILL")
	}
}
