package fleet

import (
	"math/bits"
	"sync/atomic"
)

// Stamps hands out the serials of each topology's events, and remembers when the newest of them became visible, where
// the publisher knows that better than the payload does: a COMMIT is sent after the payload is written. Safe for
// concurrent use; of one topology one publisher at a time takes serials.
type Stamps struct {
	topologies []topologyStamps
}

type topologyStamps struct {
	last   atomic.Uint64 // serial
	recent []stamp       // a ring, by serial; its length is a power of two
}

type stamp struct {
	serial atomic.Uint64
	nanos  atomic.Int64
}

// stampsInAll are remembered; a client that is further behind than its topology's share reads the payload.
const stampsInAll = 1 << 16

// NewStamps makes them for so many topologies.
func NewStamps(topologies int) *Stamps {
	share := max(64, 1<<bits.Len(uint(stampsInAll/max(1, topologies))))
	s := &Stamps{make([]topologyStamps, topologies)}
	for i := range s.topologies {
		s.topologies[i].recent = make([]stamp, share)
	}
	return s
}

// Next takes a serial.
func (s *Stamps) Next(topology int) uint64 { return s.topologies[topology].last.Add(1) }

// Last is the newest serial that was taken.
func (s *Stamps) Last(topology int) uint64 { return s.topologies[topology].last.Load() }

// Sent notes when an event became visible.
func (s *Stamps) Sent(topology int, serial uint64, nanos int64) {
	recent := s.topologies[topology].recent
	e := &recent[serial&uint64(len(recent)-1)]
	e.serial.Store(0)
	e.nanos.Store(nanos)
	e.serial.Store(serial)
}

// When is when the event of a mark became visible.
func (s *Stamps) When(topology int, m Mark) (nanos int64) {
	recent := s.topologies[topology].recent
	e := &recent[m.Serial&uint64(len(recent)-1)]
	if e.serial.Load() != m.Serial {
		return m.Nanos
	}
	if nanos = e.nanos.Load(); e.serial.Load() != m.Serial {
		return m.Nanos
	}
	return nanos
}
