package mutator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

// candidates are the topologies that a worker has something to do in, but for those in $1: first where a lease has
// run out, then where a mutation can be claimed, the oldest first. It reads one row of each topology's queue (a loose
// index scan), not the queues.
const candidates = `
WITH RECURSIVE queued AS (
    (SELECT m.topology_id, m.position, m.state FROM mutations m
      WHERE m.state IN ('pending', 'applying') ORDER BY m.topology_id, m.position LIMIT 1)
    UNION ALL
    SELECT n.topology_id, n.position, n.state FROM queued q CROSS JOIN LATERAL (
        SELECT m.topology_id, m.position, m.state FROM mutations m
         WHERE m.state IN ('pending', 'applying') AND m.topology_id > q.topology_id
         ORDER BY m.topology_id, m.position LIMIT 1) n
), work AS (
    SELECT q.topology_id, q.position, false AS expired FROM queued q
     WHERE q.state = 'pending'
       AND q.topology_id NOT IN (SELECT a.topology_id FROM mutations a WHERE a.state = 'applying')
    UNION ALL
    SELECT a.topology_id, a.position, true FROM mutations a
     WHERE a.state = 'applying' AND a.leased_until < clock_timestamp()
)
SELECT t.id::text, w.position, w.expired FROM work w JOIN topologies t ON t.id = w.topology_id
 WHERE t.id <> ALL ($1::text[]::uuid[])
   AND (w.expired OR t.status IN ('active', 'degraded')
        AND NOT EXISTS (SELECT FROM topology_parked p WHERE p.topology_id = t.id AND p.until > clock_timestamp()))
 ORDER BY w.expired DESC, w.position LIMIT 1`

type candidate struct {
	topology stream.TopologyID
	position int64
	expired  bool
}

// claim takes the oldest mutation that can be taken, with a lease; nil when there is none. more tells that there may be
// more to do: the caller calls it again at once.
//
// It is two statements of one READ COMMITTED transaction. The first locks a topology that has a pending and no
// applying mutation. By the time it has the lock its snapshot may be old: another worker may have claimed there, and
// let go, in between. The second has a new snapshot and the lock, so it sees every claim made before. (As one
// statement two workers get two mutations of one topology:
// TestAClaimInOneStatementRunsTwoMutationsOfOneTopologyAtOnce.)
func (w *Worker) claim(ctx context.Context) (j *job, more bool, err error) {
	var (
		c       candidate
		began   time.Time
		expired requeued
	)
	err = w.transact(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		j, began, expired = nil, time.Now(), requeued{}
		if c, err = w.lockCandidate(ctx, tx); err != nil || c.topology == "" {
			return err
		}
		if c.expired {
			expired, err = w.requeue(ctx, tx, c.topology)
			return err
		}
		j, err = w.take(ctx, tx, c.topology)
		return err
	})
	if err != nil {
		if !w.claimFailed(c, err) {
			return nil, false, err
		}
		return nil, true, nil
	}
	w.cfg.Stats.LeaseExpiries.Add(float64(expired.leases))
	for _, op := range expired.failed {
		w.cfg.Stats.Finished[stream.OpLabel(op)][stream.JobFailed].Inc()
	}
	if j != nil {
		if j.mutation.Attempt == 1 {
			w.cfg.Stats.Wait.Observe(j.waited)
		}
		j.begin(w.traced(ctx, j, began), w)
	}
	return j, c.topology != "", nil
}

// lockCandidate finds a topology in which there is something to do, and locks it; without a topology when there is
// none. An error may come with the topology that it is about.
func (w *Worker) lockCandidate(ctx context.Context, tx pgx.Tx) (c candidate, _ error) {
	const lock = candidates + ` FOR NO KEY UPDATE OF t SKIP LOCKED`
	err := tx.QueryRow(ctx, lock, w.held.list()).Scan(&c.topology, &c.position, &c.expired)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return c, fmt.Errorf("look for a mutation: %w", err)
	}
	return c, nil
}

// take leases the oldest pending mutation of a locked topology; nil when somebody was faster.
func (w *Worker) take(ctx context.Context, tx pgx.Tx, id stream.TopologyID) (*job, error) {
	const take = `
UPDATE mutations m SET state = 'applying', lease = gen_random_uuid(), leased_until = clock_timestamp() + $2::interval
 WHERE m.id = (SELECT p.id FROM mutations p
                WHERE p.topology_id = $1::text::uuid AND p.state = 'pending' ORDER BY p.position LIMIT 1)
   AND m.state = 'pending'
   AND NOT EXISTS (SELECT FROM mutations a WHERE a.topology_id = $1::text::uuid AND a.state = 'applying')
   AND NOT EXISTS (SELECT FROM topology_parked p WHERE p.topology_id = $1::text::uuid AND p.until > clock_timestamp())
RETURNING m.id::text, m.topology_id::text, m.op, m.payload, m.attempt, m.lease::text, coalesce(m.traceparent, ''),
          CASE WHEN isfinite(m.requested_at) -- whoever writes by hand may say anything
               THEN greatest(extract(epoch FROM clock_timestamp() - m.requested_at), 0)::float8 ELSE 0 END`
	j := &job{claimed: time.Now()}
	m := &j.mutation
	err := tx.QueryRow(ctx, take, id, w.cfg.Lease).Scan(
		&m.ID, &m.Topology, &m.Op, &m.Payload, &m.Attempt, &j.lease, &j.traceparent, &j.waited)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // as documented
	case err != nil:
		return nil, fmt.Errorf("claim a mutation: %w", err)
	}
	return j, nil
}

// claimFailed logs why a claim failed, and tells whether another one can be tried at once: where the trouble is one
// topology's, that one is left alone for a while, and the others go on.
func (w *Worker) claimFailed(c candidate, err error) (again bool) {
	timeout, isHeld := errors.AsType[*postgres.LockTimeoutError](err)
	pgErr, fromServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case fromServer && pgErr.Code == stoodStill:
		w.log.Warn("the worker stood still in a transaction for longer than its lease, and PostgreSQL ended it; going on",
			"error", err)
		return true
	case c.topology == "": // as behind a table that somebody has locked
		return false
	case isHeld:
		w.leaveToHolder(c.topology, timeout)
		return true
	case fromServer && !unavailable(pgErr): // a trigger that somebody made, or a row that somebody removed
		w.log.Error("a topology's mutations cannot be claimed; going on with others", "topology", c.topology, "error", err)
		w.leaveAlone(c.topology)
		return true
	}
	return false
}

// stoodStill is idle_in_transaction_session_timeout: this process was stopped, or its machine was.
const stoodStill = "25P03"

// unavailable tells whether an error is the database's as a whole: its connections, resources, an operator's
// intervention, the system beneath.
func unavailable(err *pgconn.PgError) bool {
	return len(err.Code) == 5 && slices.Contains([]string{"08", "53", "57", "58"}, err.Code[:2])
}

// requeued says what was done about the leases of one topology that had run out.
type requeued struct {
	leases int      // how many had
	failed []string // the ops of mutations that have had all their attempts
}

// requeue gives back what the leases that ran out in a locked topology stood for, or fails what has had all its
// attempts. (A lease of null does not run out: a person works on that mutation by hand.)
func (w *Worker) requeue(ctx context.Context, tx pgx.Tx, id stream.TopologyID) (expired requeued, _ error) {
	const update = `
UPDATE mutations
   SET lease = NULL, leased_until = NULL, state = CASE WHEN attempt < $2 THEN 'pending' ELSE 'failed' END,
       reason = CASE WHEN attempt >= $2
                     THEN 'no worker finished it: its lease ran out in each of ' || attempt || ' attempts' END
 WHERE topology_id = $1::text::uuid AND state = 'applying' AND leased_until < clock_timestamp()
RETURNING id::text, op, attempt, coalesce(reason, '')`
	rows, err := tx.Query(ctx, update, id, w.cfg.MaxAttempts)
	if err != nil {
		return requeued{}, fmt.Errorf("give back what a lease stood for: %w", err)
	}
	var (
		mutation stream.MutationID
		op       string
		attempt  int
		reason   string
		failed   string
	)
	_, err = pgx.ForEachRow(rows, []any{&mutation, &op, &attempt, &reason}, func() error {
		w.log.Warn("a lease ran out",
			"topology", id, "mutation", mutation, "op", op, "attempt", attempt, "failed", reason != "")
		expired.leases++
		if reason != "" {
			failed = max(failed, reason)
			expired.failed = append(expired.failed, op)
		}
		return nil
	})
	if err != nil {
		return requeued{}, fmt.Errorf("give back what a lease stood for: %w", err)
	}
	if failed == "" {
		return expired, nil
	}
	return expired, w.degrade(ctx, tx, id, failed)
}

// oldest finds what claim would try first if nobody held anything, but for the topologies that are to be left alone.
func (w *Worker) oldest(ctx context.Context, leftAlone []stream.TopologyID) (c candidate, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.LockTimeout)
	defer cancel()
	err = w.cfg.Pool.QueryRow(ctx, candidates, leftAlone).Scan(&c.topology, &c.position, &c.expired)
	return c, err
}
