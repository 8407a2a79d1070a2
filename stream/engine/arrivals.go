package engine

import (
	"context"

	"topostream/stream"
)

// An Arrival is what came of an attach that was begun before the stream had a driver.
type Arrival struct {
	Part         int
	Subscription *stream.Subscription
	Err          error
}

// Arrivals are those that are still to come: whoever has the value receives all Left of them from C and passes them to
// the machine, which gives back what comes too late. Cancel has the attaches that still wait return at once. The zero
// value has none.
type Arrivals struct {
	C      <-chan Arrival
	Left   int
	Cancel context.CancelFunc
}

// GiveBack cancels the attaches and gives back what comes of them, where no machine wants it any more.
func (a Arrivals) GiveBack() {
	if a.Left == 0 {
		return
	}
	a.Cancel()
	go func() {
		for range a.Left {
			(<-a.C).Subscription.GiveBack()
		}
	}()
}
