package delivery

import (
	"errors"
	"os"

	"topostream/stream"
)

// ErrSlow ends a stream whose client did not take in time what it was sent.
var ErrSlow = errors.New("the client did not take in time what it was sent")

// An Account is what a stream was, once it is over.
type Account struct {
	Why    error      // why it ended; nil: its topologies are gone
	Events int64      // journaled events given, in all its parts
	First  stream.Seq // of a stream of one topology: the seqs of the first and the last event; 0: there was none
	Last   stream.Seq
	Bytes  int64 // written, as the driver has counted them
}

// Account gives what the stream was, once it is over.
func (m *Machine) Account() Account {
	a := m.account
	if m.left > 0 { // else the last part has ended it, and account.Why is the part's
		a.Why = m.why
	}
	if m.many {
		a.First, a.Last = 0, 0
	}
	return a
}

// count adds the events that a part's subscription gave. Their seqs have no gaps, so that the first and the last tell
// how many there were, and nothing is counted while they are written.
func (m *Machine) count(p *part) {
	if p.sub == nil || p.req.List != nil {
		return
	}
	last := p.sub.Cursor.Last()
	if last <= p.from {
		return
	}
	m.account.Events += int64(last - p.from)
	m.account.Last = last
	if m.account.First == 0 {
		m.account.First = p.from + 1
	}
}

// EndCause is the label of why a stream ended, by which such ends are counted.
func EndCause(why error) stream.Cause {
	switch {
	case why == nil, errors.Is(why, stream.ErrDeleted), errors.Is(why, stream.ErrNotFound):
		return stream.ClosedDeleted
	case errors.Is(why, ErrExpired):
		return stream.ClosedExpired
	case errors.Is(why, ErrDraining):
		return stream.ClosedDraining
	case errors.Is(why, ErrReplaced):
		return stream.ClosedReplaced
	case errors.Is(why, ErrSlow), errors.Is(why, os.ErrDeadlineExceeded):
		return stream.ClosedSlow
	case errors.Is(why, stream.ErrUnavailable), errors.Is(why, stream.ErrClosed), errors.Is(why, stream.ErrNoMemory):
		return stream.ClosedUnavailable
	}
	return stream.ClosedByClient // it has gone, or sends what nobody wants
}

// EndReason is EndCause as the word that metrics and the access log have.
func EndReason(why error) string { return stream.CloseReasons[EndCause(why)] }
