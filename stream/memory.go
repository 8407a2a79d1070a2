package stream

import (
	"sync"
	"sync/atomic"
)

// Memory accounts for the bytes of all rings together.
type Memory struct {
	limit int64
	used  atomic.Int64
	stats *Stats

	mu    sync.Mutex
	feeds map[*Feed]struct{}
}

// NewMemory makes an account of limit bytes. stats may be nil.
func NewMemory(limit int64, stats *Stats) *Memory {
	if stats == nil {
		stats = &Stats{}
	}
	return &Memory{limit: limit, stats: stats, feeds: map[*Feed]struct{}{}}
}

func (m *Memory) over() bool { return m.used.Load() > m.limit }

func (m *Memory) add(n int64) {
	m.used.Add(n)
	m.stats.FeedBytes.Add(n)
}

func (m *Memory) register(f *Feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feeds[f] = struct{}{}
}

func (m *Memory) forget(f *Feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.feeds, f)
}

// shed lets the other feeds drop the older half of their rings, the last event included, until the account is below its limit. The caller holds no feed's lock:
// the order is Memory.mu, then Feed.mu.
func (m *Memory) shed(but *Feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for f := range m.feeds {
		if !m.over() {
			return
		}
		if f != but {
			f.halve()
		}
	}
}
