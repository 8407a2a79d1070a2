// Package wait holds the ways in which pgbus and what is built on it wait: for a signal, and between tries.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Signal wakes one waiter; signals that nobody waits for yet are folded into one.
type Signal chan struct{}

// NewSignal makes a signal that is not set.
func NewSignal() Signal { return make(Signal, 1) }

// Set wakes the waiter. It never blocks.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Backoff doubles from base to limit and takes a random half of it away, so that processes do not return in step. The
// first try is 0.
func Backoff(try int, base, limit time.Duration) time.Duration {
	d := min(base<<min(try, 20), limit)
	return d/2 + rand.N(d/2+1)
}

// Pause waits and tells whether ctx is still good.
func Pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Steps are the pauses between tries: they double from First to Most.
type Steps struct{ First, Most time.Duration }

// Pause waits before the try after the one given, the first of which is 0, and tells whether ctx is still good.
func (s Steps) Pause(ctx context.Context, try int) bool {
	return Pause(ctx, Backoff(try, s.First, s.Most))
}

// Forever runs again and again until ctx ends: what keeps a connection. A run calls connected when it has one; after
// a run that has called it the pauses begin anew. lost is told why each run ended and gives the pauses; a signal on
// soon, which may be nil, ends a pause.
func Forever(
	ctx context.Context, run func(ctx context.Context, connected func()) error, lost func(error) Steps, soon Signal,
) {
	for try := 0; ctx.Err() == nil; try++ {
		err := run(ctx, func() { try = 0 })
		if ctx.Err() != nil {
			return
		}
		steps := lost(err)
		t := time.NewTimer(Backoff(try, steps.First, steps.Most))
		select {
		case <-t.C:
		case <-soon:
		case <-ctx.Done():
		}
		t.Stop()
	}
}
