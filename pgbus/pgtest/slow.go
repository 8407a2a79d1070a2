package pgtest

import (
	"os"
	"testing"
)

// Slow leaves a test out of `go test -short`, and of `go test` unless TOPOSTREAM_TESTS=all asks for it: it kills again
// and again, waits for long timeouts, or moves much. What it covers is covered by a quicker test, too, as far as that
// is possible. CONTRIBUTING.md has the command; the gate runs it.
func Slow(t testing.TB) {
	t.Helper()
	if !All() {
		t.Skip("slow: it runs with TOPOSTREAM_TESTS=all")
	}
}

// All tells whether slow tests run, and others with as many tries as are worth having. With TOPOSTREAM_LONG=1, when
// what runs alone does, slow ones that are asked for by name run, too.
func All() bool {
	return !testing.Short() && (os.Getenv("TOPOSTREAM_TESTS") == "all" || os.Getenv("TOPOSTREAM_LONG") == "1")
}
