package main

import (
	"testing"

	"topostream/harness/process"
	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// build makes a binary of this module: of the command topobench, for example.
func build(t *testing.T, command string) (binary string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds and measures: left out with -short")
	}
	binary, err := process.Build(t.Context(), "", pgtest.OpenDir(t), command)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}
