package pgbus

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
)

// An attachTry is an attach transaction that failed: when, and of how many topologies.
type attachTry struct {
	at         time.Duration
	topologies int64
}

// attachTries are those that a bus has told its log of.
type attachTries struct {
	slog.Handler

	since time.Time
	mu    sync.Mutex
	tries []attachTry
}

func (a *attachTries) Enabled(context.Context, slog.Level) bool { return true }

func (a *attachTries) Handle(_ context.Context, r slog.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Attrs(func(attr slog.Attr) bool {
		if attr.Key == "topologies" {
			a.tries = append(a.tries, attachTry{time.Since(a.since), attr.Value.Int64()})
		}
		return true
	})
	return nil
}

// take gives the tries since the last call.
func (a *attachTries) take() []attachTry {
	synctest.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.tries = nil }()
	return a.tries
}

// attachingBus runs a bus in a bubble that attaches, in a database that does not answer. ask asks for n topologies, and
// gone takes that back.
func attachingBus(t *testing.T, change func(*Config)) (tries *attachTries, ask func(n int) (gone func())) {
	t.Helper()
	tries = &attachTries{Handler: slog.DiscardHandler, since: time.Now()}
	b := loneBus(t, func(c *Config) {
		c.Logger = slog.New(tries)
		if change != nil {
			change(c)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.attachLoop(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	asked := 0
	return tries, func(n int) func() {
		requests := make([]*attachRequest, n)
		for i := range requests {
			asked++
			_, q, err := b.registry.acquire(stream.AttachRequest{Topology: stream.TopologyID(strconv.Itoa(asked))})
			must(t, err)
			requests[i] = q
		}
		b.attaches.Set()
		return func() {
			for _, q := range requests {
				_ = b.registry.abandon(q)
			}
		}
	}
}

func TestTheFirstToAskDoesNotWaitAndAStormCostsFewTransactions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries, ask := attachingBus(t, nil)
		const second = time.Second
		expect := func(what string, want ...attachTry) {
			t.Helper()
			if got := tries.take(); !slices.Equal(got, want) {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
		}
		time.Sleep(second)
		expect("nobody asks")
		gone := ask(1)
		expect("the first", attachTry{second, 1})
		gone()
		time.Sleep(attachGap / 4)
		first := ask(1)
		time.Sleep(attachGap / 4)
		other := ask(1)
		expect("soon afterwards")
		time.Sleep(attachGap)
		expect("those who came soon afterwards", attachTry{second + attachGap, 2})
		first()
		other()
		now := second + attachGap + attachGap/2
		gone = ask(attachBatch)
		expect("a full batch", attachTry{now, attachBatch})
		gone()
		gone = ask(attachBatch - 1)
		time.Sleep(attachGap)
		expect("one less", attachTry{now + attachGap, attachBatch - 1})
		gone()
		time.Sleep(second)
		gone = ask(attachBatch + 100)
		now += attachGap + second
		expect("more than a batch", attachTry{now, attachBatch}, attachTry{now, 100})
		gone()
	})
}

func TestAnAttachThatFailedIsTriedAgainWithoutAnybodyAsking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries, ask := attachingBus(t, nil)
		gone := ask(1)
		time.Sleep(time.Minute)
		got := tries.take()
		if n := len(got); n < 60 || n > 130 { // once in half a second to one
			t.Errorf("%d tries in a minute", n)
		}
		gone()
		time.Sleep(time.Minute)
		if n := len(tries.take()); n != 0 {
			t.Errorf("%d tries of what nobody wants", n)
		}
	})
}

func TestAttachesWaitALittleForAListenConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listen, err := pgx.ParseConfig(nobody)
		must(t, err)
		tries, ask := attachingBus(t, func(c *Config) { c.Bus, c.Listen = "", listen })
		gone := ask(1)
		time.Sleep(listenGrace - time.Nanosecond)
		if got := tries.take(); len(got) != 0 {
			t.Errorf("%v while it may come", got)
		}
		time.Sleep(time.Nanosecond)
		if got := tries.take(); !slices.Equal(got, []attachTry{{listenGrace, 1}}) {
			t.Errorf("%v, want a try after %s", got, listenGrace)
		}
		gone()
	})
}
