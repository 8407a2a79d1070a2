package mutator

import (
	"context"
	"math/rand/v2"
	"time"
)

// A signal wakes one waiter; signals that nobody waits for yet are folded into one.
type signal chan struct{}

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// backoff doubles from base to limit and takes a random half of it away, so that workers do not return in step.
func backoff(try int, base, limit time.Duration) time.Duration {
	d := min(base<<min(try, 20), limit)
	return d/2 + rand.N(d/2+1)
}

// pause waits and tells whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
