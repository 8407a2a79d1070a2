package engine

import (
	"math/bits"
	"time"
)

const (
	spokes = 1024
	tick   = 16 * time.Millisecond
)

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// A wheel holds the next time of each stream: of its keepalive, of the end of its token, or of a write that is too
// slow. A stream is in it for its time or an earlier one: when its time is put off, it is moved only once the earlier
// time has come. So a delivery, which puts the keepalive off, costs the wheel nothing.
type wheel struct {
	spokes [spokes]*Stream
	used   [spokes / 64]uint64 // a bit for each spoke that has a stream
	at     int64               // the last tick that turn has come to
}

// place is a stream's place in the wheel.
type place struct {
	prev, next *Stream // of the same spoke
	tick       int64   // 0: it is in no wheel
}

// put puts a stream in for a time, unless it is in for that or an earlier one. A time beyond the wheel's reach becomes
// the last tick that it reaches.
func (w *wheel) put(c *Stream, due time.Duration) {
	t := w.at + spokes - 1 // as far as it reaches
	if due < time.Duration(t)*tick {
		t = max(int64((due+tick-1)/tick), w.at+1)
	}
	if c.place.tick != 0 {
		if c.place.tick <= t {
			return
		}
		w.remove(c)
	}
	spoke := t % spokes
	if c.place = (place{next: w.spokes[spoke], tick: t}); c.place.next != nil {
		c.place.next.place.prev = c
	}
	w.spokes[spoke] = c
	w.used[spoke/64] |= 1 << (spoke % 64)
}

func (w *wheel) remove(c *Stream) {
	p := c.place
	if p.tick == 0 {
		return
	}
	if p.next != nil {
		p.next.place.prev = p.prev
	}
	if p.prev != nil {
		p.prev.place.next = p.next
	} else {
		spoke := p.tick % spokes
		if w.spokes[spoke] = p.next; p.next == nil {
			w.used[spoke/64] &^= 1 << (spoke % 64)
		}
	}
	c.place = place{}
}

// turn takes out all streams whose time has come, one after another, and calls onTime with each.
func (w *wheel) turn(now time.Duration, onTime func(*Stream)) {
	for to := int64(now / tick); w.at < to; {
		next := w.nextTick()
		if next < 0 || next > to {
			w.at = to
			return
		}
		for w.at = next; w.spokes[next%spokes] != nil; {
			c := w.spokes[next%spokes]
			w.remove(c)
			onTime(c)
		}
	}
}

// next is when turn has something to do.
func (w *wheel) next() time.Duration {
	if t := w.nextTick(); t >= 0 {
		return time.Duration(t) * tick
	}
	return never
}

// nextTick is the first tick behind at that has a stream; -1: none has.
func (w *wheel) nextTick() int64 {
	begin := (w.at + 1) % spokes
	for i := range int64(spokes/64 + 1) {
		word := (begin/64 + i) % (spokes / 64)
		used := w.used[word]
		switch i {
		case 0:
			used &= ^uint64(0) << (begin % 64)
		case spokes / 64:
			used &^= ^uint64(0) << (begin % 64)
		}
		if used != 0 {
			spoke := word*64 + int64(bits.TrailingZeros64(used))
			return w.at + 1 + (spoke-begin+spokes)%spokes
		}
	}
	return -1
}
