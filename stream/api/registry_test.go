package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/stream/delivery"
)

// ends notes why a stream was ended.
type ends struct{ why atomic.Pointer[error] }

func (e *ends) End(why error, _ time.Time) { e.why.CompareAndSwap(nil, &why) }

func (e *ends) is(why error) bool {
	got := e.why.Load()
	return got == nil && why == nil || got != nil && errors.Is(*got, why)
}

func listed(user, set string) (*session, *ends) {
	e := &ends{}
	return &session{user: user, set: set, carrier: e}, e
}

func TestWhoResumesTakesThePlaceOfTheOldestStreamOfTheSameTopology(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]*registry{"a user's places": newRegistry(0, 3), "all places": newRegistry(3, 0)} {
		a, endA := listed("ann", "x")
		b, endB := listed("ann", "x")
		c, _ := listed("ann", "y")
		for _, s := range []*session{a, b, c} {
			if err := g.add(s, false); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		late, _ := listed("ann", "x")
		other, _ := listed("ann", "z")
		if g.add(late, false) == nil || g.add(other, true) == nil {
			t.Errorf("%s: there was no place", name)
		}
		if err := g.add(late, true); err != nil || !endA.is(delivery.ErrReplaced) || !endB.is(nil) {
			t.Errorf("%s: %v", name, err)
		}
		g.remove(a) // which has ended since
		if n := g.streams.Load(); n != 3 {
			t.Errorf("%s: %d streams", name, n)
		}
		latest, _ := listed("ann", "x")
		if err := g.add(latest, true); err != nil || !endB.is(delivery.ErrReplaced) {
			t.Errorf("%s: the second: %v", name, err)
		}
		for _, s := range []*session{b, c, late, latest, latest} {
			g.remove(s)
		}
		if n := g.streams.Load(); n != 0 || len(g.shardOf("ann").users) != 0 {
			t.Errorf("%s: %d streams are left", name, n)
		}
	}
}

func TestNoLimitIsPassedHoweverManyComeAndGo(t *testing.T) {
	t.Parallel()
	const most, mostEach = 40, 6
	g := newRegistry(most, mostEach)
	var all sync.WaitGroup
	var users [10]atomic.Int64
	for i := range 400 {
		all.Go(func() {
			user := i % len(users)
			for range 50 {
				s, _ := listed(fmt.Sprint("user ", user), "x")
				if g.add(s, false) != nil {
					continue
				}
				if n := users[user].Add(1); n > mostEach || g.streams.Load() > most+int64(len(users)) {
					t.Errorf("%d streams of one user, %d in all", n, g.streams.Load())
				}
				users[user].Add(-1)
				g.remove(s)
			}
		})
	}
	all.Wait()
	if n := g.streams.Load(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

func TestADrainEndsAllLetsNobodyInAndWaitsUntilTheyAreGone(t *testing.T) {
	t.Parallel()
	g := newRegistry(0, 0)
	const n = 100
	all, told := make([]*session, 0, n), make([]*ends, 0, n)
	for i := range n {
		s, e := listed(fmt.Sprint("user ", i), "x")
		if err := g.add(s, false); err != nil {
			t.Fatal(err)
		}
		all, told = append(all, s), append(told, e)
	}
	drained := make(chan error, 1)
	go func() { drained <- g.drain(t.Context()) }()
	for i, e := range told {
		for e.why.Load() == nil {
			select {
			case err := <-drained:
				t.Fatalf("it is over with %d streams: %v", len(all)-i, err)
			case <-t.Context().Done():
				t.Fatal("a stream was not told")
			case <-time.After(time.Millisecond):
			}
		}
		if !e.is(delivery.ErrDraining) {
			t.Errorf("stream %d ends with %v", i, *e.why.Load())
		}
		if s, _ := listed("late", "x"); !errors.Is(g.add(s, true), delivery.ErrDraining) {
			t.Error("somebody was let in")
		}
		g.remove(all[i])
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	g = newRegistry(0, 0)
	s, _ := listed("ann", "x")
	if err := g.add(s, false); err != nil {
		t.Fatal(err)
	}
	if err := g.drain(cut); !errors.Is(err, context.Canceled) {
		t.Errorf("a drain whose time is over: %v", err)
	}
}
