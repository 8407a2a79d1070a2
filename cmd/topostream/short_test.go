package main

import (
	"os"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

// long leaves a test out of `go test -short`: it kills, waits for timeouts, or moves much data. What it covers is
// covered by a shorter test, too, as far as that is possible.
func long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: left out with -short")
	}
}

// slow leaves a test out unless TOPOSTREAM_TESTS=all asks for it.
func slow(t testing.TB) {
	t.Helper()
	pgtest.Slow(t)
}

// alone leaves a test out unless TOPOSTREAM_LONG=1 says that nothing else runs on the machine: what it asserts is a
// time, or that a server is as quick as it must be to answer before its clients give up, or it leaves nothing to
// whatever runs beside it. The gate runs it in a step of its own.
func alone(t testing.TB) {
	t.Helper()
	if !isAlone() {
		t.Skip("timed: it runs alone, with TOPOSTREAM_LONG=1")
	}
}

// inTime fails a test whose time was asserted, and logs it where something else may run on the machine.
func inTime(t testing.TB, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s took %v", what, took.Round(time.Millisecond))
	if took > limit && isAlone() {
		t.Errorf("%s took %v, more than %v", what, took, limit)
	}
}

func isAlone() bool { return os.Getenv("TOPOSTREAM_LONG") == "1" }

// fewer gives n, and a tenth of it with -short: of tries that differ at random.
func fewer(n int) int {
	if testing.Short() {
		return max(n/10, 2)
	}
	return n
}
