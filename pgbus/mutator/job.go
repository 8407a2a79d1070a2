package mutator

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"topostream/pgbus/graph"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// A job is one claimed mutation.
type job struct {
	mutation stream.Mutation
	lease    string
	claimed  time.Time
	waited   float64 // seconds from its request until it was claimed

	traceparent string     // of the request that asked for it; empty: of none that is known
	span        trace.Span // from the claim to the end

	// the lease's life: it ends with the lease, and when the worker gives up
	ctx       context.Context //nolint:containedctx
	cancel    context.CancelCauseFunc
	heartbeat sync.WaitGroup
	recording sync.Mutex // held by a transaction that locks the mutation: the heartbeat would wait for its end

	op     any    // from stream.ParseOp
	acted  bool   // the applier has acted: the outside world is ahead of the graph
	reason string // why it failed; empty: it has not failed so far
	tries  int    // how often step could not finish it
}

func (j *job) log(w *Worker) *slog.Logger {
	return w.log.With("topology", j.mutation.Topology, "mutation", j.mutation.ID, "op", j.mutation.Op)
}

// work brings a job to its end. Where somebody else holds what it needs for that, or the database is away, it waits
// in a goroutine of its own, and the loop goes on with another topology; too many of those make the loop wait, too.
func (w *Worker) work(j *job) {
	if w.step(j) {
		return
	}
	select {
	case w.later <- struct{}{}:
		w.jobs.Go(func() {
			defer func() { <-w.later }()
			w.workLater(j)
		})
	default:
		w.workLater(j)
	}
}

func (w *Worker) workLater(j *job) {
	for again := true; again; again = !w.step(j) {
		wait.Pause(j.ctx, wait.Backoff(j.tries, 100*time.Millisecond, w.cfg.LockTimeout))
		j.tries++
	}
	w.wake.Set()
}

// step takes a job as far as it goes now and tells whether that is its end.
func (w *Worker) step(j *job) (done bool) {
	return w.act(j) && w.finish(j)
}

// act does, once, what comes before the transaction that records the job's end: it reads the op, rehearses the edit and
// calls the applier. done tells whether all that is behind. Where the mutation has failed, j.reason says why.
func (w *Worker) act(j *job) (done bool) {
	if j.op != nil && w.cfg.Applier == nil || j.acted || j.reason != "" || j.ctx.Err() != nil {
		return true
	}
	var err error
	if j.op, err = stream.ParseOp(j.mutation.Op, j.mutation.Payload); err != nil {
		j.reason = err.Error()
		return true
	}
	if w.cfg.Applier == nil {
		return true
	}
	if !w.rehearse(j) {
		return false
	}
	if j.reason != "" || j.ctx.Err() != nil {
		return true
	}
	if w.idle.Load() == 0 {
		w.handOver(j.ctx) // this may take long
	}
	j.span.AddEvent("the applier is called")
	err = w.cfg.Applier.Apply(j.ctx, j.mutation)
	j.span.AddEvent("the applier has answered")
	switch {
	case err == nil:
		j.acted = true
	case j.ctx.Err() == nil:
		j.reason = cmp.Or(err.Error(), "the applier failed and did not say why")
	}
	return true
}

// transactFor runs a transaction of a job. All jobs that try again share w.retries: what they wait for may last, and
// the heartbeats of all need connections meanwhile.
func (w *Worker) transactFor(j *job, do func(context.Context, pgx.Tx) error) error {
	if j.tries > 0 {
		select {
		case w.retries <- struct{}{}:
			defer func() { <-w.retries }()
		case <-j.ctx.Done():
			return j.ctx.Err()
		}
	}
	j.recording.Lock()
	defer j.recording.Unlock()
	return w.transact(j.ctx, do)
}

// errRehearsed rolls a rehearsal back.
var errRehearsed = errors.New("rehearsed")

// rehearse makes the edit and rolls it back, so that the applier is not called for what the rules refuse. done tells
// whether that is decided: the edit is allowed, refused, or the lease is lost.
func (w *Worker) rehearse(j *job) (done bool) {
	err := w.transactFor(j, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockLease(ctx, tx, j); err != nil {
			return err
		}
		if err := graph.ApplyMutation(ctx, tx, j.mutation.Topology, j.op); err != nil {
			return err
		}
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		return true
	}
	return w.decided(j, err)
}
