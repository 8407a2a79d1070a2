package stream

// Holds tells whether the ring holds everything after a seq, so that a cursor there needs no journal.
func (f *Feed) Holds(after Seq) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return after >= f.ringFirst
}
