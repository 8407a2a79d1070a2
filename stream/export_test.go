package stream

// Slot is what an entry of a ring costs beside its frame's bytes.
const Slot = slot
