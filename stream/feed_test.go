package stream_test

import (
	"fmt"
	"testing"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func frame(n int) stream.Frame {
	return stream.Frame{Seq: stream.Seq(n), Bytes: fmt.Appendf(nil, "event: x\nid: %d\ndata: {}\n\n", n)}
}

func TestAFrameThatDiffersFromTheRingsIsAConflict(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	feed.Append(frame(1))
	if r := feed.Append(stream.Frame{Seq: 1, Bytes: []byte("forged")}); r != stream.Conflict {
		t.Errorf("%v", r)
	}
}

func TestACursorGivesTheFinalFrameAndThenTheEnd(t *testing.T) {
	t.Parallel()
	feed := stream.NewFeed(stream.FeedConfig{})
	c := feed.Cursor(0)
	last := frame(1)
	last.Final = true
	feed.Append(last)
	if got, _, err := c.Next(t.Context(), make([]stream.Frame, 0, 4)); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	ends(t, c, stream.ErrDeleted)
}

func TestTheFeedTellsWhatBecameOfAnEvent(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	f := stream.NewFeed(stream.FeedConfig{Base: 5, MaxEvents: 2, Stats: stats})
	other := func(n int) stream.Frame { return stream.Frame{Seq: stream.Seq(n), Bytes: []byte("forged")} }
	for _, c := range []struct {
		frame stream.Frame
		want  stream.AppendResult
	}{
		{frame(7), stream.Hole},
		{frame(5), stream.Duplicate},
		{frame(6), stream.Appended},
		{frame(6), stream.Duplicate},
		{other(6), stream.Conflict},
		{other(5), stream.Duplicate}, // nobody knows what it was
		{frame(8), stream.Hole},
		{frame(7), stream.Appended},
		{other(6), stream.Conflict},
		{frame(8), stream.Appended},
		{other(6), stream.Duplicate}, // the ring has dropped it
		{other(7), stream.Conflict},
		{other(8), stream.Conflict},
	} {
		if got := f.Append(c.frame); got != c.want {
			t.Errorf("append %q after %d: %v, want %v", c.frame.Bytes, f.Last(), got, c.want)
		}
	}
	if n := metrictest.Value(stats.Events); n != 3 || f.Last() != 8 {
		t.Errorf("%d events, the last is %d", n, f.Last())
	}
	f.AppendRaw(raw("x"))
	f.Close(stream.ErrClosed)
	if got := f.Append(frame(9)); got != stream.Closed || f.Last() != 8 {
		t.Errorf("append to a closed feed: %v, last %d", got, f.Last())
	}
	f.AppendRaw(raw("x"))
	if n := metrictest.Value(stats.RawEvents); n != 1 {
		t.Errorf("%d raw events, want 1", n)
	}
}

func TestAResultIsAWord(t *testing.T) {
	t.Parallel()
	words := fmt.Sprint(stream.Appended, stream.Duplicate, stream.Conflict, stream.Hole, stream.Closed)
	if words != "appended duplicate conflict hole closed" {
		t.Error(words)
	}
}

func TestAnEarlierLifesEndIsNotTheFeeds(t *testing.T) {
	t.Parallel()
	final := func(n int) stream.Frame { fr := frame(n); fr.Final = true; return fr }
	f := stream.NewFeed(stream.FeedConfig{Alive: 2})
	appendAll(t, f, final(1), final(2))
	if f.Cause() != nil {
		t.Fatalf("it has ended: %v", f.Cause())
	}
	appendAll(t, f, final(3))
	if f.Cause() != stream.ErrDeleted { //nolint:errorlint // the sentinel itself
		t.Errorf("it has ended by %v", f.Cause())
	}
}

func TestAFeedEndsOnce(t *testing.T) {
	t.Parallel()
	for cause, resets := range map[error]int64{
		stream.ErrReset: 1, stream.ErrBehind: 1, stream.ErrClosed: 0, stream.ErrDeleted: 0,
	} {
		stats := metrictest.Stats()
		f := stream.NewFeed(stream.FeedConfig{Stats: stats})
		appendAll(t, f, frame(1))
		if metrictest.Value(stats.Feeds) != 1 || f.Cause() != nil {
			t.Errorf("%d feeds, %v", metrictest.Value(stats.Feeds), f.Cause())
		}
		f.Close(cause)
		f.Close(stream.ErrReset)
		if f.Cause() != cause { //nolint:errorlint // the sentinel itself
			t.Errorf("ended by %v, want %v", f.Cause(), cause)
		}
		if metrictest.Value(stats.Feeds) != 0 || metrictest.Value(stats.Resets) != resets ||
			metrictest.Value(stats.FeedBytes) != 0 {
			t.Errorf("%v: %d feeds, %d resets, %d bytes", cause, metrictest.Value(stats.Feeds), metrictest.Value(stats.Resets),
				metrictest.Value(stats.FeedBytes))
		}
	}
}

// holds fails unless the ring begins at first: who has the event before it needs no journal, who has less does.
func holds(t *testing.T, f *stream.Feed, j *pagedJournal, first stream.Seq) {
	t.Helper()
	for after := range first {
		before := len(j.reads)
		if _, _, err := f.Cursor(after).Next(t.Context(), make([]stream.Frame, 0, 1)); err != nil {
			t.Fatalf("after %d: %v", after, err)
		}
		if read, want := len(j.reads) > before, after+1 < first; read != want {
			t.Errorf("the journal is read after %d: %v, want the ring to begin at %d", after, read, first)
		}
	}
}

func TestARingDropsItsOldestBeyondItsBounds(t *testing.T) {
	t.Parallel()
	size := len(frame(1).Bytes)
	for _, c := range []struct {
		events, bytes, given int
		first                stream.Seq
	}{
		{events: 4, given: 4, first: 1},
		{events: 4, given: 5, first: 2},
		{events: 12, given: 12, first: 1},
		{events: 12, given: 13, first: 2},
		{events: 1, given: 3, first: 3},
		{given: 1024, first: 1},
		{given: 1025, first: 2},
		{events: -1, bytes: -1, given: 1025, first: 2},
		{bytes: 3 * size, given: 3, first: 1},
		{bytes: 3*size - 1, given: 3, first: 2},
		{bytes: 3 * size, given: 4, first: 2},
		{bytes: 1, given: 4, first: 4}, // one stays, whatever its size
	} {
		j := history(c.given, 1)
		f := stream.NewFeed(stream.FeedConfig{MaxEvents: c.events, MaxBytes: c.bytes, Journal: j})
		appendAll(t, f, j.all...)
		holds(t, f, j, c.first)
	}
}

func TestACursorGivesNoMoreFramesThanTheBufferHas(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{})
	c := f.Cursor(0)
	for n := 1; n <= 5; n++ {
		f.Append(frame(n))
	}
	for _, want := range []int{2, 2, 1} {
		if got, _, err := c.Next(t.Context(), make([]stream.Frame, 0, 2)); err != nil || len(got) != want {
			t.Errorf("%d frames, %v, want %d", len(got), err, want)
		}
	}
}

func TestARingHoldsWhatFollowsTheEventBeforeItsOldest(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{Base: 5, MaxEvents: 2})
	for n := 6; n <= 9; n++ {
		f.Append(frame(n))
	}
	for after, want := range map[stream.Seq]bool{5: false, 6: false, 7: true, 8: true, 9: true} {
		if f.Holds(after) != want {
			t.Errorf("it holds all after %d: %v", after, !want)
		}
	}
}

func TestTheBytesOfARingAreBoundedByDefault(t *testing.T) {
	t.Parallel()
	j := &pagedJournal{first: 1, page: 1}
	for n := range 5 {
		j.all = append(j.all, stream.Frame{Seq: stream.Seq(n + 1), Bytes: make([]byte, 1<<20)})
	}
	f := stream.NewFeed(stream.FeedConfig{Journal: j})
	appendAll(t, f, j.all[:4]...)
	holds(t, f, j, 1)
	appendAll(t, f, j.all[4])
	holds(t, f, j, 2)
}
