package stream_test

import (
	"runtime"
	"testing"
	"weak"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestMemoryOfAllFeedsIsBounded(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	memory := stream.NewMemory(8000, stats)
	feeds := make([]*stream.Feed, 10)
	for i := range feeds {
		feeds[i] = stream.NewFeed(stream.FeedConfig{Memory: memory, Stats: stats})
	}
	for n := 1; n <= 100; n++ {
		for _, f := range feeds {
			f.Append(frame(n))
		}
	}
	if n := metrictest.Value(stats.FeedBytes); n > 8000+500 {
		t.Errorf("%d bytes", n)
	}
	for _, f := range feeds {
		f.Close(stream.ErrClosed)
	}
	if n := metrictest.Value(stats.FeedBytes); n != 0 {
		t.Errorf("%d bytes after all feeds were closed", n)
	}
}

func TestTheAccountOfARingIsItsEventsAndItsSlots(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 20, MaxBytes: 1000, Memory: stream.NewMemory(1<<20, stats),
		Stats: stats})
	size := int64(len(frame(10).Bytes))
	appendAll(t, f, frame(1))
	if got, want := metrictest.Value(stats.FeedBytes), size-1+8*stream.Slot; got != want {
		t.Errorf("%d bytes with one event, want %d", got, want)
	}
	for n := 2; n <= 100; n++ {
		appendAll(t, f, frame(n))
		slots, events := int64(8), int64(min(n, 20))
		if n > 8 {
			slots = 16
		}
		if n > 16 {
			slots = 20
		}
		want := slots*stream.Slot + events*size
		if n < 29 {
			want -= int64(min(n, 9) - max(n-20, 0)) // those with one digit
		}
		if n == 100 {
			want++
		}
		if got := metrictest.Value(stats.FeedBytes); got != want {
			t.Fatalf("%d bytes after %d events, want %d", got, n, want)
		}
	}
}

func TestAFeedWithoutAnAccountOfItsOwnIsBoundedByItsRingsSize(t *testing.T) {
	t.Parallel()
	j := history(20, 1)
	size := 0
	for _, fr := range j.all {
		size += len(fr.Bytes)
	}
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 20, MaxBytes: size, Journal: j})
	appendAll(t, f, j.all...)
	holds(t, f, j, 1)
}

func TestAFeedThatNeedsMoreThanThereIsDropsHalfOfItsOwnFirst(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	limit := 16*stream.Slot + 16*100
	memory := stream.NewMemory(limit, stats)
	j := &pagedJournal{first: 1, page: 1}
	for n := range 17 {
		j.all = append(j.all, stream.Frame{Seq: stream.Seq(n + 1), Bytes: make([]byte, 100)})
	}
	f := stream.NewFeed(stream.FeedConfig{Journal: j, Memory: memory})
	appendAll(t, f, j.all[:16]...)
	if n := metrictest.Value(stats.FeedBytes); n != limit {
		t.Fatalf("%d bytes, want %d", n, limit)
	}
	holds(t, f, j, 1) // the limit to the byte
	appendAll(t, f, j.all[16])
	holds(t, f, j, 10) // the older 9 of 17 are gone
	if got, want := metrictest.Value(stats.FeedBytes), 8*(stream.Slot+100); got != want {
		t.Errorf("%d bytes, want %d: the slots go with the events", got, want)
	}
}

func TestOtherFeedsGiveUpTheirsForOneLargeEvent(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	memory := stream.NewMemory(20_000, stats)
	j := history(40, 1)
	idle := stream.NewFeed(stream.FeedConfig{Journal: j, Memory: memory})
	appendAll(t, idle, j.all...)
	gone := stream.NewFeed(stream.FeedConfig{Memory: memory})
	appendAll(t, gone, frame(1))
	gone.Close(stream.ErrClosed)
	busy := stream.NewFeed(stream.FeedConfig{Memory: memory})
	before := metrictest.Value(stats.FeedBytes)
	large := stream.Frame{Seq: 1, Bytes: make([]byte, 20_000-before-8*stream.Slot)}
	appendAll(t, busy, large)
	holds(t, idle, j, 1) // it fits, to the byte
	appendAll(t, busy, stream.Frame{Seq: 2, Bytes: make([]byte, 20_000-stream.Slot)})
	if n := metrictest.Value(stats.FeedBytes); n > 20_000 {
		t.Errorf("%d bytes", n)
	}
	gives(t, busy.Cursor(1), "2") // the newest of the feed itself stays
	holds(t, idle, j, 41)
	appendAll(t, busy, stream.Frame{Seq: 3, Bytes: make([]byte, 30_000)}) // there is nothing left to drop
	gives(t, busy.Cursor(2), "3")
}

func TestAFeedThatEndedHasNothingToGive(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	memory := stream.NewMemory(10_000, stats)
	f := stream.NewFeed(stream.FeedConfig{Memory: memory})
	last := frame(2)
	last.Final = true
	c := f.Cursor(0)
	appendAll(t, f, frame(1), last)
	if n := metrictest.Value(stats.FeedBytes); n != 0 {
		t.Errorf("%d bytes of a feed that has ended", n)
	}
	mustHold(t, memory, 10_000)
	appendAll(t, stream.NewFeed(stream.FeedConfig{Memory: memory}), frame(1))
	gives(t, c, "1", "2") // those who are there get the end
	ends(t, c, stream.ErrDeleted)
}

// isFree waits until the garbage collector has taken what p pointed to.
func isFree[T any](t *testing.T, what string, p weak.Pointer[T]) {
	t.Helper()
	for range 10 {
		if runtime.GC(); p.Value() == nil {
			return
		}
	}
	t.Errorf("%s is still in memory", what)
}

// lightFrame is a frame whose bytes nobody but the feed keeps.
func lightFrame(seq stream.Seq) (stream.Frame, weak.Pointer[byte]) {
	b := make([]byte, 1000)
	return stream.Frame{Seq: seq, Bytes: b}, weak.Make(&b[0])
}

func TestWhatARingHasDroppedIsFree(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{MaxBytes: 1000})
	fr, evicted := lightFrame(1)
	f.Append(fr)
	fr, kept := lightFrame(2)
	f.Append(fr)
	isFree(t, "what was evicted", evicted)
	if kept.Value() == nil {
		t.Error("what is in the ring is gone")
	}
	c := f.Cursor(2)
	f.Close(stream.ErrReset)
	isFree(t, "what a feed held that was thrown away", kept)
	runtime.KeepAlive(f)
	runtime.KeepAlive(c)
}

func TestTheAccountForgetsFeedsThatHaveEnded(t *testing.T) {
	t.Parallel()
	memory := stream.NewMemory(1<<20, nil)
	ended := func(end func(*stream.Feed)) weak.Pointer[stream.Feed] {
		f := stream.NewFeed(stream.FeedConfig{Memory: memory})
		end(f)
		return weak.Make(f)
	}
	isFree(t, "a closed feed", ended(func(f *stream.Feed) { f.Close(stream.ErrClosed) }))
	isFree(t, "a deleted topology's feed", ended(func(f *stream.Feed) {
		last := frame(1)
		last.Final = true
		f.Append(last)
	}))
	runtime.KeepAlive(memory)
}
