package stream

import (
	"context"
	"fmt"
)

// A Share is the part of a Memory that one kind of use may hold, so that it can never take all of it. What a share
// grants is held in its Memory, too.
type Share struct {
	whole, part *Memory // part has no feeds: it counts holds alone
}

// Share makes one of a part of the limit: a quarter for 4.
func (m *Memory) Share(part int64) *Share {
	return &Share{whole: m, part: NewMemory(m.limit/part, nil)}
}

// Limit is what all that the share grants may hold together; one that alone takes more is granted while the share
// grants nothing else.
func (s *Share) Limit() int64 { return s.part.limit }

// Reserve takes n bytes of the share, first come, first served. When ctx ends first, the error is ErrNoMemory and ctx's
// cause. As with Memory.Reserve, whoever holds some of any share must not wait for more.
func (s *Share) Reserve(ctx context.Context, n int64) (*Room, error) {
	part, err := s.part.Reserve(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("a share of %d bytes: %w", s.Limit(), err)
	}
	whole, err := s.whole.Reserve(ctx, n)
	if err != nil {
		part.Release()
		return nil, err
	}
	return &Room{part, whole}, nil
}

// A Room is what a Share has granted. It belongs to one goroutine, which calls Release once.
type Room struct{ part, whole *Hold }

// Shrink gives back all but n bytes, if the room has more.
func (r *Room) Shrink(n int64) {
	r.part.shrink(n)
	r.whole.shrink(n)
}

// Release gives the rest back.
func (r *Room) Release() {
	r.whole.Release()
	r.part.Release()
}

// shrink is for a hold that was never retained.
func (h *Hold) shrink(n int64) {
	if back := h.size - n; back > 0 {
		h.size = n
		h.memory.giveBack(back)
	}
}
