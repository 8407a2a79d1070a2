package check

import (
	"fmt"
	"slices"
)

// A snapshot of the bounded form holds the first mutations in flight, in order of position, up to one of these bounds.
const (
	mostShown      = 1000
	mostShownBytes = 1 << 20
	// surelyShown is how many bytes of payloads fit, however many spaces PostgreSQL puts between their tokens: sizes here
	// are of compact JSON.
	surelyShown = mostShownBytes / 10 * 8
)

// A flightLog remembers every mutation that was ever in flight, so that what a snapshot shows of them can be checked at
// any seq, and not only at the newest.
type flightLog struct {
	byID    map[string]*logged
	ordered []*logged // by position
}

// logged is the life of one mutation.
type logged struct {
	id       string
	position int64 // 0: not known
	size     int   // of its payload, as compact JSON
	changes  []change
}

// A change is what a mutation became at a seq; hash 0: it was in flight no more.
type change struct{ seq, hash uint64 }

func newFlightLog() *flightLog { return &flightLog{byID: map[string]*logged{}} }

// note takes in what became of a mutation at seq; nil: it is in flight no more.
func (l *flightLog) note(seq uint64, id string, m *flight) {
	x := l.byID[id]
	switch {
	case x == nil && m == nil:
		return
	case x == nil:
		x = &logged{id: id, position: m.position, size: len(m.payload)}
		l.byID[id] = x
		at, _ := slices.BinarySearchFunc(l.ordered, x.position, func(o *logged, position int64) int {
			return int(min(max(o.position-position, -1), 1))
		})
		for at < len(l.ordered) && l.ordered[at].position == x.position {
			at++
		}
		l.ordered = slices.Insert(l.ordered, at, x)
	}
	c := change{seq: seq}
	if m != nil {
		c.hash = m.hash
	}
	x.changes = append(x.changes, c)
}

// at is the mutation's hash at seq; 0 where it was not in flight.
func (x *logged) at(seq uint64) uint64 {
	for _, c := range slices.Backward(x.changes) {
		if c.seq <= seq {
			return c.hash
		}
	}
	return 0
}

// shown is a mutation in flight as a snapshot shows it.
type shown struct {
	id       string
	position int64 // 0: the snapshot does not tell
	hash     uint64
	size     int
}

// prefix says what keeps rows from being the first of the mutations that were in flight at seq, in order of position,
// as many as the bounds allow; empty if nothing does.
func (l *flightLog) prefix(seq uint64, rows []shown) string {
	n, bytes := 0, 0
	for _, x := range l.ordered {
		hash := x.at(seq)
		if hash == 0 {
			continue
		}
		if n == len(rows) {
			if n < mostShown && bytes+x.size <= surelyShown {
				return fmt.Sprintf("in_flight ends after %d, though there was room for the next, %s of %d bytes", n, x.id, x.size)
			}
			return ""
		}
		switch r := rows[n]; {
		case r.id != x.id:
			return fmt.Sprintf("in_flight[%d] is %s, where %s comes next by position", n, r.id, x.id)
		case r.hash != hash:
			return fmt.Sprintf("in_flight[%d], %s, has another op, payload or state", n, r.id)
		case r.position != 0 && x.position != 0 && r.position != x.position:
			return fmt.Sprintf("in_flight[%d], %s, has position %d, not %d", n, r.id, r.position, x.position)
		}
		bytes += x.size
		n++
	}
	if n < len(rows) {
		return fmt.Sprintf("in_flight[%d], %s, was not in flight", n, rows[n].id)
	}
	return ""
}
