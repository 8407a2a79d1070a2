package delivery

import (
	"fmt"
	"time"

	"topostream/stream"
)

// begin begins to count what a part's client is given, from its document, or from the number that it came with. Who is
// attached again without a document has what it was given before.
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

// Delivered says that a driver has written frames of the Write under way, or has begun with the last of them. It
// observes how old the newest of them was at that time, unless the client comes back for what is older than its stream.
//
// Here the server checks itself, by nothing that cursors and feeds are built on: a journaled frame must be the last one
// + 1. An error says that the promise is broken, which is counted, too.
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
