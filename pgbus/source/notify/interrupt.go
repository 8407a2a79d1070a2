package notify

import (
	"context"
	"sync"
	"time"
)

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
}
