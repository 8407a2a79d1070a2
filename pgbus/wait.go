package pgbus

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A signal wakes one waiter; signals that nobody waits for yet are folded into one.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// An interruptible lets any goroutine end the owner's current or next wait.
type interruptible struct {
	mu     sync.Mutex
	raised bool
	cancel context.CancelFunc
}

// context gives the context of one wait, which ends after d, with ctx, or when somebody interrupts; an interrupt that
// came since the last wait ends it at once. The owner calls done when it waits no more.
func (i *interruptible) context(ctx context.Context, d time.Duration) (_ context.Context, done func()) {
	ctx, cancel := context.WithTimeout(ctx, d)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cancel = cancel
	if i.raised {
		i.raised = false
		cancel()
	}
	return ctx, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.cancel = nil
		cancel()
	}
}

func (i *interruptible) interrupt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cancel == nil {
		i.raised = true
		return
	}
	i.cancel()
	i.cancel = nil
}

// backoff doubles from base to limit and takes a random half of it away, so that servers do not return in step.
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
