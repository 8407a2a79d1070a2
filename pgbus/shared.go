package pgbus

import (
	"context"

	"golang.org/x/sync/singleflight"
)

// shared is a single flight: requests for the same thing at the same time share one call. The call belongs to the bus
// and to none of them, so that a request that goes away does not end it for the others.
type shared[T any] struct {
	group singleflight.Group
}

// do gives what call gives, or ctx's cause. joined tells that several requests have shared the call.
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
