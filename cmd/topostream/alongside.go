package main

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// alongside runs all until all have returned. The first error ends the others, and is the error of the whole.
func alongside(runs ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, run := range runs {
			g.Go(func() error { return run(ctx) })
		}
		return g.Wait()
	}
}
