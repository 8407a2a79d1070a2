package stream_test

import (
	"testing"
	"testing/synctest"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// document is a snapshot at seq whose bytes are held in m; nil: nowhere.
func document(t *testing.T, m *stream.Memory, seq stream.Seq, size int64) *stream.Snapshot {
	t.Helper()
	if m == nil {
		return stream.NewSnapshot(seq, make([]byte, size), nil)
	}
	return stream.NewSnapshot(seq, make([]byte, size), mustHold(t, m, size))
}

// kept fails unless the feed gives a document at seq; 0: none.
func kept(t *testing.T, f *stream.Feed, maxEvents int, maxBytes int64, want stream.Seq) {
	t.Helper()
	s := f.Document(maxEvents, maxBytes)
	defer s.Release()
	switch {
	case s == nil && want != 0:
		t.Errorf("no document, want the one at %d", want)
	case s != nil && s.Seq != want:
		t.Errorf("the document at %d, want %d", s.Seq, want)
	}
}

func TestAFeedKeepsItsNewestDocument(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{Base: 5})
	kept(t, f, 9, 9, 0)
	for _, c := range []struct{ set, kept stream.Seq }{{7, 7}, {6, 7}, {8, 8}, {8, 8}} {
		s := document(t, nil, c.set, 10)
		f.SetDocument(s)
		s.Release()
		kept(t, f, 9, 9, c.kept)
	}
	same := document(t, nil, 8, 20)
	f.SetDocument(same)
	if s := f.Document(9, 9); len(s.Bytes) != 20 {
		t.Errorf("%d bytes: of two at the same seq the later one counts", len(s.Bytes))
	}
}

func TestADocumentIsGivenWhileFewEventsFollowItInTheRing(t *testing.T) {
	t.Parallel()
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 4})
	size := int64(len(frame(1).Bytes))
	f.SetDocument(document(t, nil, 2, 10))
	kept(t, f, 0, 0, 2) // ahead of the feed
	for n := range 3 {
		f.Append(frame(n + 1))
	}
	kept(t, f, 0, size, 0)
	kept(t, f, -1, size, 0)
	kept(t, f, 1, size, 2)
	f.Append(frame(4))
	kept(t, f, 2, 2*size, 2)
	kept(t, f, 1, 2*size, 0)
	kept(t, f, 2, 2*size-1, 0)
	kept(t, f, -1, 2*size, 0)
	f.Append(frame(5))
	f.Append(frame(6)) // the ring holds 3 to 6
	kept(t, f, 4, 4*size, 2)
	f.Append(frame(7))
	kept(t, f, 9, 9*size, 0)
}

func TestADocumentThatIsOlderThanTheRingIsOfNoUse(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(1<<20, stats)
	f := stream.NewFeed(stream.FeedConfig{MaxEvents: 1, Memory: m})
	s := document(t, m, 1, 10)
	f.SetDocument(s)
	s.Release()
	f.Append(frame(1))
	f.AppendRaw(frame(0))
	f.Append(frame(2))
	kept(t, f, 9, 999, 1)
	f.Append(frame(3))
	if n := metrictest.Value(stats.HeldBytes); n != 0 {
		t.Errorf("%d bytes of a document that nobody can begin with", n)
	}
	old := document(t, m, 1, 10)
	f.SetDocument(old)
	kept(t, f, 9, 999, 0)
}

func TestADocumentsBytesAreAccountedOnceUntilItsLastReaderHasWrittenThem(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(1<<20, stats)
	held := func(what string, want int64) {
		t.Helper()
		if n := metrictest.Value(stats.HeldBytes); n != want {
			t.Errorf("%s: %d bytes are held, want %d", what, n, want)
		}
	}
	for _, account := range []*stream.Memory{m, nil} { // with a hold of its own, and without
		f := stream.NewFeed(stream.FeedConfig{Memory: m})
		first := document(t, account, 1, 100)
		f.SetDocument(first)
		first.Release()
		held("kept", 100)
		reader := f.Document(9, 9)
		held("kept and read", 100)
		second := document(t, account, 2, 7)
		f.SetDocument(second)
		second.Release()
		held("replaced and read", 107)
		reader.Release()
		reader.Release()
		held("replaced", 7)
		older := document(t, account, 1, 50)
		f.SetDocument(older)
		older.Release()
		held("an older one came", 7)
		if reader.Bytes != nil || reader.Seq != 1 {
			t.Error("a released handle still has its bytes")
		}
		f.Close(stream.ErrClosed)
		held("closed", 0)
		late := document(t, account, 3, 9)
		f.SetDocument(late)
		late.Release()
		held("after the end", 0)
	}
}

func TestDocumentsAreDroppedBeforeRings(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(10_000, stats)
	f, other := stream.NewFeed(stream.FeedConfig{Memory: m, Stats: stats}),
		stream.NewFeed(stream.FeedConfig{Memory: m, Stats: stats})
	f.Append(frame(1))
	rings := metrictest.Value(stats.FeedBytes)
	other.SetDocument(document(t, nil, 1, 4000))
	f.SetDocument(document(t, nil, 1, 4000))
	h := mustHold(t, m, 10_000-rings)
	kept(t, f, 9, 999, 0)
	kept(t, other, 9, 999, 0)
	if n := metrictest.Value(stats.FeedBytes); n != rings {
		t.Errorf("the rings went from %d to %d bytes", rings, n)
	}
	h.Release()
	f.SetDocument(document(t, nil, 1, 4000))
	h = mustHold(t, m, 10_000-4000-rings)
	kept(t, f, 9, 999, 1)
	f.Append(frame(2)) // which is one too many
	kept(t, f, 9, 999, 0)
	if got, _, err := f.Cursor(0).Next(t.Context(), make([]stream.Frame, 0, 4)); len(got) != 2 {
		t.Errorf("%v, %v: the ring has lost an event", got, err)
	}
	h.Release()
}

func TestADocumentIsNotKeptWhileMemoryIsShort(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(100, stats)
	f := stream.NewFeed(stream.FeedConfig{Memory: m})
	h := mustHold(t, m, 91)
	f.SetDocument(document(t, nil, 1, 10))
	kept(t, f, 9, 9, 0)
	h.Release()
	large := document(t, m, 1, 101) // alone, it is granted
	f.SetDocument(large)
	kept(t, f, 9, 9, 0)
	large.Release()
	f.SetDocument(document(t, nil, 1, 100))
	kept(t, f, 9, 9, 1)
}

func TestASnapshotsHandleIsReleasedOnce(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(100, stats)
	a := document(t, m, 7, 10)
	b := a.Retain()
	a.Release()
	a.Release()
	if n := metrictest.Value(stats.HeldBytes); n != 10 || a.Bytes != nil || len(b.Bytes) != 10 || b.Seq != 7 {
		t.Errorf("%d bytes are held; %v, %v", n, a, b)
	}
	b.Release()
	if n := metrictest.Value(stats.HeldBytes); n != 0 {
		t.Errorf("%d bytes are held after the end", n)
	}
	var none *stream.Snapshot
	none.Release()
	if none.Retain() != nil {
		t.Error("of nothing came something")
	}
}

func TestAFeedKeepsNoDocumentThatSomebodyNeedsTheMemoryOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := stream.NewMemory(100, nil)
		feeds := make([]*stream.Feed, 0, 4)
		for range 4 {
			f := stream.NewFeed(stream.FeedConfig{Memory: m})
			f.SetDocument(document(t, nil, 1, 20))
			feeds = append(feeds, f)
		}
		var w waiting
		w.reserve(t.Context(), m, 15)
		w.check(t, "there is room", 15)
		w.reserve(t.Context(), m, 70) // three must go
		w.check(t, "documents make room", 15, 70)
		left := 0
		for _, f := range feeds {
			if s := f.Document(9, 9); s != nil {
				left++
				s.Release()
			}
		}
		if left != 0 { // 15 and 70 leave no room for one of 20
			t.Errorf("%d documents are kept", left)
		}
		mine := document(t, m, 1, 10)
		w.reserve(t.Context(), m, 20)
		feeds[0].SetDocument(mine) // whose bytes are what the other waits for
		w.check(t, "the document is still read", 15, 70)
		mine.Release()
		w.holds[15].Release()
		w.check(t, "nobody reads it", 15, 20, 70)
		kept(t, feeds[0], 9, 9, 0)
	})
}
