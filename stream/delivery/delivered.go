package delivery

import (
	"fmt"
	"time"

	"topostream/stream"
)

// begin notes what a part's client has when a subscription begins: its document, or the events up to the number that it
// came with. One that is attached again without a document has what it was given before.
func (p *part) begin() {
	switch {
	case p.req.List != nil:
		return // a state stream: its numbers are this server's own, and the client never sees them
	case p.sub.Snapshot != nil:
		p.sent = p.sub.Snapshot.Seq
	case p.sent == 0:
		p.sent = p.req.After
	}
	p.live = p.sub.Cursor.Feed().Last()
}

// Delivered says that a driver has written these frames of the Write under way; of the last one perhaps only a part.
// It observes how old the newest of them was then, unless the client is still catching up on what is older than its
// stream.
//
// Here the server checks its own promise, with nothing that cursors and feeds rest on: each journaled frame must have
// the seq of the one before + 1. Otherwise it counts a violation and returns an error for the log.
func (m *Machine) Delivered(frames []stream.Frame, stats *stream.Stats, now time.Time) (broken error) {
	p := &m.parts[m.writing]
	if p.req.List != nil {
		return nil
	}
	var newest *stream.Frame
	for i := range frames {
		fr := &frames[i]
		if fr.Seq == 0 {
			continue
		}
		if newest = fr; fr.Seq != p.sent+1 {
			stats.Violations.Inc()
			broken = fmt.Errorf("the promise is broken: topology %s: %d was sent behind %d", p.req.Topology, fr.Seq, p.sent)
		}
		p.sent = fr.Seq
	}
	if newest != nil && newest.At != 0 && newest.Seq > p.live {
		age := max(now.Sub(time.UnixMicro(newest.At)), 0) // the database's clock may be ahead
		stats.Delay.Delivered(age, p.req.Topology, newest.Seq)
	}
	return broken
}
