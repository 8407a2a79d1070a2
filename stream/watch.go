package stream

import "slices"

// A Watcher is told that a feed has changed: that a cursor of it may have something to take, or has come to its end.
//
// Changed is called under the feed's lock, by whoever changes it: it must not block, and must not call the feed.
type Watcher interface{ Changed() }

// Watch has w told of every change from now on, until Unwatch: at least once, and perhaps more often, for all that
// changes between two calls of Cursor.Take.
func (f *Feed) Watch(w Watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers = append(f.watchers, w)
}

// Unwatch ends a Watch.
func (f *Feed) Unwatch(w Watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.watchers, w); i >= 0 {
		f.watchers = slices.Delete(f.watchers, i, i+1)
	}
}

// Pin keeps a frame in the account of the feed's memory while a socket has taken only a part of it: the ring may drop
// the frame meanwhile, and its bytes stay. However many pin the same frame, it is counted once, beside what the ring
// counts. Each calls Unpin when the rest is written, or will not be.
func (f *Feed) Pin(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pins == nil {
		f.pins = map[*byte]int{}
	}
	key := &frame[0]
	if f.pins[key]++; f.pins[key] == 1 {
		f.cfg.Memory.addRing(int64(len(frame)))
	}
}

// Unpin ends a Pin.
func (f *Feed) Unpin(frame []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := &frame[0]
	if f.pins[key]--; f.pins[key] == 0 {
		delete(f.pins, key)
		f.cfg.Memory.addRing(-int64(len(frame)))
	}
}
