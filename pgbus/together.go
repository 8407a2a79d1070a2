package pgbus

import (
	"context"
	"sync"
)

// together has questions that wait at the same time answered at the same time: the first at once, and those that come meanwhile in the next
// run. However many ask, one run is under way.
type together[Q, A any] struct {
	most  int                                     // questions in one run
	run   func(context.Context, []Q) ([]A, error) // answers in the order of the questions
	spawn func(func(ctx context.Context))         // runs it in a goroutine that somebody owns

	mu       sync.Mutex
	waiting  []*question[Q, A]
	underWay bool
}

type question[Q, A any] struct {
	ask       Q
	done      chan answer[A] // one place: the run never waits for it
	abandoned bool           // under together.mu
}

type answer[A any] struct {
	answer A
	err    error
}

// ask waits for an answer, or for the end of ctx. A question that is given up before its run begins is not asked.
func (g *together[Q, A]) ask(ctx context.Context, ask Q) (none A, _ error) {
	q := &question[Q, A]{ask: ask, done: make(chan answer[A], 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, q)
	begin := !g.underWay
	g.underWay = true
	g.mu.Unlock()
	if begin {
		g.spawn(g.runAll)
	}
	select {
	case a := <-q.done:
		return a.answer, a.err
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		q.abandoned = true
		return none, context.Cause(ctx)
	}
}

// runAll answers until nobody waits.
func (g *together[Q, A]) runAll(ctx context.Context) {
	for batch := g.take(); len(batch) > 0; batch = g.take() {
		asks := make([]Q, len(batch))
		for i, q := range batch {
			asks[i] = q.ask
		}
		answers, err := g.run(ctx, asks)
		for i, q := range batch {
			a := answer[A]{err: err}
			if err == nil {
				a.answer = answers[i]
			}
			q.done <- a
		}
	}
}

// take gives the questions of the next run; none: there will be no next run.
func (g *together[Q, A]) take() (batch []*question[Q, A]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.waiting) > 0 && len(batch) < g.most {
		if q := g.waiting[0]; !q.abandoned {
			batch = append(batch, q)
		}
		g.waiting = g.waiting[1:]
	}
	g.underWay = len(batch) > 0
	return batch
}
