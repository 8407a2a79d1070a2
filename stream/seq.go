package stream

import "strconv"

// Seq is an event's number within its topology: epoch·2³² + n, below 2⁵³ so that JavaScript holds it exactly.
// Within one epoch it has no gaps. Zero means "before the first event of epoch 0".
type Seq uint64

// Epoch tells which history of the database the number belongs to.
func (s Seq) Epoch() uint32 { return uint32(s >> 32) }

// String is the decimal form, as it stands in an SSE id field.
func (s Seq) String() string { return strconv.FormatUint(uint64(s), 10) }

// ParseSeq accepts [0-9]{1,16} only: what this program could have sent as an id, and nothing that a proxy or a person
// made of it.
func ParseSeq(s string) (Seq, bool) {
	if s == "" || len(s) > 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64) // which takes one digit or more, and nothing else
	return Seq(n), err == nil
}
