package mutator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/codes"

	"topostream/pgbus/graph"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

// finish tries once to bring a job to its end and tells whether it has: applied, failed, given back because the
// worker stops, or lost.
func (w *Worker) finish(j *job) (done bool) {
	var reason string
	outcome := stream.JobLost
	err := w.transactFor(j, func(ctx context.Context, tx pgx.Tx) (err error) {
		reason, err = w.record(ctx, tx, j)
		return err
	})
	switch {
	case err == nil && reason == "":
		outcome = stream.JobApplied
		j.log(w).Debug("a mutation is applied")
	case err == nil:
		outcome = stream.JobFailed
		j.span.SetStatus(codes.Error, reason)
		j.log(w).Info("a mutation failed", "reason", reason)
	case errors.Is(context.Cause(j.ctx), errStopping):
		outcome = stream.JobGivenBack
		j.span.SetStatus(codes.Error, "given back: the worker stops")
		w.giveBack(j)
	case !w.decided(j, err) || j.ctx.Err() == nil:
		return false
	}
	j.end()
	w.cfg.Stats.Finished[stream.OpLabel(j.mutation.Op)][outcome].Inc()
	w.cfg.Stats.Apply.Observe(time.Since(j.claimed).Seconds())
	return true
}

// decided logs why a transaction of a job failed, and tells whether that is final: the edit is refused, which is then
// j.reason, or the job's lease is lost. Else the transaction is tried again.
func (w *Worker) decided(j *job, err error) bool {
	refused, isRefused := errors.AsType[*graph.RefusedError](err)
	pgErr, fromServer := errors.AsType[*pgconn.PgError](err)
	timeout, isHeld := errors.AsType[*postgres.LockTimeoutError](err)
	switch {
	case errors.Is(err, errLeaseLost), errors.Is(context.Cause(j.ctx), errLeaseLost):
		j.cancel(errLeaseLost)
		j.span.SetStatus(codes.Error, errLeaseLost.Error())
		j.log(w).Warn("this worker was too late: the lease ran out, or the topology is gone; nothing is changed")
		return true
	case j.ctx.Err() != nil:
		return true
	case isRefused:
		j.reason = refused.Reason
		return true
	case isHeld:
		j.log(w).Warn("somebody holds the topology or its rows; trying again beside other work",
			"blocked_by", timeout.By, "waited", w.cfg.LockTimeout, "error", timeout.Err)
	case fromServer && refusedForGood(pgErr):
		j.log(w).Warn("PostgreSQL refuses the edit; the mutation fails", "error", err)
		if j.reason != "" { // it refuses the reason, too, in which there may be what this database's encoding lacks
			j.reason = plainReason(j.reason)
		} else {
			j.reason = "PostgreSQL refused the edit: " + pgErr.Message
		}
	case postgres.Away(err):
		j.log(w).Warn("a mutation waits for the database", "error", err)
	default:
		j.log(w).Error("a mutation cannot be finished until somebody mends this; trying again", "error", err)
	}
	return false
}

// refusedForGood tells whether PostgreSQL would refuse the same again: for the data, a constraint, an event's size,
// or a trigger's exception. Anything else, missing rights among them, may be mended while the mutation waits.
func refusedForGood(err *pgconn.PgError) bool {
	if len(err.Code) != 5 {
		return false
	}
	switch err.Code[:2] {
	case "22", "23", "54", "P0":
		return true
	}
	return false
}

// record makes the edit and records the job's end; it gives the reason if that is a failure. A topology that is not
// active any more does not matter here: what was begun while it was is finished.
func (w *Worker) record(ctx context.Context, tx pgx.Tx, j *job) (reason string, err error) {
	if err := lockLease(ctx, tx, j); err != nil {
		return "", err
	}
	reason = j.reason
	if reason == "" {
		err := graph.ApplyMutation(ctx, tx, j.mutation.Topology, j.op)
		refused, ok := errors.AsType[*graph.RefusedError](err)
		switch {
		case err == nil:
			return "", applied(ctx, tx, j)
		case !ok:
			return "", fmt.Errorf("make the edit: %w", err)
		case j.acted:
			reason = "the applier has acted, but then the edit was refused: " + refused.Reason
		default:
			reason = refused.Reason
		}
	}
	reason = cleanReason(reason)
	return reason, w.failed(ctx, tx, j, reason)
}

func applied(ctx context.Context, tx pgx.Tx, j *job) error {
	const update = `
UPDATE mutations SET state = 'applied', lease = NULL, leased_until = NULL WHERE id = $1::text::uuid`
	if _, err := tx.Exec(ctx, update, j.mutation.ID); err != nil {
		return fmt.Errorf("record that the mutation is applied: %w", err)
	}
	return nil
}

func (w *Worker) failed(ctx context.Context, tx pgx.Tx, j *job, reason string) error {
	const update = `
UPDATE mutations SET state = 'failed', reason = $2, lease = NULL, leased_until = NULL WHERE id = $1::text::uuid`
	if _, err := tx.Exec(ctx, update, j.mutation.ID, reason); err != nil {
		return fmt.Errorf("record that the mutation failed: %w", err)
	}
	return w.degrade(ctx, tx, j.mutation.Topology, reason)
}

// degrade gives a live topology the reason why one of its mutations failed, and parks it: the rest of its queue waits
// until the next wake-up of that topology. Parking comes last, because the status change is such a wake-up.
func (w *Worker) degrade(ctx context.Context, tx pgx.Tx, id stream.TopologyID, reason string) error {
	const (
		update = `
UPDATE topologies SET status = 'degraded', reason = $2 WHERE id = $1::text::uuid AND status IN ('active', 'degraded')`
		park = `
INSERT INTO topology_parked (topology_id, until) VALUES ($1::text::uuid, clock_timestamp() + $2::interval)
    ON CONFLICT (topology_id) DO UPDATE SET until = excluded.until`
	)
	// In a savepoint: an installation's own rules may refuse the change, and the mutation has failed all the same.
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, update, id, reason)
		return err
	})
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && refusedForGood(pgErr) {
		w.log.Warn("a topology could not be degraded", "topology", id, "error", err)
	} else if err != nil {
		return fmt.Errorf("degrade the topology: %w", err)
	}
	if _, err := tx.Exec(ctx, park, id, w.cfg.Poll); err != nil {
		return fmt.Errorf("park the topology: %w", err)
	}
	return nil
}

// giveBack lets another worker have a job that this one cannot finish before it stops. That is no attempt. If it does
// not succeed, the lease runs out.
func (w *Worker) giveBack(j *job) {
	const update = `
UPDATE mutations SET state = 'pending', lease = NULL, leased_until = NULL, attempt = greatest(attempt - 1, 0)
 WHERE id = $1::text::uuid AND state = 'applying' AND lease = $2::text::uuid`
	ctx, cancel := context.WithTimeout(context.WithoutCancel(j.ctx), 5*time.Second)
	defer cancel()
	err := w.transact(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := lockLease(ctx, tx, j); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, update, j.mutation.ID, j.lease)
		return err
	})
	switch {
	case err == nil:
		j.log(w).Info("a mutation is given back because the worker stops")
	case !errors.Is(err, errLeaseLost):
		j.log(w).Warn("a mutation could not be given back; its lease will run out", "error", err)
	}
}
