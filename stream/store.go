package stream

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A Topology is a topology's summary. Times are as in events: RFC 3339, UTC, six digits.
type Topology struct {
	ID              TopologyID `json:"id"`
	Name            string     `json:"name"`
	Status          string     `json:"status"`
	Reason          *string    `json:"reason"`
	Version         int64      `json:"version"`
	CreatedAt       string     `json:"created_at"`
	UpdatedAt       string     `json:"updated_at"`
	StatusChangedAt string     `json:"status_changed_at"`
}

// A NewTopology is what a topology begins with.
type NewTopology struct {
	Name    string
	LANs    []AddLAN
	Deckies []AddDecky
}

// A StatusChange is what an operator asks for.
type StatusChange struct {
	Status string
	Reason *string // nil: none, also where the topology has one now
}

// A NewMutation is one to enqueue. ParseOp takes its payload.
type NewMutation struct {
	Op              string
	Payload         json.RawMessage
	ExpectedVersion *int64            // nil: any
	RequestedBy     string            // the subject
	IdempotencyKey  string            // empty: none
	Body            [sha256.Size]byte // hash of the request's body: IdempotencyKey stands for this body and no other
}

// A ConflictError says why what was asked for does not go with the present state.
type ConflictError struct {
	Kind   error  // one of the sentinels below
	Detail string // the sentence for the client
}

func (e *ConflictError) Error() string { return e.Detail }
func (e *ConflictError) Unwrap() error { return e.Kind }

// Kinds of a ConflictError.
var (
	ErrIllegalTransition = errors.New("the status cannot change so")
	ErrNotAccepting      = errors.New("the topology accepts no mutations now")
	ErrVersionConflict   = errors.New("the topology has another version")
	ErrNameTaken         = errors.New("the name is taken")
	ErrKeyReused         = errors.New("the idempotency key stands for another body")
	ErrTooMany           = errors.New("too many mutations wait") // a retry helps when some have finished
)

// ErrBusy means that somebody's transaction holds what this one needs; a retry will help when that has ended.
var ErrBusy = errors.New("another transaction holds the topology: try again")

// KeyLife is how long an idempotency key stands for its mutation.
const KeyLife = 24 * time.Hour

// MutationStates are all states of mutations.
func MutationStates() []string { return []string{"pending", "applying", "applied", "failed"} }

// A MutationQuery asks for mutations of a topology, the newest first.
type MutationQuery struct {
	States []string // empty: all
	Before int64    // only those at lower positions; 0: all
	Limit  int
	Bytes  int64 // of the rows together; the first row is given whatever its size
}

// A TooLargeError says that what was asked for takes more bytes than it was allowed to; it was not read.
type TooLargeError struct{ Bytes int64 } // what it took now: it may have grown when it is asked for again

func (e *TooLargeError) Error() string { return fmt.Sprintf("it takes %d bytes", e.Bytes) }

// Store keeps topologies and their mutations. Any goroutine may call it.
//
// Every method returns ErrBusy when it had to wait for a lock for 5 s, ErrUnavailable when the database could not be
// asked in time, or the context's error; nothing is stored then, unless the connection was lost in the commit itself.
// Methods that name a topology return ErrNotFound when there is none. Of its other errors, *FieldError and
// *ConflictError are for the client, *TooLargeError for the caller, and the rest is for the log alone.
//
// What is read for an answer comes as the answer's JSON, of at most as many bytes as the caller allows with most;
// a longer one is a *TooLargeError. While it is read it takes 1 MiB more.
type Store interface {
	// CreateTopology makes a pending topology with its LANs, then its deckies. It returns a *ConflictError (ErrNameTaken),
	// or a *FieldError that names the LAN or decky that breaks one of the graph's rules.
	CreateTopology(ctx context.Context, t NewTopology) (Topology, error)
	// Topologies lists those of only, all if that is nil, in the order of their names:
	// {"total":0,"limit":0,"offset":0,"data":[Topology, …]}. Total counts all that are in only.
	Topologies(ctx context.Context, only []TopologyID, limit int, offset, most int64) ([]byte, error)
	// Exists returns ErrNotFound where there is no such topology.
	Exists(ctx context.Context, id TopologyID) error
	// Topology reads one with its graph, all of one moment:
	// {"topology":Topology,"seq":0,"lans":[…],"deckies":[…],"edges":[…]}. The events above seq have not happened yet in
	// any part of it.
	Topology(ctx context.Context, id TopologyID, most int64) ([]byte, error)
	// ChangeStatus returns a *ConflictError (ErrIllegalTransition) with the database's own sentence.
	ChangeStatus(ctx context.Context, id TopologyID, c StatusChange) (Topology, error)
	// DeleteTopology deletes it with all that it has, in-flight mutations included.
	DeleteTopology(ctx context.Context, id TopologyID) error
	// Enqueue queues a mutation, or finds the one that was queued for the same subject, topology, key and body within
	// KeyLife. It returns a *ConflictError: ErrKeyReused, else ErrNotAccepting, else ErrVersionConflict, else
	// ErrTooMany; or a *FieldError that names the payload, where the database cannot keep it.
	Enqueue(ctx context.Context, id TopologyID, m NewMutation) (MutationID, error)
	// Mutations gives a page of mutation rows as a JSON array. The page that follows is the one Before next; 0: there is
	// none.
	Mutations(ctx context.Context, id TopologyID, q MutationQuery, most int64) (page []byte, next int64, err error)
}
