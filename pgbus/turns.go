package pgbus

import (
	"context"
	"sync"
)

// Turns let one at a time through for each name. Writers of one topology go one after another anyway: those that wait do it here, and
// not each on a connection that others could use.
type turns struct {
	mu    sync.Mutex
	names map[string]*turn
}

type turn struct {
	free  chan struct{} // holds one token while nobody has the turn
	users int           // who has it, and who waits
}

// take waits for the turn. Whoever gets it gives it back by calling done once.
func (t *turns) take(ctx context.Context, name string) (done func(), err error) {
	t.mu.Lock()
	if t.names == nil {
		t.names = map[string]*turn{}
	}
	own := t.names[name]
	if own == nil {
		own = &turn{free: make(chan struct{}, 1)}
		own.free <- struct{}{}
		t.names[name] = own
	}
	own.users++
	t.mu.Unlock()
	select {
	case <-own.free:
		return func() {
			own.free <- struct{}{}
			t.leave(name, own)
		}, nil
	case <-ctx.Done():
		t.leave(name, own)
		return nil, context.Cause(ctx)
	}
}

func (t *turns) leave(name string, own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(t.names, name)
	}
}
