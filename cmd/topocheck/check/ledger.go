package check

import (
	"fmt"
	"time"
)

// A tag names what one writer wrote in one statement: it stands in the event's payload. It is below 2⁵³, so that a
// JSON number holds it.
type tag uint64

const tagWriter = 36 // bits of the counter below the writer's number

func newTag(writer int, counter uint64) tag {
	return tag(uint64(writer+1)<<tagWriter | counter)
}

func (m tag) writer() int     { return int(m>>tagWriter) - 1 }
func (m tag) counter() uint64 { return uint64(m) & (1<<tagWriter - 1) }

func (m tag) String() string { return fmt.Sprintf("w%d-%d", m.writer(), m.counter()) }

// outcome is what became of a transaction.
type outcome int

const (
	open       outcome = iota // it is under way
	committed                 // COMMIT has returned
	rolledBack                // it was undone, for certain
	unknown                   // the connection ended during COMMIT
)

// An entry is a tag that is not yet both decided and found in the journal.
type entry struct {
	outcome outcome
	seq     uint64        // where it was found; 0: not yet
	sent    time.Duration // when COMMIT was
	at      time.Duration // when COMMIT returned
	excused bool          // retention may have removed it before it was read
}

// A ledger compares what writers committed to one topology with what its journal holds. It is used under the topology's
// lock and holds only what is undecided: one that is decided and found is struck out.
type ledger struct {
	entries map[tag]*entry
	last    map[int]tag   // newest of each writer that was found
	epochAt time.Duration // when the newest epoch was seen to have begun; 0: there was none
}

func newLedger() ledger { return ledger{entries: map[tag]*entry{}, last: map[int]tag{}} }

// begin says that a statement with this tag is about to run.
func (l *ledger) begin(m tag) { l.entries[m] = &entry{} }

// decide says what became of it, by COMMIT sent and returned then; problem is what the journal has wrong.
func (l *ledger) decide(m tag, o outcome, sent, at time.Duration) (found uint64, problem string) {
	e := l.entries[m]
	if e == nil {
		return 0, ""
	}
	switch {
	case e.seq != 0 && o == rolledBack:
		delete(l.entries, m)
		return e.seq, fmt.Sprintf("the journal holds %s, which was rolled back", m)
	case e.seq != 0 || o == rolledBack:
		delete(l.entries, m)
		return e.seq, ""
	}
	e.outcome, e.sent, e.at = o, sent, at
	return 0, ""
}

// find says that the journal holds it at seq. It gives when it was committed, 0 if that is not known yet.
func (l *ledger) find(m tag, seq uint64) (at time.Duration, problem string) {
	e := l.entries[m]
	switch {
	case e == nil:
		return 0, fmt.Sprintf("the journal holds %s, which was not committed, or holds it twice", m)
	case e.seq != 0:
		return 0, fmt.Sprintf("the journal holds %s twice: it is also %d", m, e.seq)
	}
	// What a writer does not know may be committed late, beside its next one.
	if e.outcome != unknown {
		if last := l.last[m.writer()]; m < last {
			problem = fmt.Sprintf("the journal holds %s after %s: the writer committed them in the other order", m,
				last)
		}
		l.last[m.writer()] = max(m, l.last[m.writer()])
	}
	e.seq = seq
	if e.outcome != open {
		delete(l.entries, m)
	}
	return e.at, problem
}

// fork says that a promotion has taken back what is above seq: who does not know yet what became of it need not find it
// again, but may, where a request was sent again.
func (l *ledger) fork(seq uint64, at time.Duration) {
	l.newEpoch(at)
	for _, e := range l.entries {
		if e.seq > seq {
			e.seq, e.excused = 0, true
		}
	}
}

// excuse says that retention has removed what was not read: what was written so far need not be found, but what is
// found is judged as ever.
func (l *ledger) excuse() {
	for _, e := range l.entries {
		e.excused = true
	}
}

// newEpoch forgets the order of what was found: what was taken back may have been the newest.
func (l *ledger) newEpoch(at time.Duration) {
	clear(l.last)
	l.epochAt = at
}
