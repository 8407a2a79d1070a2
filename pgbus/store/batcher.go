package store

import (
	"context"
	"slices"
	"sync"
)

// A batcher answers questions in runs: the first question at once; those that come meanwhile share the next run.
// However many ask, one run is under way. It has no goroutine of its own: one of those who ask makes the run, and stays
// for it even when its own context has ended. (Libraries of this kind, such as graph-gophers/dataloader, let the first
// question wait for others instead.)
type batcher[Q, A any] struct {
	most int                                     // questions in one run
	run  func(context.Context, []Q) ([]A, error) // answers in the order of the questions; its context never ends

	mu      sync.Mutex
	waiting []*question[Q, A]
	running bool
}

type question[Q, A any] struct {
	ask    Q
	runs   chan struct{}  // receives when whoever asks this question is to make the next run
	chosen bool           // that is so; under batcher.mu
	done   chan answer[A] // of capacity 1: the run never waits for it
}

type answer[A any] struct {
	answer A
	err    error
}

// ask waits for an answer, or for the end of ctx, whose cause it returns then. A question that is given up before its
// run begins is not asked.
func (b *batcher[Q, A]) ask(ctx context.Context, ask Q) (none A, _ error) {
	q := &question[Q, A]{ask: ask, runs: make(chan struct{}, 1), done: make(chan answer[A], 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, q)
	if !b.running {
		b.running = true
		b.chooseLocked()
	}
	b.mu.Unlock()
	select {
	case <-q.runs:
		b.runNext(context.WithoutCancel(ctx))
		a := <-q.done
		return a.answer, a.err
	case a := <-q.done:
		return a.answer, a.err
	case <-ctx.Done():
		b.giveUp(q)
		return none, context.Cause(ctx)
	}
}

// runNext answers those who wait, the caller among them, and has the first who came meanwhile make the run after that.
func (b *batcher[Q, A]) runNext(ctx context.Context) {
	b.mu.Lock()
	n := min(len(b.waiting), b.most)
	batch := b.waiting[:n:n]
	b.waiting = b.waiting[n:]
	b.mu.Unlock()
	defer func() { // also when run panics
		b.mu.Lock()
		defer b.mu.Unlock()
		b.chooseLocked()
	}()
	asks := make([]Q, n)
	for i, q := range batch {
		asks[i] = q.ask
	}
	answers, err := b.run(ctx, asks)
	for i, q := range batch {
		a := answer[A]{err: err}
		if err == nil {
			a.answer = answers[i]
		}
		q.done <- a
	}
}

// chooseLocked has the first who waits make the next run; where nobody waits, there is none.
func (b *batcher[Q, A]) chooseLocked() {
	if b.running = len(b.waiting) > 0; b.running {
		b.waiting[0].chosen = true
		b.waiting[0].runs <- struct{}{}
	}
}

// giveUp takes a question back, unless its run has begun.
func (b *batcher[Q, A]) giveUp(q *question[Q, A]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, q)
	if i < 0 {
		return
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	if q.chosen {
		b.chooseLocked()
	}
}
