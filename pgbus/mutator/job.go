package mutator

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/graph"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// errLeaseLost is why a job ends without a trace: its lease has run out, or its topology is deleted.
var errLeaseLost = errors.New("the lease is lost: another worker may have the mutation, or it is gone")

// A job is one claimed mutation.
type job struct {
	mutation stream.Mutation
	lease    string
	claimed  time.Time

	// the lease's life: it ends with the lease, and when the worker gives up
	ctx      context.Context //nolint:containedctx
	cancel   context.CancelCauseFunc
	beats    sync.WaitGroup
	settling sync.Mutex // held while the end is recorded: then the lease has no more to say

	op     any    // from stream.ParseOp
	acted  bool   // the applier did, so that the outside world is ahead of the graph
	reason string // why it failed; empty: it did not, so far
	tries  int    // to go on with it
}

// begin starts the heartbeat.
func (j *job) begin(ctx context.Context, w *Worker) {
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	j.beats.Go(func() { w.extend(j) })
}

func (j *job) end() {
	j.cancel(nil)
	j.beats.Wait()
}

// extend is the heartbeat. The lease is lost when the mutation is not this job's any more, and when nobody could be
// told for so long that another worker may have taken it.
func (w *Worker) extend(j *job) {
	const update = `UPDATE mutations SET leased_until = clock_timestamp() + $3::interval WHERE id = $1::text::uuid AND state = 'applying' AND lease = $2::text::uuid`
	every := time.NewTicker(w.cfg.Lease / 3)
	defer every.Stop()
	until := j.claimed.Add(w.cfg.Lease)
	beat := func() {
		// One that settles may wait for a lock again and again: the lease is extended between two tries, at once.
		j.settling.Lock()
		defer j.settling.Unlock()
		if j.ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(j.ctx, w.cfg.Lease/3)
		defer cancel()
		now := time.Now()
		tag, err := w.cfg.Pool.Exec(ctx, update, j.mutation.ID, j.lease, w.cfg.Lease)
		switch {
		case err == nil && tag.RowsAffected() == 1:
			until = now.Add(w.cfg.Lease)
		case err == nil, time.Now().After(until):
			j.cancel(errLeaseLost)
		default:
			w.log.Warn("a lease could not be extended", "topology", j.mutation.Topology, "mutation", j.mutation.ID, "error", err)
		}
	}
	for {
		select {
		case <-every.C:
			beat()
		case <-j.ctx.Done():
			return
		}
	}
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
	return w.act(j) && w.settle(j)
}

// act does what comes before the transaction that settles the job, once; it tells whether that is behind. It leaves
// in j.reason why the mutation has failed.
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
	err = w.cfg.Applier.Apply(j.ctx, j.mutation)
	switch {
	case err == nil:
		j.acted = true
	case j.ctx.Err() == nil:
		j.reason = cmp.Or(err.Error(), "the applier failed and did not say why")
	}
	return true
}

// errRehearsed rolls a rehearsal back.
var errRehearsed = errors.New("rehearsed")

// rehearse makes the edit and takes it back, so that nothing happens outside for what the rules refuse. It tells
// whether it could.
func (w *Worker) rehearse(j *job) (done bool) {
	err := w.transact(j.ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockLease(ctx, tx, j); err != nil {
			return err
		}
		if _, err := graph.Apply(ctx, tx, j.mutation.Topology, j.op); err != nil {
			return err
		}
		return errRehearsed
	})
	if errors.Is(err, errRehearsed) {
		return true
	}
	return w.tryAgain(j, err)
}

// maxReason is the longest reason in bytes.
const maxReason = 4000

// cleanReason makes a text of anybody's one that PostgreSQL takes.
func cleanReason(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + " …"
	}
	return s
}

// plainReason is what every database encoding has.
func plainReason(s string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, s)
}
