package client

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

// A vector is what has come of each topology of a stream. It finds out which topology a frame is of; that one's order
// checks the promise.
type vector struct {
	orders map[stream.TopologyID]*order
	only   *order     // of a stream of one topology: each frame is its; nil: the frame says whose it is
	left   int        // topologies that are not deleted
	away   int        // topologies of which the server said last that they are unavailable
	list   *listOrder // nil: it was not asked for
	id     string     // the last id field of this connection, whichever topology's
}

func newVector(one bool, requests ...Request) (*vector, error) {
	v := &vector{orders: make(map[stream.TopologyID]*order, len(requests)), left: len(requests)}
	for _, req := range requests {
		id, ok := stream.ParseTopologyID(string(req.Topology))
		if !ok {
			return nil, fmt.Errorf("%q is no topology id: give the 36-character form of a UUID", req.Topology)
		}
		if v.orders[id] != nil {
			return nil, fmt.Errorf("topology %s is given twice", id)
		}
		o := &order{topology: id}
		if req.Resume {
			o.last, o.known = req.After, claimed
		}
		if v.orders[id] = o; one {
			v.only = o
		}
	}
	return v, nil
}

// connected begins a connection.
func (v *vector) connected() {
	v.id = ""
	if v.list != nil {
		v.list.connected()
	}
}

// numbers are what the server has to know of a client that connects: the last number of each topology that is not
// deleted, nil where there is none.
func (v *vector) numbers() map[stream.TopologyID]*stream.Seq {
	numbers := make(map[stream.TopologyID]*stream.Seq, v.left)
	for id, o := range v.orders {
		switch {
		case o.over:
		case o.known == nothing:
			numbers[id] = nil
		default:
			numbers[id] = &o.last
		}
	}
	return numbers
}

// take gives the event of a frame, or how it breaks the promise (a *BrokenError).
func (v *vector) take(frame sse.Event) (Event, error) {
	if v.list != nil && isOfList(frame.Type) {
		return v.list.take(frame, v.id)
	}
	var c content
	err := json.Unmarshal([]byte(frame.Data), &c)
	o := v.of(frame, c)
	if o == nil {
		return v.takeOther(frame, c, err)
	}
	if err != nil {
		return Event{}, o.broken(Unreadable, frame, 0, err)
	}
	e, err := o.take(frame, c, v.id)
	if err != nil {
		if v.only == nil {
			err = fmt.Errorf("topology %s: %w", o.topology, err)
		}
		return Event{}, err
	}
	v.id = frame.LastEventID // a frame without an id has the one before
	v.note(o, e)
	return e, nil
}

// note records whether a topology's part of the stream is away or over after an event.
func (v *vector) note(o *order, e Event) {
	switch away := e.Type == typeUnavailable; {
	case away && !o.away:
		v.away++
	case !away && o.away:
		v.away--
	}
	o.away = e.Type == typeUnavailable
	if e.Type == stream.TypeDeleted {
		o.over = true
		v.left--
	}
}

// speaksOfAll tells whether an event that ends something ends the whole connection.
func (v *vector) speaksOfAll(e Event) bool { return v.only != nil || e.Topology == "" && e.List == nil }

// of gives the order of the topology that a frame is of; nil: it is of none that was asked for.
func (v *vector) of(frame sse.Event, c content) *order {
	if v.only != nil {
		return v.only
	}
	id := c.TopologyID
	if frame.Type != TypeSnapshot {
		topic, _ := strings.CutPrefix(c.Topic, "topology.")
		id, _, _ = strings.Cut(topic, ".")
	}
	return v.orders[stream.TopologyID(id)]
}

// takeOther takes a frame that is of no topology: it is about the whole stream, or breaks the promise.
func (v *vector) takeOther(frame sse.Event, c content, err error) (Event, error) {
	about := &order{}
	switch {
	case err != nil:
		return Event{}, about.broken(Unreadable, frame, 0, err)
	case frame.Type == TypeSnapshot:
		return Event{}, about.mislabelled(frame, c.Seq, "the snapshot is of %q, which was not asked for", c.TopologyID)
	case c.Journaled || c.Topic != c.Type:
		return Event{}, about.mislabelled(frame, c.Seq, "event %q is of %q, which was not asked for", frame.Type, c.Topic)
	}
	return about.take(frame, c, v.id)
}
