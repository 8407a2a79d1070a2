package pgtest

import (
	"slices"
	"sync"
	"testing"
)

// shared is the database that [Shared] gives.
var shared struct { //nolint:gochecknoglobals // one for the process
	mu     sync.Mutex
	db     *DB
	users  int
	keeper *keeper
}

// A keeper stands for a test that lasts until the last user of the shared database has ended.
type keeper struct {
	testing.TB

	cleanups []func()
}

// Cleanup puts f off until the end.
func (k *keeper) Cleanup(f func()) { k.cleanups = append(k.cleanups, f) }

// Shared gives the test a database that it shares with those of its package that run now: to make one takes longer
// than most tests. It is for tests that look at topologies of their own alone, and leave the settings as they are.
func Shared(t testing.TB) *DB {
	t.Helper()
	failFast(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.users == 0 {
		shared.keeper = &keeper{TB: t}
		shared.db = New(shared.keeper)
	}
	shared.users++
	t.Cleanup(func() { unshare(t) })
	return shared.db
}

// unshare drops the database with its last user.
func unshare(t testing.TB) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.users--; shared.users > 0 {
		return
	}
	shared.keeper.TB = t // the one that made it has ended
	for _, f := range slices.Backward(shared.keeper.cleanups) {
		f()
	}
}
