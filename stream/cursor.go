package stream

import "context"

// maxBatch bounds the bytes that Next gives at once, so that a write deadline covers a bounded write.
const maxBatch = 256 << 10

// A Cursor is a client's place in a feed: no queue of its own, nothing to drop. It belongs to one goroutine.
type Cursor struct {
	feed  *Feed
	last  Seq
	pos   uint64  // next position, unless seek
	born  uint64  // raw frames before it are not for this client
	seek  bool    // pos must be found by seq
	page  []Frame // read from the journal, not yet given
	ended bool    // the final frame was given
}

// Cursor makes a cursor behind after. It may be behind the ring (then it reads the journal) or ahead of the feed (then
// it waits).
func (f *Feed) Cursor(after Seq) *Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Cursor{feed: f, last: after, pos: f.find(after), born: f.end}
}

// Last is the seq of the newest journaled frame that Next gave, or what the cursor was made with.
func (c *Cursor) Last() Seq { return c.last }

// Next gives the frames that follow, in buf[:0] up to its capacity. It waits only for journal reads. When there is
// nothing it gives a channel that is closed at the feed's next change. Errors: ErrReset, ErrClosed, ErrDeleted once the
// final frame was given, and those of JournalReader.Page.
func (c *Cursor) Next(ctx context.Context, buf []Frame) ([]Frame, <-chan struct{}, error) {
	buf = buf[:0]
	for {
		if c.ended {
			return nil, nil, ErrDeleted
		}
		if len(c.page) > 0 {
			return c.fromPage(buf), nil, nil
		}
		frames, changed, behind, err := c.fromRing(buf)
		if err != nil || !behind {
			return frames, changed, err
		}
		c.page, err = c.feed.cfg.Journal.Page(ctx, c.feed.cfg.Topology, c.last)
		if err != nil {
			return nil, nil, err
		}
		if len(c.page) == 0 {
			return nil, nil, ErrReset
		}
	}
}

func (c *Cursor) fromPage(buf []Frame) []Frame {
	size := 0
	for len(c.page) > 0 && len(buf) < cap(buf) && (size == 0 || size+len(c.page[0].Bytes) <= maxBatch) {
		size += len(c.page[0].Bytes)
		buf = append(buf, c.page[0])
		c.given(c.page[0])
		c.page = c.page[1:]
		if c.ended {
			c.page = nil // what follows is the life of another topology with the same id
		}
	}
	c.seek = true
	return buf
}

func (c *Cursor) fromRing(buf []Frame) (_ []Frame, changed <-chan struct{}, behind bool, err error) {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.cause != nil && f.cause != ErrDeleted: //nolint:errorlint // the sentinel itself
		return nil, nil, false, f.cause
	case c.last < f.ringFirst:
		return nil, nil, true, nil
	}
	if c.seek {
		c.pos, c.seek = f.find(c.last), false
	}
	c.pos = max(c.pos, f.start) // what is missed was not journaled: the ring may drop that
	size := 0
	for ; c.pos < f.end && len(buf) < cap(buf); c.pos++ {
		fr := f.at(c.pos).frame
		if fr.Seq == 0 && c.pos < c.born || fr.Seq != 0 && fr.Seq <= c.last {
			continue
		}
		if size > 0 && size+len(fr.Bytes) > maxBatch {
			break
		}
		size += len(fr.Bytes)
		buf = append(buf, fr)
		if c.given(fr); c.ended {
			break
		}
	}
	switch {
	case len(buf) > 0:
		return buf, nil, false, nil
	case f.cause != nil:
		return nil, nil, false, f.cause
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return nil, f.changed, false, nil
}

func (c *Cursor) given(fr Frame) {
	if fr.Seq != 0 {
		c.last = fr.Seq
	}
	c.ended = c.ended || fr.Final
}
