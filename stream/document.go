package stream

// SetDocument keeps a handle of s for those who come next, unless the feed keeps a newer document, has ended, or memory
// is short. The caller's own handle stays its own.
func (f *Feed) SetDocument(s *Snapshot) {
	kept := s.Retain()
	if kept.hold == nil {
		hold, ok := f.cfg.Memory.TryReserve(int64(len(s.Bytes)))
		if !ok {
			return
		}
		kept.hold = hold
	}
	f.mu.Lock()
	if f.cause != nil || f.document != nil && f.document.Seq > s.Seq {
		f.mu.Unlock()
		kept.Release()
		return
	}
	f.document.Release()
	f.document = kept
	f.mu.Unlock()
	if m := f.cfg.Memory; m.wanted() || m.over() { // whoever began to wait a moment ago did not find it to drop it
		f.dropDocument()
	}
}

// Document gives a handle of the kept document, if the ring holds everything since, and that is at most maxEvents
// frames and maxBytes; else nil. The caller releases it.
func (f *Feed) Document(maxEvents int, maxBytes int64) *Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.document == nil || f.document.Seq < f.ringFirst {
		return nil
	}
	since := f.find(f.document.Seq)
	if f.end-since > uint64(max(maxEvents, 0)) {
		return nil
	}
	var size int64
	for p := since; p < f.end; p++ {
		size += int64(len(f.at(p).frame.Bytes))
	}
	if size > maxBytes {
		return nil
	}
	return f.document.Retain()
}

func (f *Feed) dropDocument() (had bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had = f.document != nil
	f.dropDocumentLocked()
	return had
}

func (f *Feed) dropDocumentLocked() {
	f.document.Release()
	f.document = nil
}
