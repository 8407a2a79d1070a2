//go:build !linux

package fleet

import (
	"context"
	"errors"
	"time"
)

// A Fleet needs Linux's epoll.
type Fleet struct{}

// New gives an error.
func New(Config) (*Fleet, error) { return nil, errors.New("the load is made by Linux's epoll") }

// Connect does nothing.
func (*Fleet) Connect(context.Context, int) (time.Duration, error) { return 0, nil }

// Return does nothing.
func (*Fleet) Return(context.Context) (time.Duration, error) { return 0, nil }

// Delivered does nothing.
func (*Fleet) Delivered() uint64 { return 0 }

// Await does nothing.
func (*Fleet) Await(context.Context, uint64) error { return nil }

// Cut does nothing.
func (*Fleet) Cut() {}

// LongestSilence does nothing.
func (*Fleet) LongestSilence() time.Duration { return 0 }

// Take does nothing.
func (*Fleet) Take() *Tally { return NewTally() }

// Broken does nothing.
func (*Fleet) Broken() error { return nil }

// Close does nothing.
func (*Fleet) Close() {}

// AllowFiles does nothing.
func AllowFiles(int) error { return nil }
