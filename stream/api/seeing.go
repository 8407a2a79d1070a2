package api

import (
	"context"
	"errors"
	"fmt"

	"topostream/stream"
)

// Seeing is a bus whose [stream.ErrNotFound] is [stream.ErrUnavailable] while blind gives an error: the topology may be
// there, and this server may only not see it. Clients take "not found" as final.
func Seeing(bus stream.Bus, blind func(context.Context) error) stream.Bus {
	if blind == nil {
		return bus
	}
	return seeing{bus, blind}
}

type seeing struct {
	stream.Bus

	blind func(context.Context) error
}

// Attach implements stream.Bus.
func (s seeing) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	sub, err := s.Bus.Attach(ctx, req)
	return sub, seen(ctx, s.blind, err)
}

// seen is err, or ErrUnavailable in the place of ErrNotFound while blind gives an error.
func seen(ctx context.Context, blind func(context.Context) error, err error) error {
	if blind == nil || !errors.Is(err, stream.ErrNotFound) {
		return err
	}
	if why := blind(ctx); why != nil {
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, why)
	}
	return err
}
