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
	pgtest.Slow(t) // it builds and measures
	binary, err := process.Build(t.Context(), "", pgtest.OpenDir(t), command)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}
