package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// build makes a binary of this module: of the command topobench, for example.
func build(t *testing.T, command string) (binary string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds and measures: left out with -short")
	}
	binary = filepath.Join(pgtest.OpenDir(t), command)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "topostream/cmd/"+command).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return binary
}
