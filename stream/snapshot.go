package stream

// A Snapshot is the state of a topology at Seq, as the bytes of its SSE frame: what ARCHITECTURE.md calls its
// document. The bytes are shared and nobody may change them; the handle belongs to one goroutine, which calls Release
// when it has written them.
type Snapshot struct {
	Seq   Seq
	Bytes []byte // nil after Release
	hold  *Hold
}

// NewSnapshot makes a handle. hold accounts for the bytes and passes to the handle; nil: they are in no account.
func NewSnapshot(seq Seq, bytes []byte, hold *Hold) *Snapshot {
	return &Snapshot{Seq: seq, Bytes: bytes, hold: hold}
}

// Retain makes another handle of the same bytes, to be released by itself. Of nil it makes nil.
func (s *Snapshot) Retain() *Snapshot {
	if s == nil {
		return nil
	}
	s.hold.Retain()
	return NewSnapshot(s.Seq, s.Bytes, s.hold)
}

// Release gives this handle's bytes back; a second call, and one of nil, does nothing.
func (s *Snapshot) Release() {
	if s == nil {
		return
	}
	s.hold.Release()
	s.Bytes, s.hold = nil, nil // a stream that is idle for days must not keep them
}
