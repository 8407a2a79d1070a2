package mutator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
)

// errLeaseLost is why a job ends without a trace: its lease has run out, or its topology is deleted.
var errLeaseLost = errors.New("the lease is lost: another worker may have the mutation, or it is gone")

// begin starts the heartbeat.
func (j *job) begin(ctx context.Context, w *Worker) {
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	j.heartbeat.Go(func() { w.extend(j) })
}

// end stops the heartbeat.
func (j *job) end() {
	j.cancel(nil)
	j.heartbeat.Wait()
	j.span.End()
}

// extend is the heartbeat. The lease is lost when the mutation is not this job's any more, and when nobody could be
// told for so long that another worker may have taken it.
func (w *Worker) extend(j *job) {
	every := time.NewTicker(w.cfg.Lease / 3)
	defer every.Stop()
	until := j.claimed.Add(w.cfg.Lease)
	for {
		select {
		case <-every.C:
			until = w.extendOnce(j, until)
		case <-j.ctx.Done():
			return
		}
	}
}

// extendOnce extends a lease that lasts until then, and gives until when it lasts now.
func (w *Worker) extendOnce(j *job, until time.Time) time.Time {
	const update = `
UPDATE mutations SET leased_until = clock_timestamp() + $3::interval
 WHERE id = $1::text::uuid AND state = 'applying' AND lease = $2::text::uuid`
	// A job may wait for a lock again and again: the lease is extended between two tries, at once.
	j.recording.Lock()
	defer j.recording.Unlock()
	if j.ctx.Err() != nil {
		return until
	}
	ctx, cancel := context.WithTimeout(j.ctx, w.cfg.Lease/3)
	defer cancel()
	now := time.Now()
	tag, err := w.cfg.Pool.Exec(ctx, update, j.mutation.ID, j.lease, w.cfg.Lease)
	switch {
	case err == nil && tag.RowsAffected() == 1:
		return now.Add(w.cfg.Lease)
	case err == nil, time.Now().After(until):
		j.cancel(errLeaseLost)
	default:
		j.log(w).Warn("a lease could not be extended", "error", err)
	}
	return until
}

// lockTopology locks the topology's row, which everything that touches one of its mutations does first. The lock is
// the weak one: somebody who inserts a mutation by hand does not wait for an edit. (The store's is the strong one: it
// counts what is in flight.)
func lockTopology(ctx context.Context, tx pgx.Tx, id stream.TopologyID) error {
	const lock = `SELECT FROM topologies WHERE id = $1::text::uuid FOR NO KEY UPDATE`
	tag, err := tx.Exec(ctx, lock, id)
	switch {
	case err != nil:
		return fmt.Errorf("lock the topology: %w", err)
	case tag.RowsAffected() == 0:
		return errLeaseLost
	}
	return nil
}

// lockLease locks the topology and the mutation, if that is still this job's. The lease may have run out: what counts
// is that nobody has taken the mutation.
func lockLease(ctx context.Context, tx pgx.Tx, j *job) error {
	const lock = `
SELECT FROM mutations WHERE id = $1::text::uuid AND state = 'applying' AND lease = $2::text::uuid FOR UPDATE`
	if err := lockTopology(ctx, tx, j.mutation.Topology); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, lock, j.mutation.ID, j.lease)
	switch {
	case err != nil:
		return fmt.Errorf("lock the mutation: %w", err)
	case tag.RowsAffected() == 0:
		return errLeaseLost
	}
	return nil
}
