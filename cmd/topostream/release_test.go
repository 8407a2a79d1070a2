package main

import (
	"os/exec"
	"strings"
	"testing"
)

// A server needs nothing that fetches and runs a PostgreSQL: what is not in the binary needs no patch.
func TestTheBinaryOfAReleaseHoldsNoDownloader(t *testing.T) {
	t.Parallel()
	list := func(arguments ...string) string {
		arguments = append([]string{"list", "-deps"}, arguments...)
		out, err := exec.CommandContext(t.Context(), "go", append(arguments, "topostream/cmd/topostream")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	with, without := list(), list("-tags", "nodev")
	for _, unwanted := range []string{"embedded-postgres", "github.com/lib/pq", "github.com/xi2/xz", "pgbus/pgcluster"} {
		if !strings.Contains(with, unwanted) {
			t.Errorf("%s is not in the program with dev: this test would not find it", unwanted)
		}
		if strings.Contains(without, unwanted) {
			t.Errorf("%s is in the binary of a release (-tags nodev)", unwanted)
		}
	}
}
