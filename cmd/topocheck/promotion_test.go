package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"topostream/harness/command"
	"topostream/harness/process"
	"topostream/pgbus/pgtest"
)

// believers are the program with a database that never notices that it is another one than before: after a promotion it
// goes on in the old epoch, with numbers that clients may have for what was lost.
func believers(t *testing.T) []edit {
	t.Helper()
	const histories = "sql/005_histories.sql"
	if _, err := os.Stat(filepath.Join(module, histories)); err == nil {
		return []edit{
			{histories, "epoch = CASE WHEN _s.system_identifier IS NULL THEN s.epoch ELSE " +
				"{{.schema}}.topology_epoch_after(s.epoch) END",
				"epoch = s.epoch"},
			{histories, "history = CASE WHEN _s.system_identifier IS NULL THEN s.history ELSE gen_random_uuid() END",
				"history = s.history"},
		}
	}
	return []edit{{"sql/001_core.sql", "RETURN {{.schema}}.topology_new_epoch();", "RETURN _s.epoch;"}}
}

// stageCheck runs the checker on a stage of its own.
func stageCheck(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e process.Output
	code = run(t.Context(), append([]string{"--topologies", "6", "--clients", "16", "--backlog", "0",
		"--writers", "4"},
		args...), command.Output{Out: &o, Err: &e})
	t.Log(o.String())
	return code, o.String(), e.String()
}

func TestACampaignFindsAServerThatBelievesTheLostHistoryAfterAPromotion(t *testing.T) {
	t.Parallel()
	whole(t)
	binary := planted(t, believers(t))
	found := regexp.MustCompile(`spliced [1-9]`)
	// A promotion may take nothing back that a client had, and on a busy machine 12 s end before a standby is made.
	for _, duration := range []string{"12s", "30s", "90s"} {
		code, out, errOut := stageCheck(t, "--topostream", binary, "--duration", duration, "--catch-up", "10s",
			"--faults", "postgres.promote")
		if found.MatchString(out) {
			if code != command.ExitBroken {
				t.Errorf("exit code %d", code)
			}
			return
		}
		t.Log(out, errOut)
	}
	t.Error("no run found two histories under one epoch")
}

// A worker once ended because the database went away between two statements of its start, and a campaign of eight
// minutes told nobody but by its exit code.
func TestACampaignFailsWhenAProgramEndsByItself(t *testing.T) {
	t.Parallel()
	script := filepath.Join(pgtest.OpenDir(t), "topostream")
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = mutator ] && exit 1\nexec %q \"$@\"\n", build(t))
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := stageCheck(t, "--topostream", script, "--duration", "4s", "--faults", "worker.kill")
	if code != command.ExitBroken || !strings.Contains(errOut, "worker ended by itself (exit status 1)") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
}
