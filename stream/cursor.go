package stream

import "context"

// A Cursor is a client's place in a feed: no queue of its own, nothing to drop. It belongs to one goroutine.
type Cursor struct {
	feed  *Feed
	last  Seq
	told  Seq     // the client is known to have the events up to it
	pos   uint64  // next position, unless seek
	born  uint64  // raw frames before it are not for this client
	page  []Frame // read from the journal, not yet given
	seek  bool    // pos must be found by seq
	ended bool    // the final frame was given

	filter *ListFilter // nil: it is no place in the list
}

// Cursor makes a cursor behind after. It may be behind the ring (then it reads the journal) or ahead of the feed (then
// it waits).
func (f *Feed) Cursor(after Seq) *Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &Cursor{feed: f, last: after, told: after, pos: f.find(after), born: f.end}
}

// ListCursor makes one in the list's feed, which gives what the filter shows.
func (f *Feed) ListCursor(after Seq, filter *ListFilter) *Cursor {
	c := f.Cursor(after)
	if !filter.All() {
		c.filter = filter
	}
	return c
}

// Last is the seq of the newest journaled frame that the cursor gave, or what it was made with.
func (c *Cursor) Last() Seq { return c.last }

// Feed is what the cursor is a place in.
func (c *Cursor) Feed() *Feed { return c.feed }

// Next gives the frames that follow, in buf[:0] up to its capacity. It waits only for journal reads. When there is
// nothing it gives a channel that is closed at the feed's next change. Errors: those of Take and Read.
func (c *Cursor) Next(ctx context.Context, buf []Frame) ([]Frame, <-chan struct{}, error) {
	b := Batch{Frames: buf[:0]}
	for {
		behind, err := c.Take(&b)
		switch {
		case err != nil:
			return nil, nil, err
		case len(b.Frames) > 0:
			return b.Frames, nil, nil
		case behind:
			if err := c.Read(ctx); err != nil {
				return nil, nil, err
			}
			continue
		}
		if changed := c.Changed(); changed != nil {
			return nil, changed, nil
		}
	}
}

// Take fills b with the frames that follow, as many as it has room for, and never waits. behind tells that they are in
// the journal alone: Read fetches them. Errors: ErrReset, ErrBehind, ErrClosed, and ErrDeleted once the final frame was
// given.
func (c *Cursor) Take(b *Batch) (behind bool, err error) {
	if c.ended {
		b.Reset()
		return false, ErrDeleted
	}
	if len(c.page) > 0 {
		c.fromPage(b)
		return false, nil
	}
	if b.isFor(c) {
		c.pos, c.last, c.ended = b.to, b.last, b.final
		return false, nil
	}
	return c.fromRing(b)
}

// Read fetches what follows from the journal, for Take. Errors: those of JournalReader.Page.
func (c *Cursor) Read(ctx context.Context) error {
	page, err := c.feed.cfg.Journal.Page(ctx, c.feed.cfg.Topology, c.last)
	if err == nil && len(page) == 0 {
		err = ErrReset
	}
	c.page = page
	return err
}

// Changed gives a channel that is closed at the feed's next change; nil: Take has something to say now.
func (c *Cursor) Changed() <-chan struct{} {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.ended || len(c.page) > 0 || c.seek || c.pos < f.end || c.last < f.ringFirst || f.cause != nil {
		return nil
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// GiveBack takes back all that b gave but its first n frames, which were written: the next Take gives the rest anew. No
// other Take may have come between.
func (c *Cursor) GiveBack(b *Batch, n int) {
	switch {
	case n == len(b.Frames):
		return
	case b.page != nil:
		c.page = b.page[n:]
	default:
		c.pos = b.from + uint64(n)
	}
	c.last, c.ended = b.after, false
	for _, fr := range b.Frames[:n] {
		c.given(fr)
	}
}

func (c *Cursor) fromPage(b *Batch) {
	b.Reset()
	b.page, b.after = c.page, c.last
	for len(c.page) > 0 && b.hasRoom(c.page[0]) {
		b.add(c.page[0])
		c.given(c.page[0])
		c.page = c.page[1:]
		if c.ended {
			c.page = nil // what follows is the life of another topology with the same id
		}
	}
	if len(c.page) == 0 {
		c.page = nil // a stream that is idle for days must not keep it
	}
	c.seek = true
}

func (c *Cursor) fromRing(b *Batch) (behind bool, err error) {
	b.Reset()
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.cause != nil && f.cause != ErrDeleted: //nolint:errorlint // the sentinel itself
		return false, f.cause
	case c.last < f.ringFirst:
		return true, nil
	}
	if c.seek {
		c.pos, c.seek = f.find(c.last), false
	}
	c.pos = max(c.pos, f.start) // c.last >= ringFirst: what the ring has dropped in between were raw frames alone
	for ; c.pos < f.end && c.skips(f.at(c.pos).frame); c.pos++ {
		if c.filter != nil { // what it does not show counts as given
			c.last = max(c.last, f.at(c.pos).frame.Seq)
		}
	}
	b.from, b.after = c.pos, c.last
	for ; c.pos < f.end && !c.ended; c.pos++ {
		fr := f.at(c.pos).frame
		if !b.hasRoom(fr) || c.skips(fr) { // so that frame n has the position from + n
			break
		}
		if c.filter != nil {
			fr.Bytes = c.filter.shown(fr)
		}
		b.add(fr)
		c.given(fr)
	}
	if len(b.Frames) == 0 && f.cause != nil {
		return false, f.cause
	}
	if len(b.Frames) > 0 && c.born <= b.from && c.filter == nil {
		b.feed = f
	}
	b.to, b.last, b.final = c.pos, c.last, c.ended
	b.All = c.pos == f.end && f.cause == nil && !c.ended
	return false, nil
}

// skips tells whether the frame at pos is not for this client.
func (c *Cursor) skips(fr Frame) bool {
	return fr.Seq == 0 && c.pos < c.born || fr.Seq != 0 && fr.Seq <= c.last || c.filter != nil && c.filter.shown(fr) == nil
}

// given records that fr is the client's now.
func (c *Cursor) given(fr Frame) {
	if fr.Seq != 0 {
		c.last = fr.Seq
	}
	c.ended = c.ended || fr.Final
}
