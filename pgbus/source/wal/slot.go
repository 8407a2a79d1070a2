package wal

import (
	"context"
	"fmt"
	"strings"
	"time"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/pgbus/wait"
)

// sayWhatTheSlotWaitsFor says in the log and in the source's state why the slot, and with it the stream, takes so long.
// The caller calls done when it waits no more.
func (s *Source) sayWhatTheSlotWaitsFor(ctx context.Context, pid uint32, sink source.Sink) (done func()) {
	ctx, cancel := context.WithCancel(ctx)
	said := make(chan struct{})
	go func() {
		defer close(said)
		if s.cfg.Primary != nil {
			s.logStandbySnapshots(ctx, sink)
			return
		}
		s.sayBlockers(ctx, pid, sink)
	}()
	return func() {
		cancel()
		<-said
		s.cfg.Stats.SlotWaiting.Set(0)
	}
}

// sayBlockers says, until ctx ends, which transactions the backend pid waits for.
func (s *Source) sayBlockers(ctx context.Context, pid uint32, sink source.Sink) {
	pause := time.Second
	for wait.Pause(ctx, pause) {
		by, err := postgres.Blockers(ctx, s.cfg.Pool, pid)
		if err != nil {
			s.cfg.Logger.Debug("cannot ask what the replication slot waits for", "error", err)
			continue
		}
		s.cfg.Stats.SlotWaiting.Set(1)
		sink.State(source.State{
			Detail: fmt.Sprintf("the replication slot waits for transactions that are open (%s)", strings.Join(by, ", ")),
		})
		s.cfg.Logger.Warn("a replication slot is made only when every transaction that is open in the cluster has ended",
			"waits_for", by, "meanwhile", s.cfg.Without)
		pause = sayEvery
	}
}

// sayEvery is how often it is said again.
const sayEvery = 10 * time.Second

// logStandbySnapshots has the primary log what runs there until ctx ends: a standby makes a slot only when it has
// read that, and an idle primary may not log it by itself. It says so when that takes long.
func (s *Source) logStandbySnapshots(ctx context.Context, sink source.Sink) {
	const query = `SELECT pg_log_standby_snapshot()`
	for try := 0; ; try++ {
		qctx, cancel := context.WithTimeout(ctx, askTimeout)
		_, err := s.cfg.Primary.Exec(qctx, query)
		cancel()
		if try%10 == 1 && ctx.Err() == nil {
			s.cfg.Stats.SlotWaiting.Set(1)
			sink.State(source.State{Detail: "the standby's replication slot waits for transactions that are open on the " +
				"primary, or for the primary to log them"})
			s.cfg.Logger.Warn("a standby makes a replication slot only when the transactions that were open on the primary "+
				"have ended and it has logged so (pg_log_standby_snapshot, which the server's role may be granted to EXECUTE)",
				"error", err, "meanwhile", s.cfg.Without)
		}
		if !wait.Pause(ctx, time.Second) {
			return
		}
	}
}

// warnOfConflicts warns where the standby may end our slot and our reads: with hot_standby_feedback off the primary
// does not know what they still need, and replay removes it.
func (s *Source) warnOfConflicts(ctx context.Context) {
	const query = `SELECT pg_is_in_recovery(), current_setting('hot_standby_feedback')::bool`
	var standby, feedback bool
	if err := s.cfg.Pool.QueryRow(ctx, query).Scan(&standby, &feedback); err == nil && standby && !feedback {
		s.cfg.Logger.Warn("hot_standby_feedback is off on the standby of --replica-database-url: replay may end its "+
			"replication slot, and there is another then; set it to on", "meanwhile", s.cfg.Without)
	}
}
