package client

import (
	"encoding/json"
	"fmt"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

// A BrokenError is what breaks the promise: one snapshot at N, then N+1, N+2, … each once and in order.
type BrokenError struct {
	Fault    Fault
	Topology stream.TopologyID // empty: none that was asked for
	Type     string            // of the event that breaks it
	Seq      stream.Seq        // its number
	ID       string            // the id field of its frame, or the last one before it
	Last     stream.Seq        // the number that came before; 0: none did
	Err      error             // of Unreadable: what is wrong with its data
}

// A Fault is a way to break the promise.
type Fault int

// The faults.
const (
	Hole         Fault = iota + 1 // the events from Last+1 to Seq-1 are missing, or come later
	Repeated                      // an event came again, or late, or the snapshot held it
	Unfounded                     // an event came before a snapshot, or a change of the list before the list
	Backwards                     // a snapshot, or a row of the list, is older, within one epoch, than what came before
	Mislabelled                   // its id, type or topology is not what its data says
	Unreadable                    // its data is not the JSON that was agreed
	AfterDeleted                  // it came after the event `deleted` of its topology, which is the last one
)

func (e *BrokenError) Error() string {
	switch e.Fault {
	case Hole:
		return fmt.Sprintf("event %d came after %d: %s missing", e.Seq, e.Last, missing(e.Last+1, e.Seq-1))
	case Repeated:
		return fmt.Sprintf("event %d came again or late, after %d", e.Seq, e.Last)
	case Unfounded:
		if isOfList(e.Type) {
			return fmt.Sprintf("event %q came before the whole list", e.Type)
		}
		return fmt.Sprintf("event %d came before a snapshot", e.Seq)
	case Backwards:
		if isOfList(e.Type) {
			return fmt.Sprintf("the row of topology %s at %d came after that at %d", e.Topology, e.Seq, e.Last)
		}
		return fmt.Sprintf("a snapshot at %d came after %d", e.Seq, e.Last)
	case Unreadable:
		return fmt.Sprintf("the data of event %q is not what was agreed: %v", e.Type, e.Err)
	case AfterDeleted:
		return fmt.Sprintf("event %q came after the topology was deleted", e.Type)
	case Mislabelled:
	}
	return e.Err.Error()
}

// Unwrap gives what is wrong with the data.
func (e *BrokenError) Unwrap() error { return e.Err }

func missing(first, last stream.Seq) string {
	if first == last {
		return first.String() + " is"
	}
	return first.String() + " to " + last.String() + " are"
}

// knowledge says where an order's last number comes from.
type knowledge int

const (
	nothing knowledge = iota // there is none
	claimed                  // the caller gave it: the server may know better and begin with a snapshot
	given                    // the server gave it: what comes must continue it
)

// An order checks the promise for one topology. It knows nothing of connections but where they begin: a reconnect must
// go on as if there had been none.
type order struct {
	topology stream.TopologyID
	last     stream.Seq
	known    knowledge
	away     bool // the server said last that it is unavailable
	over     bool // it is deleted
}

// lastEventID is what the server has to know of a client that reconnects; empty: nothing. What the caller claims is in
// the address, so that it does not stand for what came.
func (o *order) lastEventID() string {
	if o.known != given || o.last == 0 { // 0 is no id
		return ""
	}
	return o.last.String()
}

// take gives the event of a frame, whose data are c, or how it breaks the promise (a *BrokenError). lastID is the last
// id field before it: a frame that has none of its own carries it on.
func (o *order) take(frame sse.Event, c content, lastID string) (Event, error) {
	e := Event{
		Topology: o.topology, Type: frame.Type, Seq: c.Seq, Journaled: c.Journaled, Time: c.TS, Payload: c.Payload,
		Data: frame.Data,
	}
	switch {
	case o.over:
		return e, o.broken(AfterDeleted, frame, c.Seq, nil)
	case frame.Type == TypeSnapshot:
		e.Journaled, e.Payload = false, json.RawMessage(frame.Data)
		return e, o.snapshot(&e, frame, c, lastID)
	}
	return e, o.event(frame, c, lastID)
}

// snapshot is legal at any time, but within an epoch history does not run backwards. Another epoch is another
// history, whatever its number: a restored database may have a lower one than the lost database had.
func (o *order) snapshot(e *Event, frame sse.Event, c content, lastID string) error {
	switch id := frame.LastEventID; {
	case id != c.Seq.String() && (c.Seq > 0 || id != lastID): // 0 is no id
		return o.mislabelled(frame, c.Seq, "the snapshot at %d has the id %q", c.Seq, id)
	case c.TopologyID != string(o.topology):
		return o.mislabelled(frame, c.Seq, "the snapshot is of %q, not of %s", c.TopologyID, o.topology)
	}
	sameHistory := c.Seq.Epoch() == o.last.Epoch()
	switch {
	case o.known == given && sameHistory && c.Seq < o.last:
		return o.broken(Backwards, frame, c.Seq, nil)
	case o.known == given && sameHistory && c.Seq > o.last:
		e.Gap = Skipped
	case o.known == given && !sameHistory:
		e.Gap = NewHistory
	case o.known == claimed:
		e.Gap = NotResumed
	}
	e.Previous = o.last
	o.last, o.known = c.Seq, given
	return nil
}

func (o *order) event(frame sse.Event, c content, lastID string) error {
	switch id := frame.LastEventID; {
	case frame.Type == "" || frame.Type != c.Type:
		return o.mislabelled(frame, c.Seq, "event %q holds one of type %q", frame.Type, c.Type)
	case !c.Journaled && id != lastID:
		return o.mislabelled(frame, c.Seq, "event %q is not journaled, but has the id %s", frame.Type, id)
	case !c.Journaled:
		return nil
	case id != c.Seq.String():
		return o.mislabelled(frame, c.Seq, "the event with seq %d has the id %q", c.Seq, id)
	case c.Topic != "topology."+string(o.topology)+"."+c.Type:
		return o.mislabelled(frame, c.Seq, "event %d is of %q, not of topology.%s", c.Seq, c.Topic, o.topology)
	case o.known == nothing:
		return o.broken(Unfounded, frame, c.Seq, nil)
	case c.Seq <= o.last:
		return o.broken(Repeated, frame, c.Seq, nil)
	case c.Seq != o.last+1:
		return o.broken(Hole, frame, c.Seq, nil)
	}
	o.last, o.known = c.Seq, given
	return nil
}

func (o *order) broken(fault Fault, frame sse.Event, seq stream.Seq, err error) error {
	return &BrokenError{
		Fault: fault, Topology: o.topology, Type: frame.Type, Seq: seq, ID: frame.LastEventID, Last: o.last, Err: err,
	}
}

func (o *order) mislabelled(frame sse.Event, seq stream.Seq, format string, args ...any) error {
	return o.broken(Mislabelled, frame, seq, fmt.Errorf(format, args...))
}
