package bench

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// pace has n callers call, together at a rate a second, whatever becomes of the calls before: one that is late goes at
// once, and what is later than twice the time does not go at all. call gets the caller's number and that of its call,
// each from 0 on.
func pace(ctx context.Context, n int, rate float64, d time.Duration,
	call func(ctx context.Context, caller, k int) error) error {
	start := time.Now()
	gap := time.Duration(float64(n) / rate * float64(time.Second)) // of one caller
	calls := max(1, int(d/gap))
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		first := gap * time.Duration(i) / time.Duration(n)
		g.Go(func() error {
			timer := time.NewTimer(0)
			defer timer.Stop()
			for k := 0; k < calls && time.Since(start) < 2*d; k++ {
				timer.Reset(time.Until(start.Add(first + gap*time.Duration(k))))
				select {
				case <-timer.C:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				if err := call(ctx, i, k); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
