package api

import (
	"sync"

	"topostream/stream"
)

// An inbox holds what other goroutines have for a stream's: which feeds have changed, and what came of reads and
// attaches.
type inbox struct {
	wake chan struct{} // one place

	mu     sync.Mutex // held for a moment; within it nothing else is locked
	closed bool
	parts  []int // whose feeds have changed
	came   []returned
	spare  []int // what take gave last: its memory is used again
}

// returned is what came of a read or an attach.
type returned struct {
	part int
	read bool
	sub  *stream.Subscription
	err  error
}

func (b *inbox) changed(w *watch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.told {
		return
	}
	w.told = true
	b.parts = append(b.parts, w.part)
	b.rouse()
}

// put keeps what came of a call, or gives it back where nobody takes it any more.
func (b *inbox) put(r returned) {
	if !b.keeps(r) {
		r.sub.GiveBack()
	}
}

func (b *inbox) keeps(r returned) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.came = append(b.came, r)
	b.rouse()
	return true
}

// rouse wakes the stream's goroutine. The caller holds mu.
func (b *inbox) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take takes all out. changed is valid until the next call.
func (b *inbox) take(watches []watch) (changed []int, came []returned) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, part := range b.parts {
		watches[part].told = false
	}
	changed, came = b.parts, b.came
	b.parts, b.spare, b.came = b.spare[:0], b.parts, nil
	return changed, came
}

// close gives what nobody took. From now on put gives everything back.
func (b *inbox) close() []returned {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.came
}

// A watch tells the inbox of changes of a part's feed; of none where feed is nil.
type watch struct {
	inbox *inbox
	part  int
	feed  *stream.Feed
	told  bool // the part is among inbox.parts; under inbox.mu
}

// Changed implements stream.Watcher.
func (w *watch) Changed() { w.inbox.changed(w) }
