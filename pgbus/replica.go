package pgbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// With Config.Replica everything that streams take is read from a standby: the WAL, snapshots, the journal, heads. Whatever its WAL tells is visible there (a
// standby decodes what it has replayed), and a snapshot is of the standby's seq, which the promise covers. The primary keeps the LISTEN connection, for what people
// NOTIFY. Its triggers' own notifications are ignored: they would be ahead of the standby.

// read is the pool that streams are read from.
func (b *Bus) read() *pgxpool.Pool {
	if b.cfg.Replica != nil {
		return b.cfg.Replica
	}
	return b.cfg.Pool
}

// awaitReplay waits until the standby has n, at most for lagWait.
func (b *Bus) awaitReplay(ctx context.Context, t *topic, n stream.Seq) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LagWait, fmt.Errorf("%w: the standby has not got %d yet", stream.ErrUnavailable, n))
	defer cancel()
	for {
		h, _, err := b.shareHead(ctx, t.id)
		switch {
		case errors.Is(err, stream.ErrNotFound):
			return false, err
		case err != nil: // recovery may have cancelled it
		case n.Epoch() != h.seq.Epoch():
			return false, nil
		case n <= h.seq:
			b.fill(t)
			return true, nil
		}
		if !wait.Pause(ctx, 50*time.Millisecond) {
			return false, context.Cause(ctx)
		}
	}
}

// comingFrom tells whether the primary has a topology that the standby does not have yet. A primary that cannot be asked has none.
func (b *Bus) comingFrom(ctx context.Context, id stream.TopologyID) bool {
	const query = `SELECT EXISTS (SELECT FROM topologies WHERE id = $1::text::uuid)`
	if b.cfg.Replica == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var there bool
	if err := b.cfg.Pool.QueryRow(ctx, query, string(id)).Scan(&there); err != nil {
		b.log.Debug("cannot ask the primary for a topology that the standby does not have", "topology", id, "error", err)
	}
	return there
}

// watchLag keeps the metrics of the standby's lag: bytes of WAL that the primary has written and the standby has not replayed, and the age of what it replayed
// last, 0 when it has replayed all that it has received. It has the epoch compared: a standby that is promoted keeps its connections, and it may have been behind.
func (b *Bus) watchLag(ctx context.Context) error {
	const (
		replayed = `
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       CASE WHEN pg_last_wal_replay_lsn() < pg_last_wal_receive_lsn() THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) ELSE 0 END::float8,
       topology_check_epoch()`
		behind = `SELECT greatest(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, $1::text::pg_lsn), 0)::bigint`
	)
	var (
		at      string
		seconds float64
		bytes   int64
		epoch   int64
	)
	if err := b.cfg.Replica.QueryRow(ctx, replayed).Scan(&at, &seconds, &epoch); err != nil {
		return fmt.Errorf("read the standby's lag: %w", err)
	}
	b.stats.ReplicaLagMicros.Store(int64(seconds * 1e6))
	if !b.stats.Listening.Load() { // the primary may be away, and is not waited for
		return nil
	}
	if err := b.cfg.Pool.QueryRow(ctx, behind, at).Scan(&bytes); err != nil {
		b.log.Debug("cannot ask the primary how far the standby is behind", "error", err)
		return nil
	}
	b.stats.ReplicaLagBytes.Store(bytes)
	return nil
}

// logStandbySnapshots has the primary log what runs there until ctx ends: a standby makes a slot only when it has read that, and an idle primary may not log it
// by itself. It says so when that takes long.
func (b *Bus) logStandbySnapshots(ctx context.Context) {
	const query = `SELECT pg_log_standby_snapshot()`
	for try := 0; ; try++ {
		qctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := b.cfg.Pool.Exec(qctx, query)
		cancel()
		if try > 0 && try%10 == 1 && ctx.Err() == nil {
			b.stats.SlotWaiting.Store(true)
			b.setStreaming(false, "the standby's replication slot waits for transactions that are open on the primary, or for the primary to log them")
			b.log.Warn("streams run on poll: a standby makes a replication slot only when the transactions that were open on the primary have ended and it has logged so "+
				"(pg_log_standby_snapshot, which the server's role may be granted to EXECUTE)", "error", err)
		}
		if !wait.Pause(ctx, time.Second) {
			return
		}
	}
}

// warnOfConflicts says that the standby may end our slot and our reads: it replays what its queries still need unless it tells the primary of them.
func (b *Bus) warnOfConflicts(ctx context.Context) {
	const query = `SELECT pg_is_in_recovery(), current_setting('hot_standby_feedback')::bool`
	var standby, feedback bool
	if err := b.cfg.Replica.QueryRow(ctx, query).Scan(&standby, &feedback); err == nil && standby && !feedback {
		b.log.Warn("hot_standby_feedback is off on the standby of --replica-database-url: replay may end its replication slot, and streams run on poll until there is another; set it to on")
	}
}
