package check

import (
	"context"
	"fmt"
)

// A fork is a promotion of a copy that lacked a topology's newest events. What the old primary alone had is lost
// history: clients may have got it before the promotion, and whoever has must get a snapshot of a new epoch before
// anything else.
type fork struct {
	at     uint64              // newest seq that both have
	lost   uint64              // number of events that the old primary alone had
	epochs map[uint64][]record // of the old primary, from at on
	bases  map[uint64]digest
	log    *flightLog // of the old primary
}

// record gives what the old primary alone had at a seq; nil: nothing.
func (f *fork) record(seq uint64) *record {
	if seq <= f.at {
		return nil
	}
	return recordIn(f.epochs, f.bases, seq)
}

// ambiguous tells whether a seq of the epoch of the fork stands for two events, of which one is lost: no client can
// tell them apart, so nobody may get the one that is not.
func (f *fork) ambiguous(seq uint64) bool {
	return f.lost > 0 && seq > f.at && sameEpoch(seq, f.at)
}

// lostRecord gives what was at a seq before some promotion and is not there any more.
func (t *topology) lostRecord(seq uint64, is func(*record, *fork) bool) *record {
	for _, f := range t.forks {
		if r := f.record(seq); r != nil && is(r, f) {
			return r
		}
	}
	return nil
}

// ambiguous tells whether a seq stands for two events, of which one is lost.
func (t *topology) ambiguous(seq uint64) bool {
	for _, f := range t.forks {
		if f.ambiguous(seq) {
			return true
		}
	}
	return false
}

// An era is a log that tells what was in flight at the seqs up to one of them.
type era struct {
	upto uint64
	log  *flightLog
}

// replaceState takes a state that does not come from the next event: what is in flight at older seqs, the old one
// knows.
func (t *topology) replaceState(s *state, position uint64) {
	t.eras = append(t.eras, era{t.position, t.state.log})
	t.state, t.position = s, position
}

// logAt gives the log that tells what was in flight at a seq that was not taken back.
func (t *topology) logAt(seq uint64) *flightLog {
	for _, e := range t.eras {
		if seq <= e.upto {
			return e.log
		}
	}
	return t.state.log
}

// fork takes in that the database is now a copy, whose tables are s at head. It is called under t.mu.
func (t *topology) fork(s *state, head, first uint64) {
	f := &fork{at: head, epochs: map[uint64][]record{}, bases: map[uint64]digest{}, log: t.state.log}
	for e, records := range t.epochs {
		kept := uint64(0)
		switch {
		case e < epochOf(head):
			continue
		case e == epochOf(head):
			kept = min(head-epochBase(e), uint64(len(records)))
		}
		f.epochs[e] = records
		f.lost += uint64(len(records)) - kept
		t.epochs[e] = records[:kept:kept] // what is appended must not touch the fork's
	}
	for e, base := range t.bases {
		if e > epochOf(head) {
			f.bases[e] = base
			delete(t.bases, e)
		}
	}
	if r := recordIn(t.epochs, t.bases, head); r != nil {
		if difference := r.difference(s.digest, true, true); difference != "" {
			t.problem(head, "the promoted tables are not what the journal told up to there: "+difference)
		}
	} else if head > t.position {
		t.problem(head, fmt.Sprintf("the promoted copy is at %d, ahead of the old primary's %d", head, t.position))
	}
	t.run.stats.lostByFailover.Add(f.lost)
	t.forks = append(t.forks, f)
	t.replaceState(s, head)
	t.eras[len(t.eras)-1].upto = head // above it the fork knows
	t.first = first
	t.head.Store(head)
	t.waiting.Store(int64(s.flights))
	t.ledger.fork(head, t.run.since())
}

// promoted reads what the old primary had to its end, and has every topology go on from what the promoted copy has.
func (f *follower) promoted(ctx context.Context, old, promoted string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.close()
	defer f.close() // the next read goes where everybody is led
	conn, err := f.run.connectTo(ctx, old, "follower")
	if err != nil {
		return fmt.Errorf("the old primary: %w", err)
	}
	f.conn = conn
	if err := f.readAll(ctx); err != nil {
		return fmt.Errorf("the old primary: %w", err)
	}
	f.close()
	if f.conn, err = f.run.connectTo(ctx, promoted, "follower"); err != nil {
		return fmt.Errorf("the promoted copy: %w", err)
	}
	for _, t := range f.topologies {
		s, head, first, err := f.run.readState(ctx, f.conn, t.id)
		if err != nil {
			return fmt.Errorf("the promoted copy: %w", err)
		}
		t.mu.Lock()
		t.judgeWaiting(false)
		t.fork(s, head, first)
		t.mu.Unlock()
	}
	f.run.stats.promotions.Add(1)
	return nil
}
