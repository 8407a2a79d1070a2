package stream

// maxBatch bounds the bytes of a batch, so that a write deadline covers a bounded write.
const maxBatch = 256 << 10

// A Batch is what a cursor takes at once: at most as many frames as Frames has room for, and at most 256 KiB; the first
// frame is taken whatever its size. One batch may serve one cursor after another: those at the same place of the same
// feed get the frames that are in it already, without the feed's lock, until Reset.
type Batch struct {
	Frames []Frame
	All    bool // there is nothing more to take before the feed changes

	size int     // bytes of the frames
	page []Frame // of frames from the journal: they and the rest of the cursor's page; nil: they are from the ring

	feed     *Feed  // the feed whose other cursors may take the same frames; nil: none may
	from, to uint64 // positions in the ring: of the first frame, and behind the last
	after    Seq    // Cursor.last before these frames were taken
	last     Seq    // Cursor.last after that
	final    bool   // the last frame ends the stream

	joined   []byte // what Bytes gives, once it was asked for
	isJoined bool
}

// NewBatch makes one with room for n frames.
func NewBatch(n int) *Batch { return &Batch{Frames: make([]Frame, 0, n)} }

// Reset lets go of the frames.
func (b *Batch) Reset() {
	clear(b.Frames)
	*b = Batch{Frames: b.Frames[:0], joined: b.joined[:0]}
}

// Bytes are those of all frames in a row. They are the batch's own, until it is filled anew.
func (b *Batch) Bytes() []byte {
	if len(b.Frames) == 1 {
		return b.Frames[0].Bytes
	}
	if !b.isJoined {
		b.joined, b.isJoined = b.joined[:0], true
		for _, fr := range b.Frames {
			b.joined = append(b.joined, fr.Bytes...)
		}
	}
	return b.joined
}

// isFor tells whether b holds what c would take.
func (b *Batch) isFor(c *Cursor) bool {
	return c.filter == nil && b.feed == c.feed && b.from == c.pos && b.after == c.last && c.born <= c.pos && !c.seek
}

func (b *Batch) hasRoom(fr Frame) bool {
	return len(b.Frames) < cap(b.Frames) && (b.size == 0 || b.size+len(fr.Bytes) <= maxBatch)
}

func (b *Batch) add(fr Frame) {
	b.Frames = append(b.Frames, fr)
	b.size += len(fr.Bytes)
}
