package stream

import (
	"sync"
	"sync/atomic"
)

// Memory accounts for the bytes of all rings together, and for those that are held beside them: documents and answers
// until they are written. What is held comes first: when it grows, documents that feeds keep are dropped, then rings
// lose their older halves, down to nothing. What is held is above the limit only where one hold alone is.
//
// The order of locks is mu, Feed.mu, queueMu.
type Memory struct {
	limit int64
	stats *Stats
	rings atomic.Int64
	held  atomic.Int64

	mu    sync.Mutex
	feeds map[*Feed]struct{}

	queueMu sync.Mutex
	queue   []*reservation // those who wait, in the order they came
}

// NewMemory makes an account of limit bytes. stats may be nil.
func NewMemory(limit int64, stats *Stats) *Memory {
	if stats == nil {
		stats = NoStats()
	}
	return &Memory{limit: limit, stats: stats, feeds: map[*Feed]struct{}{}}
}

func (m *Memory) over() bool { return m.rings.Load()+m.held.Load() > m.limit }

func (m *Memory) addRing(n int64) {
	m.rings.Add(n)
	m.stats.FeedBytes.Add(float64(n))
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

// shed makes room until the account is below its limit, or nothing is left to drop: first the documents that feeds
// keep, then the older half of each ring but one, the last event included, as often as it takes. The caller holds no
// lock.
func (m *Memory) shed(but *Feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for f := range m.feeds {
		if !m.over() {
			return
		}
		m.dropDocument(f)
	}
	for m.over() {
		before := m.rings.Load()
		for f := range m.feeds {
			if f != but && m.over() {
				f.halve()
				m.stats.FeedEvictions[EvictedRing].Inc()
			}
		}
		if m.rings.Load() == before {
			return
		}
	}
}

func (m *Memory) dropDocument(f *Feed) {
	if f.dropDocument() {
		m.stats.FeedEvictions[EvictedDocument].Inc()
	}
}

// dropDocumentsUntil lets feeds drop the documents that they keep, until done says that it is enough. It returns done's
// last answer. The caller holds no lock; done may take queueMu.
func (m *Memory) dropDocumentsUntil(done func() bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for f := range m.feeds {
		if m.dropDocument(f); done() {
			return true
		}
	}
	return false
}
