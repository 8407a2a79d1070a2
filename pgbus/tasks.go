package pgbus

import (
	"context"
	"sync"
)

// tasks are the goroutines of reads that several requests share: they belong to the bus, and to no request.
type tasks struct {
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	life    context.Context //nolint:containedctx // the bus's own
	end     context.CancelFunc
}

func newTasks() tasks {
	life, end := context.WithCancel(context.Background())
	return tasks{life: life, end: end}
}

// spawn runs f in a goroutine that close waits for. Its context ends with the bus.
func (t *tasks) spawn(f func(context.Context)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		go f(t.life) // which has ended, so that f only tells those who wait
		return
	}
	t.running.Go(func() { f(t.life) })
}

func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.end()
	t.mu.Unlock()
	t.running.Wait()
}
