package store

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// A keyedMutex is one mutex for each key, for as long as somebody has it or waits for it; the zero value is ready.
// Writers of one topology go one after another anyway: those that wait do it here, and not each on a connection that
// others could use. (The module that does the same, cplieger/keylock, needs a newer Go than this program, and
// containerd's is internal.)
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	one   *semaphore.Weighted
	users int // who has it, and who waits
}

// lock waits for the key's mutex, or for the end of ctx, whose cause it returns then. Whoever gets it calls unlock
// once.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	own := k.enter(key)
	if err := own.one.Acquire(ctx, 1); err != nil {
		k.leave(key, own)
		return nil, context.Cause(ctx)
	}
	return func() {
		own.one.Release(1)
		k.leave(key, own)
	}, nil
}

func (k *keyedMutex) enter(key string) *keyLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	own := k.locks[key]
	if own == nil {
		own = &keyLock{one: semaphore.NewWeighted(1)}
		k.locks[key] = own
	}
	own.users++
	return own
}

func (k *keyedMutex) leave(key string, own *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(k.locks, key)
	}
}
