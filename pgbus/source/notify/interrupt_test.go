package notify

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnInterruptEndsOneWait(t *testing.T) {
	t.Parallel()
	var i interruptible
	begin := func() (context.Context, func()) { return i.context(t.Context(), time.Hour) }

	ctx, done := begin()
	if ctx.Err() != nil {
		t.Fatal("nobody has interrupted")
	}
	if i.interrupt(); ctx.Err() == nil {
		t.Error("an interrupt does not end the wait")
	}
	i.interrupt() // the owner is about to look anyway
	done()
	if ctx, done = begin(); ctx.Err() != nil {
		t.Error("the next wait is ended by the interrupts of the last one")
	}
	done()
	if ctx.Err() == nil {
		t.Error("a wait that is done stays")
	}

	i.interrupt()
	i.interrupt()
	if ctx, done = begin(); ctx.Err() == nil {
		t.Error("an interrupt between two waits does not end the second one")
	}
	done()
	if ctx, done = begin(); ctx.Err() != nil {
		t.Error("interrupts between two waits end more than the second one")
	}
	done()
}

func TestAWaitEndsAfterItsTimeAndWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var i interruptible
		begun := time.Now()
		ctx, done := i.context(t.Context(), time.Minute)
		<-ctx.Done()
		done()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("%v after %s", ctx.Err(), time.Since(begun))
		}
		parent, cancel := context.WithCancel(t.Context())
		ctx, done = i.context(parent, time.Minute)
		defer done()
		if cancel(); !errors.Is(ctx.Err(), context.Canceled) {
			t.Error("it goes on without its context")
		}
	})
}
