package stream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrNoMemory means that others hold what the server may use; a retry will help when they have written it.
var ErrNoMemory = errors.New("the server has no memory free for this now")

// A Hold is a part of a Memory that is taken for bytes in no ring: a document, an answer. It is given back by the last
// Release: there is one for its making and one for each Retain. Any goroutine may call its methods; those of nil do
// nothing.
type Hold struct {
	memory *Memory
	size   int64
	refs   atomic.Int64
}

// Retain asks for one more Release.
func (h *Hold) Retain() {
	if h != nil {
		h.refs.Add(1)
	}
}

// Release gives the bytes back if it is the last.
func (h *Hold) Release() {
	if h != nil && h.refs.Add(-1) == 0 {
		h.memory.giveBack(h.size)
	}
}

// A reservation is a Reserve that waits.
type reservation struct {
	size    int64
	granted chan struct{} // closed under Memory.queueMu
}

// TryReserve takes n bytes for what is in no ring. It gives up, with false, where somebody waits for memory already, or
// where n bytes do not fit beside the other holds. Documents that feeds keep, and rings, make room for it.
func (m *Memory) TryReserve(n int64) (*Hold, bool) {
	taken := func() bool { return m.take(n) }
	if !taken() && !m.dropDocumentsUntil(taken) {
		return nil, false
	}
	return m.granted(n), true
}

// Reserve does what TryReserve does, and waits where that gives up; first come, first served. More than the whole limit
// is granted while nobody else holds anything, so that it can be had at all. When ctx ends first, the error is
// ErrNoMemory and ctx's cause.
//
// Whoever holds one must not wait for another: two such could wait for each other.
func (m *Memory) Reserve(ctx context.Context, n int64) (*Hold, error) {
	r := m.enqueue(n)
	// Documents that feeds keep make room. A feed that is given one from now on sees that somebody waits, and drops it.
	if m.wanted() {
		m.dropDocumentsUntil(func() bool { return !m.wanted() })
	}
	select {
	case <-r.granted:
	case <-ctx.Done():
		if m.abandon(r) {
			return nil, fmt.Errorf("%w: %w", ErrNoMemory, context.Cause(ctx))
		}
	}
	return m.granted(n), nil
}

// granted makes the hold of n bytes that are taken already, and lets the rings make room for them.
func (m *Memory) granted(n int64) *Hold {
	h := &Hold{memory: m, size: n}
	h.refs.Store(1)
	if m.over() {
		m.shed(nil)
	}
	return h
}

// take takes n bytes unless somebody waits or they do not fit.
func (m *Memory) take(n int64) bool {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	if len(m.queue) > 0 || !m.fits(n) {
		return false
	}
	m.addHeld(n)
	return true
}

// fits is called under queueMu, as is every change of held.
func (m *Memory) fits(n int64) bool {
	held := m.held.Load()
	return held == 0 || held+n <= m.limit
}

// enqueue queues a reservation, which is granted at once if it is the first and fits.
func (m *Memory) enqueue(n int64) *reservation {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	r := &reservation{size: n, granted: make(chan struct{})}
	m.queue = append(m.queue, r)
	m.grantLocked()
	return r
}

// abandon takes r out of the queue; false: it was granted.
func (m *Memory) abandon(r *reservation) bool {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	for i, other := range m.queue {
		if other == r {
			m.queue = append(m.queue[:i], m.queue[i+1:]...)
			m.grantLocked() // those behind it may need less
			return true
		}
	}
	return false
}

func (m *Memory) giveBack(n int64) {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	m.addHeld(-n)
	m.grantLocked()
}

func (m *Memory) grantLocked() {
	for len(m.queue) > 0 && m.fits(m.queue[0].size) {
		m.addHeld(m.queue[0].size)
		close(m.queue[0].granted)
		m.queue = m.queue[1:]
	}
}

func (m *Memory) addHeld(n int64) {
	m.held.Add(n)
	m.stats.HeldBytes.Add(float64(n))
}

// wanted tells whether somebody waits for memory.
func (m *Memory) wanted() bool {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	return len(m.queue) > 0
}
