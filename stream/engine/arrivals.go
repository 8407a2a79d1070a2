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

// Arrivals are those that are still to come. Whoever has them takes all that are left, and tells the machine, which
// gives back what comes too late; Cancel makes those that wait come at once. The zero value has none.
type Arrivals struct {
	C      <-chan Arrival
	Left   int
	Cancel context.CancelFunc
}

// GiveBack gives back those that come, where there is nobody to tell.
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
