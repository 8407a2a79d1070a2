//go:build !linux

package engine

import (
	"net"
	"time"
)

// An Engine carries nothing on this system.
type Engine struct{}

// A Stream is none on this system.
type Stream struct{}

// New returns ErrUnsupported.
func New(Config) (*Engine, error) { return nil, ErrUnsupported }

// Carry returns ErrUnsupported.
func (*Engine) Carry(net.Conn, Handover, Owner) (*Stream, error) { return nil, ErrUnsupported }

// End does nothing.
func (*Stream) End(error, time.Time) {}
