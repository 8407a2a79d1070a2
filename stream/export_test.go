package stream

// Slot is what an entry of a ring costs beside its frame's bytes.
const Slot = slot

// MaxBatch is the most bytes of several frames that Next gives at once.
const MaxBatch = maxBatch
