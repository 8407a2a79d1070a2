package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// room reserves, and gives nil where there is none within a second.
func room(t *testing.T, s *stream.Share, n int64) *stream.Room {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r, err := s.Reserve(ctx, n)
	if err != nil && !errors.Is(err, stream.ErrNoMemory) {
		t.Fatal(err)
	}
	return r
}

func TestAShareGrantsItsPartAndNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stats := metrictest.Stats()
		memory := stream.NewMemory(100, stats)
		quarter, tenth := memory.Share(4), memory.Share(10)
		if quarter.Limit() != 25 || tenth.Limit() != 10 {
			t.Fatalf("%d and %d", quarter.Limit(), tenth.Limit())
		}
		first, second := room(t, quarter, 20), room(t, quarter, 5)
		if first == nil || second == nil || room(t, quarter, 1) != nil {
			t.Error("a quarter of 100 is not 25")
		}
		if other := room(t, tenth, 10); other == nil || metrictest.Value(stats.HeldBytes) != 35 {
			t.Errorf("another share: %v, %d bytes are held", other, metrictest.Value(stats.HeldBytes))
		}
		first.Shrink(10)
		first.Shrink(30) // it never grows
		if metrictest.Value(stats.HeldBytes) != 25 || room(t, quarter, 11) != nil {
			t.Errorf("after shrinking %d bytes are held", metrictest.Value(stats.HeldBytes))
		}
		if first.Shrink(9); metrictest.Value(stats.HeldBytes) != 24 {
			t.Errorf("after shrinking by one byte %d are held", metrictest.Value(stats.HeldBytes))
		}
		third := room(t, quarter, 11)
		for _, r := range []*stream.Room{first, second, third} {
			r.Release()
		}
		if metrictest.Value(stats.HeldBytes) != 10 || room(t, quarter, 25) == nil {
			t.Errorf("after all were released %d bytes are held", metrictest.Value(stats.HeldBytes))
		}
	})
}

func TestWhatIsLargerThanAShareIsGrantedAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := stream.NewMemory(100, nil)
		share := memory.Share(4)
		small := room(t, share, 1)
		if room(t, share, 60) != nil {
			t.Error("60 bytes beside another one")
		}
		small.Release()
		large := room(t, share, 60)
		if large == nil || room(t, share, 1) != nil {
			t.Error("60 bytes alone")
		}
		large.Release()
		if room(t, share, 25) == nil {
			t.Error("nothing is left")
		}
	})
}

func TestAShareThatFindsNoMemoryBesideOthersHoldsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := stream.NewMemory(100, nil)
		share := memory.Share(4)
		others, err := memory.Reserve(t.Context(), 90)
		if err != nil {
			t.Fatal(err)
		}
		if room(t, share, 20) != nil {
			t.Error("110 of 100 bytes")
		}
		if room(t, share, 10) == nil {
			t.Error("100 of 100 bytes")
		}
		others.Release()
		if room(t, share, 15) == nil {
			t.Error("the share keeps what it was refused")
		}
	})
}
