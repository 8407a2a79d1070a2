package wal

import (
	"slices"
	"testing"

	"topostream/pgbus/source"
	"topostream/stream"
)

// resolved is what one look tells.
func resolved(d *doubt, v Visibility) (seqs []stream.Seq, ended, left bool) {
	visible, ended, left := d.resolve(v)
	for _, e := range visible {
		seqs = append(seqs, e.Seq)
	}
	slices.Sort(seqs)
	return seqs, ended, left
}

func TestAnEventIsVisibleWhenASnapshotThatWasTakenLaterSeesItAndTheSinkKnowsIt(t *testing.T) {
	t.Parallel()
	seen := Visibility{Next: 100}
	for name, c := range map[string]struct {
		xid        uint32
		told, next bool
		want       bool
	}{
		"told, and seen in the next round":   {99, true, true, true},
		"not seen":                           {100, true, true, false},
		"seen by a snapshot of its round":    {99, true, false, false},
		"the sink has not been told of it":   {99, false, true, false},
		"neither told nor in the next round": {99, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoubt()
			e := source.Event{Topology: "a", Seq: 7, XID: c.xid}
			d.add(e)
			if c.told {
				d.told(e)
			}
			if c.next {
				d.next()
			}
			seqs, ended, left := resolved(&d, seen)
			if (len(seqs) == 1) != c.want || ended || left == c.want {
				t.Errorf("visible are %v, ended %v, left %v", seqs, ended, left)
			}
			if d.covers("a", 7) == c.want {
				t.Errorf("in doubt: %v", !c.want)
			}
		})
	}
}

func TestTheNewestEventOfATopologyIsTheOneInDoubt(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	first, second := source.Event{Topology: "a", Seq: 7, XID: 50}, source.Event{Topology: "a", Seq: 8, XID: 200}
	d.add(first)
	d.told(first)
	d.next()
	d.add(second)
	d.told(first) // late: it is not the newest any more
	d.next()
	if seqs, _, left := resolved(&d, Visibility{Next: 300}); seqs != nil || !left {
		t.Errorf("visible are %v before the sink knows", seqs)
	}
	d.told(second)
	if seqs, _, left := resolved(&d, Visibility{Next: 200}); seqs != nil || !left {
		t.Errorf("visible are %v, want none: the newest is not", seqs)
	}
	if seqs, _, left := resolved(&d, Visibility{Next: 201}); !slices.Equal(seqs, []stream.Seq{8}) || left {
		t.Errorf("visible are %v, left %v", seqs, left)
	}
	d.told(second) // nothing of it is left
	if _, _, left := resolved(&d, Visibility{Next: 201}); left {
		t.Error("something came back")
	}
}

func TestWhatIsUpToTheNewestEventOfItsEpochIsInDoubt(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	const epoch = stream.Seq(1) << 32
	d.add(source.Event{Topology: "a", Seq: epoch + 7})
	for n, want := range map[stream.Seq]bool{epoch + 6: true, epoch + 7: true, epoch + 8: false, 7: false} {
		if got := d.covers("a", n); got != want {
			t.Errorf("%d in doubt: %v", n, got)
		}
	}
	if d.covers("b", epoch+6) {
		t.Error("another topology's is in doubt")
	}
}

func TestTheEndOfATransactionOfBeforeTheStreamIsToldOnce(t *testing.T) {
	t.Parallel()
	d := newDoubt()
	d.watch([]uint32{1}) // of an earlier stream
	d.watch([]uint32{10, 20})
	for _, step := range []struct {
		v           Visibility
		ended, left bool
	}{
		{Visibility{Next: 30, Running: []uint32{10, 20}}, false, true},
		{Visibility{Next: 30, Running: []uint32{20}}, true, true},
		{Visibility{Next: 30, Running: []uint32{20}}, false, true},
		{Visibility{Next: 30}, true, false},
		{Visibility{Next: 30}, false, false},
	} {
		if seqs, ended, left := resolved(&d, step.v); seqs != nil || ended != step.ended || left != step.left {
			t.Errorf("%+v: visible are %v, ended %v, left %v", step.v, seqs, ended, left)
		}
	}
}

func TestWhatIsInDoubtIsLookedAt(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*doubt){
		"an event": func(d *doubt) { d.add(source.Event{}) },
		"a stream": func(d *doubt) { d.watch(nil) },
	} {
		d := newDoubt()
		if len(d.some) != 0 {
			t.Error("something before anything was in doubt")
		}
		if begin(&d); len(d.some) != 1 {
			t.Errorf("%s: nobody looks", name)
		}
	}
}
