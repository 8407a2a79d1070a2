package wait

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pauses runs Forever until runs have ended and gives the time between one's end and the next one's beginning.
// connected tells in which runs a connection is had.
func pauses(t *testing.T, runs int, steps Steps, connected func(run int) bool) (d []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		broken := errors.New("broken")
		var ended time.Time
		run := func(_ context.Context, success func()) error {
			if !ended.IsZero() {
				d = append(d, time.Since(ended))
			}
			if len(d) == runs-1 {
				cancel()
				return ctx.Err()
			}
			if connected(len(d)) {
				success()
				time.Sleep(time.Hour) // in the bubble's time
			}
			ended = time.Now()
			return broken
		}
		lost := func(err error) Steps {
			if err != broken { //nolint:errorlint // the very one
				t.Errorf("it was lost by %v", err)
			}
			return steps
		}
		Forever(ctx, run, lost, nil)
	})
	return d
}

// within fails unless a pause is between the half of what it could be and all of it.
func within(t *testing.T, what string, pause, most time.Duration) {
	t.Helper()
	if pause < most/2 || pause > most {
		t.Errorf("%s: a pause of %s, want %s to %s", what, pause, most/2, most)
	}
}

func TestPausesDoubleUpToTheirMost(t *testing.T) {
	t.Parallel()
	steps := Steps{First: 100 * time.Millisecond, Most: 3 * time.Second}
	got := pauses(t, 50, steps, func(int) bool { return false })
	want := steps.First
	for i, pause := range got {
		within(t, "no success", pause, want)
		if want = min(2*want, steps.Most); i > 40 && want != steps.Most {
			t.Errorf("after %d tries a pause may take %s", i, want)
		}
	}
}

func TestPausesBeginAnewAfterEachSuccess(t *testing.T) {
	t.Parallel()
	steps := Steps{First: 100 * time.Millisecond, Most: 5 * time.Second}
	got := pauses(t, 60, steps, func(run int) bool { return run%12 == 11 })
	for i, pause := range got {
		since := i // pauses since the last success, or since the beginning
		if i >= 11 {
			since = (i + 1) % 12
		}
		within(t, fmt.Sprint("after run ", i), pause, min(steps.First<<min(since, 10), steps.Most))
	}
}

func TestASignalEndsAPauseAndTheContextEndsAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		soon := NewSignal()
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		runs := 0
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			run := func(context.Context, func()) error { runs++; return nil }
			Forever(ctx, run, func(error) Steps { return Steps{First: time.Hour, Most: time.Hour} }, soon)
		}()
		for want := 1; want < 4; want++ {
			synctest.Wait()
			if runs != want {
				t.Errorf("%d runs, want %d", runs, want)
			}
			soon.Set()
		}
		synctest.Wait()
		cancel()
		<-ran
		if runs != 4 || time.Since(begun) != 0 {
			t.Errorf("%d runs in %s, want 4 without a pause", runs, time.Since(begun))
		}
		Forever(ctx, func(context.Context, func()) error { t.Error("a run after the end"); return nil }, nil, nil)
	})
}

func TestSignalsThatNobodyWaitsForYetAreOne(t *testing.T) {
	t.Parallel()
	s := NewSignal()
	for range 3 {
		s.Set()
	}
	<-s
	select {
	case <-s:
		t.Error("a second one")
	default:
	}
}

func TestAPauseTellsWhetherTheContextIsStillGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if !Pause(t.Context(), time.Minute) || time.Since(begun) != time.Minute {
			t.Errorf("a pause of a minute took %s", time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		if (Steps{First: time.Minute, Most: time.Hour}).Pause(ctx, 3) || time.Since(begun) != time.Second {
			t.Errorf("it ended after %s, want with the context", time.Since(begun))
		}
	})
}

func TestBackoffTakesAtMostAHalfAway(t *testing.T) {
	t.Parallel()
	const most = 8 * time.Second
	for try, want := range map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 3: most, 4: most, 1000: most} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := Backoff(try, time.Second, most)
			within(t, "backoff", d, want)
			seen[d] = true
		}
		if len(seen) < 50 {
			t.Errorf("try %d: %d different pauses of 100", try, len(seen))
		}
	}
}
