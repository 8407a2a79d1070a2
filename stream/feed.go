package stream

import (
	"bytes"
	"sort"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Bounds of one ring, where FeedConfig sets none.
const (
	DefaultMaxEvents = 1024
	DefaultMaxBytes  = 4 << 20
)

// AppendResult says what became of an appended frame.
type AppendResult int

// What Append may answer.
const (
	Appended  AppendResult = iota
	Duplicate              // at or below the last seq: dropped
	Conflict               // at or below the last seq, but not what the ring holds under it: one of the two is forged
	Hole                   // above last+1: dropped, read the journal
	Closed                 // the feed has ended: dropped
)

// String is the result as a word, for logs and tests.
func (r AppendResult) String() string {
	return [...]string{"appended", "duplicate", "conflict", "hole", "closed"}[r]
}

// FeedConfig is what NewFeed needs. Memory and Stats may be nil, the bounds zero.
type FeedConfig struct {
	Topology  TopologyID
	Base      Seq           // the first event will be Base+1
	Alive     Seq           // the topology existed at this seq: a Final frame at or below it is an earlier life's end
	Journal   JournalReader // for cursors behind the ring
	Memory    *Memory
	Stats     *Stats
	MaxEvents int
	MaxBytes  int
}

// A Feed is the ring of a topology's newest events, shared by all its clients. Positions in it count up for ever;
// a frame that is not journaled has a position but no seq. All methods may be called by any goroutine.
type Feed struct {
	cfg     FeedConfig
	counted atomic.Pointer[[]*Delivery] // in the order of their seqs, changed under mu; nil: none

	mu        sync.Mutex
	ring      []entry // circular: position p is at p % len(ring)
	start     uint64  // position of the oldest entry
	end       uint64  // position behind the newest
	bytes     int
	last      Seq
	ringFirst Seq           // a cursor at or above it needs no journal
	cause     error         // why it has ended
	changed   chan struct{} // made when somebody waits, closed at the next change
	watchers  []Watcher
	pins      map[*byte]int // frames that sockets have taken a part of, by their first byte
	document  *Snapshot     // the newest that is known; nil: none is kept
}

type entry struct {
	frame Frame
	upTo  Seq // the last seq at or before this position
}

// slot is what an entry costs beside its frame's bytes.
const slot = int64(unsafe.Sizeof(entry{}))

// NewFeed makes a feed that continues behind cfg.Base.
func NewFeed(cfg FeedConfig) *Feed {
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = DefaultMaxEvents
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.Stats == nil {
		cfg.Stats = NoStats()
	}
	if cfg.Memory == nil {
		cfg.Memory = NewMemory(int64(cfg.MaxBytes)+int64(cfg.MaxEvents)*slot, cfg.Stats)
	}
	f := &Feed{cfg: cfg, last: cfg.Base, ringFirst: cfg.Base}
	cfg.Memory.register(f)
	cfg.Stats.Feeds.Inc()
	return f
}

// Last is the newest seq, Base at first.
func (f *Feed) Last() Seq {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Cause is why the feed has ended: ErrReset, ErrDeleted or ErrClosed; nil while it lives.
func (f *Feed) Cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// Holds tells whether the ring holds everything after a seq, so that a cursor there needs no journal.
func (f *Feed) Holds(after Seq) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return after >= f.ringFirst
}

// Append adds a journaled frame if it is the next one. A Final frame above Alive ends the feed with ErrDeleted; what it
// holds is still delivered.
func (f *Feed) Append(fr Frame) AppendResult {
	f.mu.Lock()
	switch {
	case f.cause != nil:
		f.mu.Unlock()
		return Closed
	case fr.Seq <= f.last:
		defer f.mu.Unlock()
		return f.compare(fr)
	case fr.Seq != f.last+1:
		f.mu.Unlock()
		return Hole
	}
	f.last = fr.Seq
	f.push(fr)
	f.cfg.Stats.Events.Inc()
	ends := fr.Final && fr.Seq > f.cfg.Alive
	if ends {
		f.endLocked(ErrDeleted)
	}
	f.mu.Unlock()
	if ends {
		f.cfg.Memory.forget(f)
	}
	if f.cfg.Memory.over() {
		f.cfg.Memory.shed(f)
	}
	return Appended
}

// compare tells a frame that came again (Duplicate) from another one with its seq (Conflict), as far as the ring holds
// that seq.
func (f *Feed) compare(fr Frame) AppendResult {
	p := f.find(fr.Seq - 1)
	if p < f.end && f.at(p).frame.Seq == fr.Seq && !bytes.Equal(f.at(p).frame.Bytes, fr.Bytes) {
		return Conflict
	}
	return Duplicate
}

// AppendRaw adds a frame that is not journaled, for those who are attached now.
func (f *Feed) AppendRaw(fr Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause != nil {
		return
	}
	fr.Seq = 0
	f.push(fr)
	f.cfg.Stats.RawEvents.Inc()
}

// Close ends the feed; the first cause counts. With ErrReset and ErrClosed cursors deliver nothing more.
func (f *Feed) Close(cause error) {
	f.mu.Lock()
	if f.cause == nil {
		f.endLocked(cause)
	}
	f.mu.Unlock()
	f.cfg.Memory.forget(f)
}

func (f *Feed) endLocked(cause error) {
	f.cause = cause
	f.dropDocumentLocked()
	f.cfg.Memory.addRing(-int64(f.bytes) - int64(len(f.ring))*slot)
	f.cfg.Stats.Feeds.Dec()
	if cause == ErrReset || cause == ErrBehind { //nolint:errorlint // the sentinels themselves
		f.cfg.Stats.Resets.Inc()
	}
	if cause != ErrDeleted { //nolint:errorlint // the sentinel itself
		f.ring, f.start = nil, f.end // those who are slow keep the feed, but not what it held
	}
	f.broadcast()
}

func (f *Feed) at(p uint64) *entry { return &f.ring[p%uint64(len(f.ring))] }

// find gives the position of the first entry above after, the end if there is none.
func (f *Feed) find(after Seq) uint64 {
	n := int(f.end - f.start)
	return f.start + uint64(sort.Search(n, func(i int) bool { return f.at(f.start+uint64(i)).upTo > after }))
}

func (f *Feed) push(fr Frame) {
	if n := f.end - f.start; n == uint64(len(f.ring)) {
		if len(f.ring) < f.cfg.MaxEvents {
			f.resize(min(max(2*len(f.ring), 8), f.cfg.MaxEvents))
		} else {
			f.evict()
		}
	}
	*f.at(f.end) = entry{fr, f.last}
	f.end++
	f.bytes += len(fr.Bytes)
	f.cfg.Memory.addRing(int64(len(fr.Bytes)))
	for f.end-f.start > 1 && f.bytes > f.cfg.MaxBytes {
		f.evict()
	}
	if f.cfg.Memory.over() {
		f.dropDocumentLocked()
	}
	for f.end-f.start > 1 && f.cfg.Memory.over() {
		f.halveLocked()
	}
	f.broadcast()
}

// resize moves the entries to a ring of n slots.
func (f *Feed) resize(n int) {
	ring := make([]entry, n)
	for p := f.start; p < f.end; p++ {
		ring[p%uint64(n)] = *f.at(p)
	}
	f.cfg.Memory.addRing(int64(n-len(f.ring)) * slot)
	f.ring = ring
}

func (f *Feed) evict() {
	e := f.at(f.start)
	if e.frame.Seq != 0 {
		f.ringFirst = e.frame.Seq
		if f.document != nil && f.document.Seq < f.ringFirst {
			f.dropDocumentLocked() // nobody can begin with it any more
		}
	}
	f.bytes -= len(e.frame.Bytes)
	f.cfg.Memory.addRing(-int64(len(e.frame.Bytes)))
	*e = entry{}
	f.start++
}

// halve drops the older half of the ring, the last event included, with the slots that it took.
func (f *Feed) halve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.halveLocked()
	}
}

func (f *Feed) halveLocked() {
	for n := (f.end - f.start + 1) / 2; n > 0; n-- {
		f.evict()
	}
	f.resize(int(f.end - f.start))
}

// broadcast wakes all who wait. The channel is made by those who wait, so that a feed without idle clients makes none.
func (f *Feed) broadcast() {
	for _, w := range f.watchers {
		w.Changed()
	}
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}
