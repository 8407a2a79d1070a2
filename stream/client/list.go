package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

// Types of the events of the list of topologies.
const (
	TypeList     = "list"     // rows of the whole list, which comes in one such event or several
	TypeTopology = "topology" // a row that is new or has changed
	TypeRemoved  = "removed"  // a row that is gone: the topology is deleted, or has left the statuses that were asked for
)

// A Row is a topology's row in the list. Times are RFC 3339 with six digits, UTC, as the server wrote them.
type Row struct {
	ID              stream.TopologyID `json:"id"`
	Name            string            `json:"name"`
	Status          string            `json:"status"`
	Reason          *string           `json:"reason"`
	Version         int64             `json:"version"`
	CreatedAt       string            `json:"created_at"`
	UpdatedAt       string            `json:"updated_at"`
	StatusChangedAt string            `json:"status_changed_at"`
	// Seq orders the states of this row: the newest event when it was read. A new event alone is no change of the row.
	Seq stream.Seq `json:"seq"`
	// InFlight is how many mutations are pending or applying.
	InFlight int64 `json:"in_flight"`
}

// A ListChange is what one event says of the list.
type ListChange struct {
	Rows    []Row             // of TypeList: those that it holds, 500 at most; of TypeTopology: the one
	Removed stream.TopologyID // of TypeRemoved
	Begins  bool              // of TypeList: what comes takes the place of all rows that there were
	More    bool              // of TypeList: the list goes on with the next event of this type
}

// A ListRequest says which rows to follow, and what beside them.
type ListRequest struct {
	// Statuses are those of the rows; none: all. Only a list without Topologies can be asked for some.
	Statuses []string
	// Topologies are followed on the same connection, as FollowAll does.
	Topologies []Request
}

// FollowList gives the list of topologies as the token may see it, and then what changes of it: events that have a
// List, which a List keeps as a whole. It is a state stream: of several changes of a row only the newest need come, and
// whoever is connected anew gets the whole list again, with Begins. Within one connection no row goes back to an older
// state; a server that is behind the one before may show one for a moment.
//
// It ends as FollowAll does, but for the end of all topologies, behind which the list goes on.
func (c *Client) FollowList(ctx context.Context, req ListRequest) iter.Seq2[Event, error] {
	return c.events(ctx, func() (*following, error) { return c.followList(req) })
}

// followList is what FollowList begins with.
func (c *Client) followList(req ListRequest) (*following, error) {
	if len(req.Statuses) > 0 && len(req.Topologies) > 0 {
		return nil, errors.New("a list with Topologies has all Statuses: follow one that has some by itself")
	}
	f, err := c.followMany(req.Topologies)
	if err != nil {
		return nil, err
	}
	f.vector.list = &listOrder{}
	if len(req.Topologies) == 0 {
		base := f.address.JoinPath("..", "topologies", "events")
		base.RawQuery = url.Values{"status": req.Statuses}.Encode()
		f.address, f.ask = base, f.askList
	}
	return f, nil
}

// A List keeps the list of topologies, as the events of FollowList make it. The zero value is one of which nothing has
// come.
type List struct{ rows, coming map[stream.TopologyID]Row }

// Rows are those of the list, which the next Take changes; nil until all of it has come. While it comes anew, they are
// those from before.
func (l *List) Rows() map[stream.TopologyID]Row { return l.rows }

// Take takes in what an event says; nil says nothing. Where another server is behind the one before, the newer row
// stays: what that one had last is on its way here.
func (l *List) Take(c *ListChange) {
	switch {
	case c == nil:
		return
	case c.Begins:
		l.coming = make(map[stream.TopologyID]Row, len(c.Rows))
	}
	into := l.coming
	if into == nil {
		into = l.rows
	}
	if into == nil {
		return // the list has not begun
	}
	for _, r := range c.Rows {
		if old, ok := l.rows[r.ID]; ok && older(r.Seq, old.Seq) {
			r = old
		}
		into[r.ID] = r
	}
	delete(into, c.Removed)
	if l.coming != nil && !c.More {
		l.rows, l.coming = l.coming, nil
	}
}

// older tells whether a row's state was before that of another number. What two histories have cannot be compared.
func older(seq, than stream.Seq) bool { return seq.Epoch() == than.Epoch() && seq < than }

// A listOrder checks what a connection says of the list.
type listOrder struct {
	comes bool                             // some of it has come, and more is to
	whole bool                             // all of it came
	seqs  map[stream.TopologyID]stream.Seq // of the rows that there are
}

// connected begins a connection.
func (l *listOrder) connected() { *l = listOrder{seqs: map[stream.TopologyID]stream.Seq{}} }

// isOfList tells whether a type is one of the list's.
func isOfList(event string) bool {
	return event == TypeList || event == TypeTopology || event == TypeRemoved
}

// take gives the event of a frame of the list, or how it breaks the promise (a *BrokenError).
func (l *listOrder) take(frame sse.Event, lastID string) (Event, error) {
	about := &order{}
	change, err := readChange(frame)
	switch {
	case err != nil:
		return Event{}, about.broken(Unreadable, frame, 0, err)
	case frame.LastEventID != lastID:
		return Event{}, about.mislabelled(frame, 0, "event %q is the list's, but has the id %s", frame.Type,
			frame.LastEventID)
	case frame.Type == TypeList:
		change.Begins = !l.comes
		l.comes = change.More
		l.whole = l.whole || !change.More
	case !l.whole || l.comes:
		return Event{}, about.broken(Unfounded, frame, 0, nil)
	}
	for _, r := range change.Rows {
		if last := l.seqs[r.ID]; older(r.Seq, last) {
			return Event{}, (&order{topology: r.ID, last: last}).broken(Backwards, frame, r.Seq, nil)
		}
		l.seqs[r.ID] = r.Seq
	}
	delete(l.seqs, change.Removed)
	return Event{
		Type: frame.Type, Payload: json.RawMessage(frame.Data), Data: frame.Data, List: change,
	}, nil
}

// readChange reads a frame's data.
func readChange(frame sse.Event) (*ListChange, error) {
	data := []byte(frame.Data)
	switch frame.Type {
	case TypeList:
		var list struct {
			Data *[]Row
			More *bool
		}
		err := json.Unmarshal(data, &list)
		if err == nil && (list.Data == nil || list.More == nil) {
			err = errors.New("data or more is missing")
		}
		if err != nil {
			return nil, err
		}
		return &ListChange{Rows: *list.Data, More: *list.More}, malformed(*list.Data...)
	case TypeTopology:
		var row Row
		if err := json.Unmarshal(data, &row); err != nil {
			return nil, err
		}
		return &ListChange{Rows: []Row{row}}, malformed(row)
	}
	var removed struct{ ID stream.TopologyID }
	if err := json.Unmarshal(data, &removed); err != nil {
		return nil, err
	}
	return &ListChange{Removed: removed.ID}, malformed(Row{ID: removed.ID, Seq: 1})
}

// malformed is what is wrong with rows: each is of a topology, whose first event came with it.
func malformed(rows ...Row) error {
	for _, r := range rows {
		if id, ok := stream.ParseTopologyID(string(r.ID)); !ok || id != r.ID || r.Seq == 0 {
			return fmt.Errorf("a row has the id %q and the seq %d", r.ID, r.Seq)
		}
	}
	return nil
}
