package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// mustHold takes n bytes that nobody has to wait for.
func mustHold(t *testing.T, m *stream.Memory, n int64) *stream.Hold {
	t.Helper()
	h, ok := m.TryReserve(n)
	if !ok {
		t.Fatalf("%d bytes are not to be had", n)
	}
	return h
}

// waiting starts a Reserve for each size, one after the other, and tells which have been granted.
type waiting struct {
	mu      sync.Mutex
	granted []int64
	holds   map[int64]*stream.Hold
	errs    map[int64]error
}

func (w *waiting) reserve(ctx context.Context, m *stream.Memory, sizes ...int64) {
	if w.holds == nil {
		w.holds, w.errs = map[int64]*stream.Hold{}, map[int64]error{}
	}
	for _, n := range sizes {
		go func() {
			h, err := m.Reserve(ctx, n)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.holds[n], w.errs[n] = h, err; err == nil {
				w.granted = append(w.granted, n)
			}
		}()
		synctest.Wait()
	}
}

func (w *waiting) check(t *testing.T, what string, want ...int64) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.granted)
	if slices.Sort(want); !slices.Equal(w.granted, want) {
		t.Errorf("%s: granted are %v, want %v", what, w.granted, want)
	}
}

func TestHoldsTogetherFitTheLimitFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stats := metrictest.Stats()
		m := stream.NewMemory(100, stats)
		a, b := mustHold(t, m, 60), mustHold(t, m, 40) // the limit to the byte
		if _, ok := m.TryReserve(1); ok {
			t.Error("a hold beside a full account")
		}
		var w waiting
		w.reserve(t.Context(), m, 50, 30, 20, 10)
		w.check(t, "nothing is free")
		b.Release()
		w.check(t, "40 are free, and who came first wants 50")
		if _, ok := m.TryReserve(1); ok {
			t.Error("a hold past those who wait")
		}
		a.Release()
		w.check(t, "all is free", 50, 30, 20)
		w.holds[20].Release()
		w.check(t, "20 are free", 50, 30, 20, 10)
		if n := metrictest.Value(stats.HeldBytes); n != 90 {
			t.Errorf("%d bytes are held, want 90", n)
		}
		for _, n := range []int64{50, 30, 10} {
			w.holds[n].Release()
		}
		if n := metrictest.Value(stats.HeldBytes); n != 0 {
			t.Errorf("%d bytes are held after all were given back", n)
		}
		mustHold(t, m, 100)
	})
}

func TestMoreThanTheLimitIsGrantedAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := stream.NewMemory(100, nil)
		small := mustHold(t, m, 1)
		var w waiting
		w.reserve(t.Context(), m, 101, 2)
		w.check(t, "one byte is held")
		small.Release()
		w.check(t, "nothing is held", 101)
		w.holds[101].Release()
		w.check(t, "nothing is held again", 101, 2)
	})
}

func TestWhoGivesUpWaitingLetsThoseBehindGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stats := metrictest.Stats()
		m := stream.NewMemory(100, stats)
		a := mustHold(t, m, 60)
		why := errors.New("the client went away")
		ctx, cancel := context.WithCancelCause(t.Context())
		var w, patient waiting
		w.reserve(ctx, m, 50)
		patient.reserve(t.Context(), m, 70, 40, 20)
		w.reserve(ctx, m, 41)
		cancel(why)
		w.check(t, "the request ended")
		for n, err := range w.errs {
			if !errors.Is(err, stream.ErrNoMemory) || !errors.Is(err, why) || w.holds[n] != nil {
				t.Errorf("%d: %v, %v", n, w.holds[n], err)
			}
		}
		patient.check(t, "70 is the first now")
		a.Release()
		patient.check(t, "all is free", 70)
		patient.holds[70].Release()
		patient.check(t, "all is free", 70, 40, 20)
		if n := metrictest.Value(stats.HeldBytes); n != 60 {
			t.Errorf("%d bytes are held, want 60", n)
		}
	})
}

func TestWhatWhoGaveUpStoodInTheWayOfIsGrantedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := stream.NewMemory(100, nil)
		mustHold(t, m, 60)
		ctx, cancel := context.WithCancel(t.Context())
		var w, small waiting
		w.reserve(ctx, m, 50)
		if _, ok := m.TryReserve(1); ok {
			t.Error("a hold past the one who waits")
		}
		small.reserve(t.Context(), m, 40)
		small.check(t, "who came first wants 50")
		cancel()
		small.check(t, "that one gave up", 40)
	})
}

// The grant and the end of the request may come at the same moment; whichever counts, the bytes are not lost.
func TestAHoldThatIsGrantedToARequestThatEndsIsHeldOrFree(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(100, stats)
	for range 300 {
		first := mustHold(t, m, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan *stream.Hold)
		go func() {
			h, err := m.Reserve(ctx, 60)
			if (h == nil) != (err != nil) {
				t.Errorf("%v, %v", h, err)
			}
			done <- h
		}()
		go cancel()
		first.Release()
		(<-done).Release()
		if n := metrictest.Value(stats.HeldBytes); n != 0 {
			t.Fatalf("%d bytes are held by nobody", n)
		}
	}
}

func TestAHoldIsGivenBackAtTheLastRelease(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	m := stream.NewMemory(100, stats)
	h := mustHold(t, m, 7)
	h.Retain()
	h.Release()
	if n := metrictest.Value(stats.HeldBytes); n != 7 {
		t.Errorf("%d bytes are held, want 7", n)
	}
	h.Release()
	if n := metrictest.Value(stats.HeldBytes); n != 0 {
		t.Errorf("%d bytes are held, want none", n)
	}
	var none *stream.Hold
	none.Retain()
	none.Release()
}

func TestAHoldMakesTheRingsSmaller(t *testing.T) {
	t.Parallel()
	stats := metrictest.Stats()
	const limit = 100_000
	m := stream.NewMemory(limit, stats)
	feeds := make([]*stream.Feed, 0, 5)
	for range 5 {
		f := stream.NewFeed(stream.FeedConfig{Memory: m, Stats: stats})
		for n := range 64 {
			f.Append(frame(n + 1))
		}
		feeds = append(feeds, f)
	}
	before := metrictest.Value(stats.FeedBytes)
	h := mustHold(t, m, limit-before) // all that is left
	if n := metrictest.Value(stats.FeedBytes); n != before {
		t.Fatalf("the rings went from %d to %d bytes, and there was room", before, n)
	}
	mustHold(t, m, 1)
	if n := metrictest.Value(stats.FeedBytes); n >= before || n < before*3/4 {
		t.Errorf("for one byte the rings went from %d to %d bytes", before, n)
	}
	h2 := mustHold(t, m, before-1)
	if n := metrictest.Value(stats.FeedBytes); n != 0 {
		t.Errorf("the holds take all, and the rings have %d bytes", n)
	}
	for i, f := range feeds {
		if f.Last() != 64 || f.Append(frame(65)) != stream.Appended {
			t.Errorf("feed %d stands at %d, %v", i, f.Last(), f.Cause())
		}
	}
	h.Release()
	h2.Release()
}

func ExampleMemory_Reserve() {
	memory := stream.NewMemory(1<<20, nil)
	hold, err := memory.Reserve(context.Background(), 64<<10) // before the document is read
	if err != nil {
		fmt.Println(err)
		return
	}
	snapshot := stream.NewSnapshot(41, []byte("event: snapshot\n…"), hold)
	fmt.Println(len(snapshot.Bytes) > 0)
	snapshot.Release() // when it is written
	// Output: true
}
