package stream_test

import (
	"testing"

	"topostream/stream"
)

// written takes what a cursor has and says that it was written, but for frames that it gives back.
func written(t *testing.T, c *stream.Cursor, back int) {
	t.Helper()
	b := stream.NewBatch(64)
	if _, err := c.Take(b); err != nil {
		t.Fatal(err)
	}
	c.GiveBack(b, len(b.Frames)-back)
	c.Wrote()
}

func TestADeliveryCountsEachClientOnceAndOnlyWhatWasWritten(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{Base: 10})
	early, late := f.Cursor(10), f.Cursor(10)
	done := make(chan *stream.Delivery, 2)
	count := func(seq stream.Seq) *stream.Delivery {
		d := &stream.Delivery{Seq: seq, Wanted: 2, Done: done}
		if !f.Count(d) {
			t.Fatalf("%d is not counted", seq)
		}
		f.Append(stream.Frame{Seq: seq, Bytes: []byte("event: x\n\n")})
		return d
	}
	first := count(11)
	second := count(12)
	if f.Count(&stream.Delivery{Seq: 12}) {
		t.Error("an event behind another one is counted")
	}
	clients := func(d *stream.Delivery, want int64) {
		t.Helper()
		if n, _ := d.Clients(); n != want {
			t.Errorf("%d went to %d clients, want %d", d.Seq, n, want)
		}
	}
	written(t, early, 1)
	clients(first, 1)
	clients(second, 0)
	written(t, early, 0)
	early.Wrote()
	clients(second, 1)
	after := f.Cursor(12) // whose document has both
	after.Wrote()
	clients(first, 1)
	select {
	case d := <-done:
		t.Fatalf("%d is done", d.Seq)
	default:
	}
	written(t, late, 0)
	clients(first, 2)
	if d := <-done; d != first {
		t.Errorf("%d is done first", d.Seq)
	}
	f.Uncount(first)
	f.Uncount(second)
	third := count(13)
	f.Uncount(third)
	written(t, early, 0)
	clients(third, 0)
	clients(second, 2)
}

//nolint:paralleltest // testing.AllocsPerRun does not allow it
func TestAWriteCostsNoMemoryWhereNothingIsCounted(t *testing.T) {
	f := stream.NewFeed(stream.FeedConfig{Base: 10})
	c := f.Cursor(10)
	if n := testing.AllocsPerRun(100, c.Wrote); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
