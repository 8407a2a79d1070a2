package pgbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// With Config.Replica everything that streams take is read from a standby: the WAL, light snapshots, documents, the
// journal, heads. A document is of the standby's seq, which the promise covers. The primary keeps the LISTEN
// connection, for what people NOTIFY. The standby's WAL only says that there is something to read: a standby that is
// promoted goes on to tell, and what is read then shows that it has another history.

// replayPauses are those before it is asked again whether the standby has replayed something.
var replayPauses = wait.Steps{First: 50 * time.Millisecond, Most: 50 * time.Millisecond} //nolint:gochecknoglobals

// errNotReplayed: the primary has a topology that the standby does not have yet, or has as one that was deleted.
var errNotReplayed = fmt.Errorf("%w: the standby does not have the topology yet", stream.ErrUnavailable)

// awaitReplay waits, at most for LagWait, until the standby has the event n. It returns false where n is of another
// epoch than the standby's head.
func (b *Bus) awaitReplay(ctx context.Context, a *attachment, n stream.Seq) (bool, error) {
	late := fmt.Errorf("%w: the standby has not got %d yet", stream.ErrUnavailable, n)
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LagWait, late)
	defer cancel()
	for {
		h, _, err := b.head(ctx, a.id)
		switch {
		case errors.Is(err, stream.ErrNotFound):
			return false, err
		case err != nil: // recovery may have cancelled it
		case errors.Is(a.feed.Cause(), stream.ErrReset):
			return false, errEnded
		case n.Epoch() != h.Seq.Epoch():
			return false, nil
		case n <= h.Seq:
			b.backfillOne(a, stream.ReadHole)
			return true, nil
		}
		if !replayPauses.Pause(ctx, 0) {
			return false, context.Cause(ctx)
		}
	}
}

// notReplayed says why there is no such topology: stream.ErrNotFound where the primary has none either, or where there
// is no standby; errNotReplayed; or that the primary could not be asked, for what it has is no unknown topology. Who
// asks for the same topology at the same time shares the question.
func (b *Bus) notReplayed(ctx context.Context, id stream.TopologyID) error {
	if b.cfg.Replica == nil {
		return stream.ErrNotFound
	}
	// A question that was shared may have been asked before the topology was made. The second one was asked after the
	// first had been answered.
	for range 2 {
		there, joined, err := b.onPrimary.do(ctx, &b.tasks, string(id), func(ctx context.Context) (bool, error) {
			const query = `SELECT EXISTS (SELECT FROM topologies WHERE id = $1::text::uuid)`
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			var there bool
			err := b.cfg.Pool.QueryRow(ctx, query, string(id)).Scan(&there)
			return there, err
		})
		switch {
		case err != nil:
			const reason = "the standby does not have the topology, and the primary cannot be asked"
			return &stream.UnavailableError{Reason: reason, Err: err}
		case there:
			return errNotReplayed
		case !joined:
			return stream.ErrNotFound
		}
	}
	return stream.ErrNotFound
}

// watchLag sets the metrics of the standby's lag: bytes of WAL that the primary has written and the standby has not
// replayed, and the age of what it replayed last, 0 when it has replayed all that it has received.
func (b *Bus) watchLag(ctx context.Context) error {
	const (
		replayed = `
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn()
            THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)
            ELSE 0 END::float8`
		behind = `
SELECT greatest(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
           $1::text::pg_lsn), 0)::bigint`
	)
	var (
		at      string
		seconds float64
		bytes   int64
	)
	if err := b.cfg.Replica.QueryRow(ctx, replayed).Scan(&at, &seconds); err != nil {
		return fmt.Errorf("read the standby's lag: %w", err)
	}
	b.stats.ReplicaLag.Set(seconds)
	if b.sources.listener == nil || !b.sources.listener.Connected() { // the primary may be away, and is not waited for
		return nil
	}
	if err := b.cfg.Pool.QueryRow(ctx, behind, at).Scan(&bytes); err != nil {
		return fmt.Errorf("ask the primary how far the standby is behind: %w", err)
	}
	b.stats.ReplicaBehind.Set(float64(bytes))
	return nil
}
