// Package delivery is what a stream of one topology or of many does, from its attach to its end, as a state machine:
// snapshot, resume, catch-up by pages, events, raw NOTIFYs, keepalives, another attach when the feed was thrown away,
// and the goodbye. It has neither sockets nor goroutines nor a clock: a driver asks for the next step, does it, and
// says what came of it.
package delivery

import (
	"time"

	"topostream/stream"
	"topostream/stream/sse"
)

const (
	// BatchFrames are the most frames of one write.
	BatchFrames = 64
	// journalRetry is the pause before a journal that could not be read is read again.
	journalRetry = 500 * time.Millisecond
	// smallSnapshot is the largest snapshot, in bytes, that is copied behind the opening, so that one write begins the
	// stream.
	smallSnapshot = 16 << 10
)

// Do is what a driver does next.
type Do uint8

const (
	// Write is to write Step.Bytes, or the batch's frames where there are none; all of it, then to call Wrote. Of
	// frames a driver may give back those that it has not begun. A driver that cannot write calls Fail.
	Write Do = iota
	// Wait is to wait until there is something to tell the machine.
	Wait
	// Read is to call Read of the part's cursor where it may wait for the journal, then HasRead. The machine goes on
	// meanwhile.
	Read
	// Attach is to ask the bus for Request where that may wait, then to call Attached. The machine goes on meanwhile.
	Attach
	// Leave says that the part has nothing to do with its feed any more.
	Leave
	// Close says that the stream is over, and nothing of it is left.
	Close
)

// A Step is what a driver does next, and for which part. Bytes are shared: nobody may change them. Where Retry is set,
// the machine's Retry is called once when that time has passed, whatever else comes.
type Step struct {
	Do    Do
	Part  int
	Bytes []byte
	Retry time.Duration
}

// A Machine is one stream. It has a part for each of its topologies, and gives their frames as they come, in turn. It
// belongs to one goroutine; only a cursor may be used by another one, between Read and HasRead. Make it with New or
// NewMany, tell it of what happens, and ask for steps until Close.
type Machine struct {
	parts     []part
	turns     queue         // the parts that may have something to do
	left      int           // parts that are not over
	writing   int           // whose frames or document are written now
	why       error         // why it ends; nil: it goes on
	out       []byte        // what is written now, where that is no batch of frames
	keepalive time.Duration // of silence
	many      bool          // a part's goodbye says whose it is
	document  bool          // out is the document of writing
	silent    bool          // a keepalive is due
	retries   bool          // a part pauses, and the driver has not been told by Step.Retry yet
	finished  bool          // the last frame has been given: nothing follows but Close
	account   Account
}

// New makes the stream of a subscription, which it closes. retry is the client's reconnection time in milliseconds,
// keepalive the silence after which it gets a comment.
func New(req stream.AttachRequest, sub *stream.Subscription, retry int, keepalive time.Duration) Machine {
	parts, room, small := []part{{req: req, sub: sub, from: sub.Cursor.Last()}}, 0, false
	if s := sub.Snapshot; s != nil && len(s.Bytes) <= smallSnapshot {
		room, small = len(s.Bytes), true
	}
	parts[0].begin()
	m := newMachine(parts, retry, keepalive, room)
	if small {
		m.out = append(m.out, sub.Snapshot.Bytes...)
		sub.Snapshot.Release()
	}
	m.turns.add(m.parts, 0)
	return m
}

// NewMany makes the stream of many topologies. Somebody is attaching them: what came of each is told by Attached.
func NewMany(reqs []stream.AttachRequest, retry int, keepalive time.Duration) Machine {
	parts := make([]part, len(reqs))
	for i, req := range reqs {
		parts[i] = part{req: req, state: attaching}
	}
	m := newMachine(parts, retry, keepalive, 0)
	m.many = true
	return m
}

// newMachine makes a machine whose first write is the opening, with room for more bytes behind that.
func newMachine(parts []part, retry int, keepalive time.Duration, room int) Machine {
	return Machine{
		parts: parts, turns: newQueue(), left: len(parts), keepalive: keepalive,
		out: sse.AppendOpening(make([]byte, 0, sse.OpeningSize+room), retry),
	}
}

// Parts is how many topologies the stream began with.
func (m *Machine) Parts() int { return len(m.parts) }

// Request is what to attach a part to.
func (m *Machine) Request(part int) stream.AttachRequest { return m.parts[part].req }

// Keepalive is the silence after which the client gets a comment.
func (m *Machine) Keepalive() time.Duration { return m.keepalive }

// Cursor is a part's place in its feed; nil while it has none.
func (m *Machine) Cursor(part int) *stream.Cursor {
	if sub := m.parts[part].sub; sub != nil {
		return sub.Cursor
	}
	return nil
}

// Changed says that a part's feed has changed. It tells whether there is something to do: the driver asks for a step.
func (m *Machine) Changed(part int) bool {
	if m.parts[part].state != following {
		return false
	}
	m.turns.add(m.parts, part)
	return true
}

// Next gives the next step. Frames that are to be written are in b.
func (m *Machine) Next(b *stream.Batch) Step {
	step := m.next(b)
	if m.retries {
		m.retries, step.Retry = false, journalRetry
	}
	return step
}

func (m *Machine) next(b *stream.Batch) Step {
	switch {
	case m.out != nil:
		return Step{Do: Write, Part: m.writing, Bytes: m.out}
	case m.finished:
		return Step{Do: Close}
	case m.why != nil:
		return m.leave(goodbye(m.Only(), m.why))
	case m.silent:
		m.silent = false
		return m.write([]byte(sse.Keepalive))
	}
	for i := m.turns.next(m.parts); i != none; i = m.turns.next(m.parts) {
		if step, has := m.step(i, b); has {
			return step
		}
	}
	return Step{Do: Wait}
}

func (m *Machine) write(b []byte) Step {
	m.out = b
	return Step{Do: Write, Part: m.writing, Bytes: b}
}

// Wrote says that all of a Write was written, or was given back.
func (m *Machine) Wrote() {
	m.out = nil
	if m.document {
		m.document = false
		m.parts[m.writing].sub.Snapshot.Release()
	}
	if cursor := m.Cursor(m.writing); cursor != nil {
		cursor.Wrote()
	}
}

// GiveBack takes back the frames of the Write under way but the first n.
func (m *Machine) GiveBack(b *stream.Batch, n int) {
	m.Cursor(m.writing).GiveBack(b, n)
	m.turns.add(m.parts, m.writing)
}

// Tick says that nothing was written for Keepalive.
func (m *Machine) Tick() { m.silent = true }

// Retry says that the time of Step.Retry has passed.
func (m *Machine) Retry() {
	for i := range m.parts {
		if p := &m.parts[i]; p.state == pausing {
			p.state = following
			m.turns.add(m.parts, i)
		}
	}
}

// End ends the stream in order, behind what is being written. The first reason counts.
func (m *Machine) End(why error) {
	if m.why == nil {
		m.why = why
	}
}

// Fail ends the stream where nothing can be written any more.
func (m *Machine) Fail(why error) {
	m.End(why)
	m.out, m.document = nil, false
	m.drop()
}

// leave ends all parts, and writes the last frame, where there is one.
func (m *Machine) leave(last []byte) Step {
	m.drop()
	if last != nil {
		return m.write(last)
	}
	return Step{Do: Close}
}

// drop ends all parts.
func (m *Machine) drop() {
	for i := range m.parts {
		m.dropPart(i)
		m.parts[i].state = over
	}
	m.finished = true
}

// Only is the topology of a stream that New made; empty: it may have many.
func (m *Machine) Only() stream.TopologyID {
	if m.many {
		return ""
	}
	return m.parts[0].req.Topology
}
