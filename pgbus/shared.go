package pgbus

import (
	"context"

	"golang.org/x/sync/singleflight"
)

// shared are calls that those who ask for the same thing share. A call belongs to the bus and to none of them, so
// that one who goes away takes nothing from the others.
type shared[T any] struct {
	group singleflight.Group
}

// do gives what call gives. joined tells that others wait for the same call.
func (s *shared[T]) do(
	ctx context.Context, tasks *tasks, key string, call func(context.Context) (T, error),
) (v T, joined bool, _ error) {
	type answer struct {
		value  T
		joined bool
		err    error
	}
	done := make(chan answer, 1)
	asker := ctx
	tasks.spawn(func(ctx context.Context) {
		ctx = inTraceOf(asker, ctx)
		v, err, joined := s.group.Do(key, func() (any, error) { return call(ctx) })
		value, _ := v.(T)
		done <- answer{value, joined, err}
	})
	select {
	case a := <-done:
		return a.value, a.joined, a.err
	case <-ctx.Done():
		return v, false, context.Cause(ctx)
	}
}
