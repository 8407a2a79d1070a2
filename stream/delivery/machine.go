// Package delivery is what a stream does, from its attach to its end, as a state machine: snapshot, resume, catch-up by
// pages, events, raw NOTIFYs, keepalives, another attach when the feed was thrown away, and the goodbye. It has neither
// sockets nor goroutines nor a clock: a driver asks for the next step, does it, and says what came of it.
package delivery

import (
	"errors"
	"time"

	"topostream/stream"
	"topostream/stream/sse"
)

const (
	// BatchFrames are the most frames of one write.
	BatchFrames = 64
	// journalRetry is the pause before a journal that could not be read is read again.
	journalRetry = 500 * time.Millisecond
	// smallSnapshot is what is copied, so that a stream begins with one write.
	smallSnapshot = 16 << 10
)

// Do is what a driver does next.
type Do uint8

const (
	// Write is to write Step.Bytes, or the batch's frames where there are none; all of it, then to call Wrote. Of
	// frames a driver may give back those that it has not begun. A driver that cannot write calls Fail.
	Write Do = iota
	// Wait is to let Step.Wait pass, then to call Tick; if Step.Follows, for the feed's next change, too, and ask again.
	Wait
	// Read is to call Read of the cursor where it may wait for the journal, then HasRead.
	Read
	// Attach is to ask the bus for Request where that may wait, then to call Attached.
	Attach
	// Close says that the stream is over, and nothing of it is left.
	Close
)

// A Step is what a driver does next. Bytes are shared: nobody may change them.
type Step struct {
	Do      Do
	Follows bool
	Bytes   []byte
	Wait    time.Duration
}

type state uint8

const (
	following state = iota
	pausing         // before the journal is read again
	reading         // Read is under way
	detached        // to be attached again
	attaching       // Attach is under way
	finished        // behind the goodbye
)

// A Machine is one stream. It belongs to one goroutine; only the cursor may be used by another one, between Read and
// HasRead. Make it with New, and ask for steps until Close.
type Machine struct {
	req       stream.AttachRequest
	sub       *stream.Subscription // nil while it is detached
	why       error                // it ends; nil: it does not
	out       []byte               // the unit that is written now, unless that is frames
	keepalive time.Duration
	state     state
	document  bool // out is the snapshot's
	silent    bool // a keepalive is due
}

// New makes the stream of a subscription, which it closes. retry is the client's reconnection time in milliseconds,
// keepalive the silence after which it gets a comment.
func New(req stream.AttachRequest, sub *stream.Subscription, retry int, keepalive time.Duration) Machine {
	m := Machine{req: req, sub: sub, keepalive: keepalive, out: sse.AppendOpening(nil, retry)}
	if s := sub.Snapshot; s != nil && len(s.Bytes) <= smallSnapshot {
		m.out = append(m.out, s.Bytes...)
		s.Release()
	}
	return m
}

// Topology is whose stream it is.
func (m *Machine) Topology() stream.TopologyID { return m.req.Topology }

// Request is what to attach to again.
func (m *Machine) Request() stream.AttachRequest { return m.req }

// Keepalive is the silence after which the client gets a comment.
func (m *Machine) Keepalive() time.Duration { return m.keepalive }

// Cursor is the stream's place in its feed; nil while it has none.
func (m *Machine) Cursor() *stream.Cursor {
	if m.sub == nil {
		return nil
	}
	return m.sub.Cursor
}

// Ending tells whether the stream ends, and why.
func (m *Machine) Ending() error { return m.why }

// Next gives the next step. What it takes from the feed is in b.
func (m *Machine) Next(b *stream.Batch) Step {
	switch {
	case m.out != nil:
		return Step{Do: Write, Bytes: m.out}
	case m.state == finished:
		return Step{Do: Close}
	case m.why != nil:
		return m.leave()
	case m.silent:
		m.silent = false
		return m.write([]byte(sse.Keepalive))
	}
	switch m.state {
	case detached:
		m.state = attaching
		return Step{Do: Attach}
	case pausing:
		return Step{Do: Wait, Wait: min(journalRetry, m.keepalive)} // for ever
	case reading, attaching:
		return Step{Do: Wait, Wait: m.keepalive}
	case following, finished:
	}
	return m.follow(b)
}

func (m *Machine) follow(b *stream.Batch) Step {
	if s := m.sub.Snapshot; s != nil && s.Bytes != nil {
		m.document = true
		return m.write(s.Bytes)
	}
	behind, err := m.sub.Cursor.Take(b)
	switch {
	case err != nil:
		m.lost(err)
		return m.Next(b)
	case behind:
		m.state = reading
		return Step{Do: Read}
	case len(b.Frames) > 0:
		return Step{Do: Write}
	}
	return Step{Do: Wait, Wait: m.keepalive, Follows: true}
}

func (m *Machine) write(unit []byte) Step {
	m.out = unit
	return Step{Do: Write, Bytes: unit}
}

// Wrote says that all of a Write was written, or was given back.
func (m *Machine) Wrote() {
	m.out = nil
	if m.document {
		m.document = false
		m.sub.Snapshot.Release()
	}
}

// Tick says that the time to wait has passed.
func (m *Machine) Tick() {
	m.silent = true
	if m.state == pausing {
		m.state = following
	}
}

// HasRead says what came of Read.
func (m *Machine) HasRead(err error) {
	if m.state != reading {
		return // it is over
	}
	switch m.state = following; {
	case comesBack(err):
		m.state = pausing
	case err != nil:
		m.lost(err)
	}
}

// Attached says what came of Attach. It waits for ever for what is not there now: the client has a stream, and sees
// keepalives. Where somebody can do something about it the stream ends, with the reason.
func (m *Machine) Attached(sub *stream.Subscription, err error) {
	switch {
	case m.state != attaching:
		release(sub) // it is over
	case err == nil:
		m.sub, m.state = sub, following
	case comesBack(err):
		m.silent, m.state = true, detached
	default:
		m.state = detached
		m.End(err)
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
	m.out, m.document, m.state = nil, false, finished
	m.drop()
}

// lost says that the feed gives nothing more: the stream is attached again, behind what the client has where the
// history is the same, else without a number.
func (m *Machine) lost(err error) {
	switch {
	case errors.Is(err, stream.ErrBehind):
		m.req.Resume, m.req.After = true, m.sub.Cursor.Last()
	case errors.Is(err, stream.ErrReset):
		m.req.Resume = false
	default:
		m.End(err)
		return
	}
	m.drop()
	m.state = detached
}

// leave says goodbye, where there is one to say.
func (m *Machine) leave() Step {
	m.drop()
	m.state = finished
	if last := goodbye(m.req.Topology, m.why); last != nil {
		return m.write(last)
	}
	return Step{Do: Close}
}

func (m *Machine) drop() {
	release(m.sub)
	m.sub = nil
}

func release(sub *stream.Subscription) {
	if sub != nil {
		sub.Snapshot.Release()
		sub.Close()
	}
}

// comesBack tells whether err says that a client that waits loses nothing.
func comesBack(err error) bool {
	if _, ok := errors.AsType[*stream.UnavailableError](err); ok {
		return false
	}
	return errors.Is(err, stream.ErrUnavailable) || errors.Is(err, stream.ErrNoMemory)
}
