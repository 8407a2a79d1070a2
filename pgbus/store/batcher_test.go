package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
)

// A recorder is what a batcher runs: it gives each question as its answer, when it may.
type recorder struct {
	may  chan struct{}
	runs [][]string
	err  error
}

func (r *recorder) run(ctx context.Context, asks []string) ([]string, error) {
	r.runs = append(r.runs, asks)
	<-r.may
	return asks, errors.Join(r.err, ctx.Err())
}

// askAll asks each question in a goroutine, one after another, with the contexts given; the answers come in that order.
func askAll(b *batcher[string, string], ctxs ...context.Context) (answers []chan string) {
	for i, ctx := range ctxs {
		got := make(chan string, 1)
		answers = append(answers, got)
		go func() {
			a, err := b.ask(ctx, strconv.Itoa(i))
			if err != nil {
				a = err.Error()
			}
			got <- a
		}()
		synctest.Wait()
	}
	return answers
}

func TestTheFirstQuestionRunsAtOnceAndThoseThatComeMeanwhileShareTheNextRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{may: make(chan struct{})}
		b := &batcher[string, string]{most: 2, run: r.run}
		ctx := t.Context()
		answers := askAll(b, ctx, ctx, ctx, ctx)
		if len(r.runs) != 1 {
			t.Errorf("under way: %v", r.runs)
		}
		close(r.may)
		for i, got := range answers {
			if a := <-got; a != strconv.Itoa(i) {
				t.Errorf("question %d got %s", i, a)
			}
		}
		if got := fmt.Sprint(r.runs); got != "[[0] [1 2] [3]]" {
			t.Errorf("the runs were %s", got)
		}
		r.err = errors.New("no")
		for _, got := range askAll(b, ctx, ctx) {
			if a := <-got; a != "no" {
				t.Errorf("an error came as %s", a)
			}
		}
	})
}

func TestARunOutlivesWhoMakesItForTheSakeOfTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{may: make(chan struct{})}
		b := &batcher[string, string]{most: 9, run: r.run}
		leaving, leave := context.WithCancel(t.Context())
		answers := askAll(b, leaving)
		leave()
		synctest.Wait()
		close(r.may)
		if a := <-answers[0]; a != "0" {
			t.Errorf("it got %s", a)
		}
	})
}

// A question that is given up at the very moment when it was chosen to make the next run must pass that on.
func TestNobodyWaitsForARunThatNobodyMakes(t *testing.T) {
	t.Parallel()
	for range 100 { // which of two things that are ready comes first is chance
		synctest.Test(t, func(t *testing.T) {
			r := &recorder{may: make(chan struct{})}
			b := &batcher[string, string]{most: 9, run: r.run}
			leaving, leave := context.WithCancelCause(t.Context())
			answers := askAll(b, t.Context(), leaving, t.Context())
			leave(errors.New("gone"))
			close(r.may)
			first, second, third := <-answers[0], <-answers[1], <-answers[2]
			if first != "0" || third != "2" || !slices.Contains([]string{"1", "gone"}, second) {
				t.Errorf("%s, %s, %s", first, second, third)
			}
			synctest.Wait()
			if b.running || len(b.waiting) > 0 {
				t.Errorf("running: %v, waiting: %d", b.running, len(b.waiting))
			}
		})
	}
}
