package delivery_test

import (
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// observed keeps what a Delay is told.
type observed struct {
	seqs []stream.Seq
	ages []time.Duration
}

func (o *observed) Delivered(age time.Duration, _ stream.TopologyID, seq stream.Seq) {
	o.seqs, o.ages = append(o.seqs, seq), append(o.ages, age)
}

func TestAFrameThatIsNotTheLastOnePlusOneIsCounted(t *testing.T) {
	t.Parallel()
	frames := func(seqs ...stream.Seq) (all []stream.Frame) {
		for _, seq := range seqs {
			all = append(all, stream.Frame{Seq: seq})
		}
		return all
	}
	for name, c := range map[string]struct {
		writes     [][]stream.Frame
		violations int64
		says       string
	}{
		"in order, with raw ones between": {[][]stream.Frame{frames(8, 0, 9), frames(0), frames(10)}, 0, ""},
		"a hole":                          {[][]stream.Frame{frames(8, 10, 11)}, 1, "10 was sent behind 8"},
		"a hole between two writes":       {[][]stream.Frame{frames(8), frames(10)}, 1, "10 was sent behind 8"},
		"one twice":                       {[][]stream.Frame{frames(8, 8)}, 1, "8 was sent behind 8"},
		"two in the wrong order":          {[][]stream.Frame{frames(9, 8)}, 2, "8 was sent behind 9"},
		"not behind the document":         {[][]stream.Frame{frames(9)}, 1, "9 was sent behind 7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, stats, said := newRig(stream.NewSnapshot(7, []byte("x"), nil), nil), metrictest.Stats(), ""
			r.expect(t, opening, "wait")
			for _, write := range c.writes {
				if err := r.Delivered(write, stats, time.Now()); err != nil {
					said = err.Error()
				}
			}
			if n := metrictest.Value(stats.Violations); n != c.violations || !strings.Contains(said, c.says) {
				t.Errorf("%d violations, %q; want %d, %q", n, said, c.violations, c.says)
			}
		})
	}
}

func TestAnotherAttachGoesOnWhereTheClientIsOrBeginsWithADocument(t *testing.T) {
	t.Parallel()
	r, stats := newRig(nil, nil), metrictest.Stats()
	m := r.Machine
	resumed := m.Delivered([]stream.Frame{{Seq: 1}, {Seq: 2}}, stats, time.Now())
	if resumed != nil {
		t.Fatal(resumed)
	}
	r.feed.Close(stream.ErrBehind)
	r.expect(t, opening, "attach true")
	feed := feedAt(2)
	r.attach(0, feed, nil)
	if err := m.Delivered([]stream.Frame{{Seq: 4}}, stats, time.Now()); err == nil {
		t.Error("3 is lost, and nobody says so")
	}
	feed.Close(stream.ErrReset)
	r.Changed(0)
	r.expect(t, "attach false")
	r.attach(0, feedAt(9), stream.NewSnapshot(9, []byte("snapshot"), nil))
	if err := m.Delivered([]stream.Frame{{Seq: 10}}, stats, time.Now()); err != nil {
		t.Error(err)
	}
}

func TestTheDelayIsThatOfTheNewestEventOfAWriteAndOfNoneThatAClientCatchesUpOn(t *testing.T) {
	t.Parallel()
	r, stats, delay := newRig(nil, nil), metrictest.Stats(), &observed{}
	stats.Delay = delay
	at := time.UnixMicro(1_700_000_000_000_000)
	frame := func(seq stream.Seq, age time.Duration) stream.Frame {
		return stream.Frame{Seq: seq, At: at.Add(-age).UnixMicro()}
	}
	for _, write := range [][]stream.Frame{
		{frame(1, time.Hour), frame(7, time.Hour)},           // from before it came
		{frame(8, 3*time.Second), frame(9, time.Second), {}}, // and a raw one
		{{}},                      // a raw one alone
		{{Seq: 10}},               // recorded who knows when
		{frame(11, -time.Minute)}, // by a clock that is ahead
		{frame(12, 5*time.Millisecond), frame(13, time.Hour/2)}, // it waited
	} {
		_ = r.Delivered(write, stats, at) // the numbers are another test's
	}
	want := observed{[]stream.Seq{9, 11, 13}, []time.Duration{time.Second, 0, time.Hour / 2}}
	for i, seq := range delay.seqs {
		if len(delay.seqs) != 3 || seq != want.seqs[i] || delay.ages[i] != want.ages[i] {
			t.Fatalf("%v, want %v", delay, want)
		}
	}
	if len(delay.seqs) != 3 {
		t.Errorf("%v, want %v", delay, want)
	}
}
