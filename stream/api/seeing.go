package api

import (
	"context"
	"errors"
	"fmt"

	"topostream/stream"
)

// Seeing is the bus where this server may be blind: "not there" would be a guess then, which clients take as final. It
// is [stream.ErrUnavailable] as long as blind gives an error.
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

// seen is err, but not "not there" where blind says that this server cannot see what there is.
func seen(ctx context.Context, blind func(context.Context) error, err error) error {
	if blind == nil || !errors.Is(err, stream.ErrNotFound) {
		return err
	}
	if why := blind(ctx); why != nil {
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, why)
	}
	return err
}
