// Package engine carries streams on Linux without a goroutine, a timer or a buffer for each: the socket of a request
// that was accepted is taken from net/http and belongs to a shard, one goroutine for many clients. A shard is told
// which feeds have changed, and writes to each of their clients all that waits for it in one write. What may wait for
// the database happens elsewhere.
//
// The bytes are the same as over net/http, but for `Connection: close` in the place of chunks.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// Config is what New needs.
type Config struct {
	// Attach asks the bus for another subscription.
	Attach       func(context.Context, stream.AttachRequest) (*stream.Subscription, error)
	Stats        *stream.Stats
	Logger       *slog.Logger
	WriteTimeout time.Duration // how long one frame, or the document, may take once a part of it is written
}

// A Handover is a stream that the engine is to carry.
type Handover struct {
	Head     []byte // what it begins with
	Machine  delivery.Machine
	Arrivals Arrivals
	Unread   int       // bytes behind the request that net/http has read from the client, and that nobody wants
	Expires  time.Time // its token; zero: never
}

// An Owner is told once, by the shard, that its stream is over, and what it was. It must not block.
type Owner interface{ Ended(a delivery.Account) }

// ErrUnsupported says that sockets cannot be carried on this system, or that this one cannot.
var ErrUnsupported = errors.New("the engine needs Linux and a plain TCP connection")
