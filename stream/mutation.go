package stream

import (
	"context"
	"encoding/json"
)

// MutationID is the 36-character form of a UUID in lower case.
type MutationID string

// A Mutation is one that a worker has claimed.
type Mutation struct {
	ID       MutationID      `json:"mutation_id"`
	Topology TopologyID      `json:"topology_id"`
	Op       string          `json:"op"`
	Payload  json.RawMessage `json:"payload"`
	Attempt  int             `json:"attempt"` // 1 for the first
}

// An Applier acts on the outside world for a mutation that the graph's rules allow, before the graph is changed.
//
// Apply may be called by several goroutines, for one topology by one at a time, and more than once for one mutation:
// its id is the idempotency key. It returns nil when the outside world is as the mutation wants it, else an error
// whose text is the reason that operators read; it returns soon after ctx has ended, and nothing that it started is
// running then.
type Applier interface {
	Apply(ctx context.Context, m Mutation) error
}
