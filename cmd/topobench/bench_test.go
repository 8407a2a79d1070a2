package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"topostream/cmd/topobench/bench"
	"topostream/pgbus/pgtest"
)

// What the measurements find is tested in package bench.
func TestAMeasurementPrintsATableAndWritesJSON(t *testing.T) {
	t.Parallel()
	long(t)
	dir := t.TempDir()
	binary, file := filepath.Join(dir, "topobench"), filepath.Join(dir, "report.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), binary, "writers", "--writers", "2", "--topologies", "5", "--rounds", "1",
		"--duration", "200ms", "--seed", "7", "--json", file)
	cmd.Env = append(os.Environ(), "TOPOBENCH_DATABASE_URL="+pgtest.New(t).URL)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil || strings.Count(string(out), "\n| ") != 1+2*6+1+2*3 || !strings.Contains(string(out), "seed 7;") {
		t.Fatalf("%v\n%s%s", err, errOut.String(), out)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report bench.WritersReport
	if err := json.Unmarshal(body, &report); err != nil || len(report.Rows) != 6 || report.Seed != 7 ||
		report.PostgreSQL == "" {
		t.Errorf("%v: %s", err, body)
	}
}

func TestAMeasurementOfNothingIsAWrongCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"writers --writers 0", "writers --rounds 0", "latency --rate 0",
		"latency --topologies 0", "topologies --attached 0", "topologies --duration 0s"} {
		var out, errOut strings.Builder
		if code := run(t.Context(), strings.Fields(args), &out, &errOut); code != exitUsage ||
			!strings.Contains(errOut.String(), "above 0") {
			t.Errorf("%s: exit code %d: %s", args, code, errOut.String())
		}
	}
}
