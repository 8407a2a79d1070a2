package pgtest

import (
	"slices"
	"sync"
	"testing"
)

// shared is the database that [Shared] gives.
var shared struct { //nolint:gochecknoglobals // one for the process
	mu    sync.Mutex
	db    *DB
	users int
	life  *sharedLife
}

// A sharedLife is the testing.TB that the shared database is made with. It ends with the last user, not with the test
// that made it.
type sharedLife struct {
	testing.TB

	cleanups []func()
}

// Cleanup puts f off until the last user has ended.
func (l *sharedLife) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

// Shared gives the test a database that it shares with those of its package that run now: to make one takes longer
// than most tests. It is for tests that look at topologies of their own alone, and leave the settings as they are.
func Shared(t testing.TB) *DB {
	t.Helper()
	failFast(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.users == 0 {
		shared.life = &sharedLife{TB: t}
		shared.db = New(shared.life)
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
	shared.life.TB = t // the one that made it has ended
	for _, f := range slices.Backward(shared.life.cleanups) {
		f()
	}
}
