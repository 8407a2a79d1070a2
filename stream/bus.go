package stream

import (
	"context"
	"encoding/json"
	"errors"
)

// Frame is one event, encoded once as the bytes of its SSE frame and shared by every client. Nobody may change Bytes.
type Frame struct {
	Seq   Seq        // 0: not journaled
	Final bool       // the `deleted` event: the stream ends behind it
	Bytes []byte     // "event: …\nid: …\ndata: …\n\n"
	Row   *RowChange // of the list of topologies; nil: it is an event of one
	At    int64      // when it was recorded, in microseconds since 1970 by the database's clock; 0: not journaled
}

// AttachRequest asks for a stream of one topology, or of the list of them.
type AttachRequest struct {
	List     *ListFilter // for the list, which takes none of the other fields; nil: for Topology
	Topology TopologyID
	Resume   bool // the client has all events up to After, and wants those behind it rather than a snapshot
	After    Seq  // of Resume: the seq of the last event that the client has
	Graph    bool // the snapshot shall hold lans, deckies and edges
}

// Subscription is what Attach gives: the snapshot, unless the request could be resumed, and a cursor that continues
// directly behind it. Close it exactly once. Release the snapshot when it is written, or will not be: Close does not.
type Subscription struct {
	Snapshot *Snapshot // nil: resumed
	Cursor   *Cursor
	Close    func()
}

// GiveBack releases the snapshot and closes: for a subscription that nobody wants any more. Of nil it does nothing.
func (s *Subscription) GiveBack() {
	if s != nil {
		s.Snapshot.Release()
		s.Close()
	}
}

// AtOnce is a [Bus] that can also attach without waiting, where all that the client needs is in memory.
//
// AttachAtOnce gives what Attach would give, or nil where that takes a wait or is an error: Attach tells which. Any
// goroutine may call it at any time, also after the bus has stopped.
type AtOnce interface {
	AttachAtOnce(req AttachRequest) *Subscription
}

// JournalRequest asks for a run of a topology's journal.
type JournalRequest struct {
	Topology TopologyID
	After    Seq
	Limit    int   // events
	Most     int64 // bytes of events together
}

// JournalPage is a run of a topology's journal. Events are the encoder's JSON objects, in seq order, without gaps.
type JournalPage struct {
	First  Seq // oldest seq kept; Head+1 when the journal is empty
	Head   Seq
	Events []json.RawMessage
}

// Errors that a Bus returns. Wrapped detail is for the log; the sentinel is for the client.
var (
	// ErrNotFound: no such topology, or a deleted one of which the client already has everything.
	ErrNotFound = errors.New("no such topology")
	// ErrUnavailable: the database could not be asked in time; a retry will help.
	ErrUnavailable = errors.New("the database is away")
	// ErrReset: the feed no longer continues what the client has, because the database has another history or the journal
	// no longer holds what follows: attach again without Resume and send the snapshot.
	ErrReset = errors.New("the feed was thrown away")
	// ErrBehind: the feed was thrown away only because retention was faster than it. The history is the same: attach again
	// with Resume and the cursor's Last, so that the client keeps its place if the journal holds what follows.
	ErrBehind = errors.New("the feed fell behind the journal")
	// ErrDeleted: the topology's last event has been delivered.
	ErrDeleted = errors.New("the topology is deleted")
	// ErrClosed: the bus was stopped.
	ErrClosed = errors.New("the bus is closed")
)

// Bus is how a server hears of new events.
//
// Attach may be called by any goroutine. It returns ErrNotFound, ErrUnavailable or ErrNoMemory (after at most 5 s),
// ErrClosed, or the context's error. Journal returns ErrNotFound for an id that never was, and a *TooLargeError where
// the first event above After takes more than Most; it does not read that event.
// Ready returns nil when streams can be served, else a sentence that says which part fails.
// Run owns every goroutine of the bus and returns when all are gone.
type Bus interface {
	Attach(ctx context.Context, req AttachRequest) (*Subscription, error)
	Journal(ctx context.Context, req JournalRequest) (JournalPage, error)
	Ready() error
	Run(ctx context.Context) error
}

// JournalReader reads what a cursor behind its feed's ring has missed.
//
// Page returns the frames that follow after, without a gap and at least one; ErrReset when the journal does not hold
// after+1 (any more); ErrUnavailable or the context's error otherwise. Callers of one topology share reads.
type JournalReader interface {
	Page(ctx context.Context, id TopologyID, after Seq) ([]Frame, error)
}
