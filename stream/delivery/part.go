package delivery

import (
	"errors"

	"topostream/stream"
)

type state uint8

const (
	following state = iota
	pausing         // before the journal is read again
	reading         // Read is under way
	detached        // to be attached again
	attaching       // Attach is under way
	ending          // its last frame is still to be written
	over
)

// A part is what a stream has of one topology.
type part struct {
	req    stream.AttachRequest
	sub    *stream.Subscription // nil while it is detached
	why    error                // why it ends; nil: the client has been told by an event
	from   stream.Seq           // where the subscription began: it gives the events behind
	sent   stream.Seq           // of the newest journaled event, or of the document, that the client was given
	live   stream.Seq           // newest event that the feed had when the client came: what follows is delivered live
	next   int32                // the part behind it in Machine.turns
	queued bool                 // it is in Machine.turns
	state  state
}

// step does what there is to do for a part, which gets another turn if there may be more.
func (m *Machine) step(i int, b *stream.Batch) (step Step, has bool) {
	p := &m.parts[i]
	switch p.state {
	case following:
		return m.follow(i, b)
	case detached:
		p.state = attaching
		return Step{Do: Attach, Part: i}, true
	case ending:
		return m.finish(i), true
	case pausing, reading, attaching, over:
	}
	return Step{}, false
}

func (m *Machine) follow(i int, b *stream.Batch) (step Step, has bool) {
	p := &m.parts[i]
	m.writing = i
	if s := p.sub.Snapshot; s != nil && s.Bytes != nil {
		m.document = true
		m.turns.add(m.parts, i)
		return m.write(s.Bytes), true
	}
	behind, err := p.sub.Cursor.Take(b)
	switch {
	case errors.Is(err, stream.ErrDeleted):
		m.endPart(i, nil)
	case err != nil:
		m.lost(i, err)
	case behind:
		p.state = reading
		return Step{Do: Read, Part: i}, true
	case len(b.Frames) > 0:
		if !b.All { // else the feed's next change is told
			m.turns.add(m.parts, i)
		}
		return Step{Do: Write, Part: i}, true
	}
	return Step{}, false
}

// HasRead says what came of Read.
func (m *Machine) HasRead(i int, err error) {
	p := &m.parts[i]
	if p.state != reading {
		return // it is over
	}
	switch p.state = following; {
	case comesBack(err):
		p.state, m.retries = pausing, true
	case err != nil:
		m.lost(i, err)
	default:
		m.turns.add(m.parts, i)
	}
}

// Attached says what came of Attach. The machine tries for ever to get what is not there now: the client has a stream,
// and sees keepalives. Where somebody can do something about it the part ends, with the reason.
func (m *Machine) Attached(i int, sub *stream.Subscription, err error) {
	p := &m.parts[i]
	switch {
	case p.state != attaching:
		sub.GiveBack() // it is over
	case err == nil:
		p.sub, p.state, p.from = sub, following, sub.Cursor.Last()
		p.begin()
		m.turns.add(m.parts, i)
	case comesBack(err):
		m.silent, p.state = true, detached
		m.turns.add(m.parts, i)
	default:
		m.endPart(i, err)
	}
}

// lost says that a part's feed gives nothing more: the part is attached again, behind what the client has where the
// history is the same, else without a number.
func (m *Machine) lost(i int, err error) {
	p := &m.parts[i]
	switch {
	case errors.Is(err, stream.ErrBehind):
		p.req.Resume, p.req.After = true, p.sub.Cursor.Last()
	case errors.Is(err, stream.ErrReset):
		p.req.Resume = false
	default:
		m.endPart(i, err)
		return
	}
	m.dropPart(i)
	p.state = detached
	m.turns.add(m.parts, i)
}

// endPart has a part end when its turn comes.
func (m *Machine) endPart(i int, why error) {
	p := &m.parts[i]
	p.why, p.state = why, ending
	m.turns.add(m.parts, i)
}

// finish writes a part's last frame and drops it, and with the last part the stream.
func (m *Machine) finish(i int) Step {
	p := &m.parts[i]
	last := m.lastWords(p)
	m.dropPart(i)
	p.state = over
	if m.left--; m.left == 0 {
		m.account.Why = p.why
		return m.leave(last)
	}
	m.out = last
	return Step{Do: Leave, Part: i}
}

// lastWords are what a part says last; nil: nothing.
func (m *Machine) lastWords(p *part) []byte {
	switch {
	case p.why == nil:
		return nil
	case m.many:
		return farewell(p.req.Topology, p.why)
	}
	return goodbye(p.req.Topology, p.why)
}

// dropPart gives back the subscription of a part, if it has one.
func (m *Machine) dropPart(i int) {
	p := &m.parts[i]
	m.count(p)
	p.sub.GiveBack()
	p.sub = nil
}

// comesBack tells whether err passes by itself: the client keeps its stream, waits, and misses nothing.
func comesBack(err error) bool {
	if _, ok := errors.AsType[*stream.UnavailableError](err); ok {
		return false
	}
	return errors.Is(err, stream.ErrUnavailable) || errors.Is(err, stream.ErrNoMemory)
}

const none = -1

// A queue holds parts in the order in which they came, each once.
type queue struct{ first, last int32 }

func newQueue() queue { return queue{none, none} }

func (q *queue) add(parts []part, i int) {
	p := &parts[i]
	if p.queued {
		return
	}
	if p.queued, p.next = true, none; q.first == none {
		q.first = int32(i)
	} else {
		parts[q.last].next = int32(i)
	}
	q.last = int32(i)
}

// next takes out the first; none: there is none.
func (q *queue) next(parts []part) int {
	i := q.first
	if i == none {
		return none
	}
	p := &parts[i]
	p.queued = false
	if q.first = p.next; q.first == none {
		q.last = none
	}
	return int(i)
}
