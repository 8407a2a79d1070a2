package main

import "testing"

// long leaves a test out of `go test -short`: it kills, waits for timeouts, or moves much data. What it covers is
// covered by a shorter test, too, as far as that is possible.
func long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("long: left out with -short")
	}
}

// fewer gives n, and a quarter of it with -short: of tries that differ at random.
func fewer(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}
