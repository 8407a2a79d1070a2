package pgbus

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
)

// The watch reads the database's setting and looks at what may go wrong. Nothing waits for it: an error in it, or a
// database that answers nobody, costs a metric and a line in the log. What keeps the promise are the sources.

const (
	// queueWarning is how full PostgreSQL's NOTIFY queue may be before somebody should look. At 0.5 the triggers stop to
	// NOTIFY, and from there on PostgreSQL names the backend that pins the queue (asyncQueueFillWarning in
	// src/backend/commands/async.c).
	queueWarning = 0.5
	// channelsHashed is the first version of PostgreSQL that finds a channel by hash. A backend of an older one walks the
	// list of its channels for each notification of the database (IsListeningOn, as above), so that an event costs the
	// more the more topologies are attached.
	channelsHashed = 190000
	// silentPings is for how many pings a LISTEN connection of ours may be silent before it is taken for one of a process
	// that has stopped.
	silentPings = 7
	// watchTimeout bounds one look.
	watchTimeout = 5 * time.Second
)

// A watch is what watchLoop remembers.
type watch struct {
	again   wait.Signal            // the setting may have changed
	advised atomic.Bool            // the log has advised the bus wal
	pinned  int64                  // pid of the backend that pins the NOTIFY queue, as PostgreSQL said last; 0: none
	odd     atomic.Pointer[string] // what Config.Odd found last; nil: it was not asked yet
}

// watchLoop looks at start, at the heartbeat's pace, and when the setting may have changed.
func (b *Bus) watchLoop(ctx context.Context) {
	retry := wait.Steps{First: 200 * time.Millisecond, Most: 2 * time.Second}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-b.watch.again:
		case <-timer.C:
		}
		used, err := b.readSetting(ctx)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Debug("cannot read the setting; trying again", "error", err)
			}
			timer.Reset(wait.Backoff(try, retry.First, retry.Most))
			try++
			continue
		}
		try = 0
		b.diagnose(ctx, used)
		timer.Reset(b.cfg.Heartbeat)
	}
}

// readSetting learns what the triggers do, and how full the NOTIFY queue is.
func (b *Bus) readSetting(ctx context.Context) (used float64, _ error) {
	const query = `SELECT topology_bus(), pg_notification_queue_usage()`
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	var bus string
	if err := b.readPool().QueryRow(ctx, query).Scan(&bus, &used); err != nil {
		return 0, fmt.Errorf("read the bus and the NOTIFY queue's usage: %w", err)
	}
	b.sources.mode.databaseAnswered()
	b.sources.mode.set(bus)
	return used, nil
}

// diagnose sets the metrics of what may go wrong, and logs what has.
func (b *Bus) diagnose(ctx context.Context, used float64) {
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	checks := []func(context.Context) error{
		b.adviseWAL,
		b.endStopped,
		func(ctx context.Context) error { return b.watchQueue(ctx, used) },
	}
	if b.cfg.Replica != nil { // whose NOTIFY queue is another one
		checks = []func(context.Context) error{b.watchLag, b.endStopped}
	}
	if b.sources.wal != nil {
		checks = append(checks, b.sources.wal.MeasureLag)
	}
	if b.cfg.Odd != nil {
		checks = append(checks, b.watchOdd)
	}
	for _, check := range checks {
		if err := check(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("a diagnosis failed", "error", err)
		}
	}
}

// watchOdd logs what Config.Odd finds when that changes, and when it is gone.
func (b *Bus) watchOdd(ctx context.Context) error {
	odd, err := b.cfg.Odd(ctx)
	if err != nil {
		return err
	}
	before := b.watch.odd.Load() // it alone stores
	defer b.watch.odd.Store(&odd)
	switch {
	case odd != "" && (before == nil || *before != odd):
		b.log.Warn(odd)
	case odd == "" && before != nil && *before != "":
		b.log.Info("gone: " + *before)
	}
	return nil
}

// watchQueue keeps the metrics of PostgreSQL's NOTIFY queue: a listener that stops reading fills it for everybody.
func (b *Bus) watchQueue(ctx context.Context, used float64) error {
	b.stats.QueueUsage.Set(used)
	if used < queueWarning {
		b.watch.pinned = 0
		b.stats.QueuePinnedBy.Set(0)
		return nil
	}
	pid, err := b.queuePinnedBy(ctx)
	if pid != 0 { // PostgreSQL says it once in 5 s to one of all who NOTIFY; an older answer stays
		b.watch.pinned = pid
		b.stats.QueuePinnedBy.Set(float64(pid))
	}
	b.log.Warn("PostgreSQL's NOTIFY queue fills up, and events go by the heartbeat: end the backend that does not read "+
		"its notifications", "usage", used, "pid", b.watch.pinned)
	return err
}

// queuePinnedBy asks PostgreSQL which backend is behind: it says so only in a warning to one who NOTIFYs. 0: it did
// not say.
func (b *Bus) queuePinnedBy(ctx context.Context) (pid int64, err error) {
	const notify = `NOTIFY "topostream.probe"`
	named := regexp.MustCompile(`PID (\d+)`)
	cfg := b.cfg.Pool.Config().ConnConfig
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if m := named.FindStringSubmatch(n.Detail); m != nil {
			pid, _ = strconv.ParseInt(m[1], 10, 64) // digits, so at worst too many
		}
	}
	conn, err := postgres.Connect(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("look for what pins the NOTIFY queue: %w", err)
	}
	defer postgres.Close(conn)
	if _, err := conn.Exec(ctx, notify); err != nil {
		return 0, fmt.Errorf("look for what pins the NOTIFY queue: %w", err)
	}
	return pid, nil
}

// endStopped ends LISTEN connections of servers and workers that have stopped. One that lives asks something on its
// connection at each ping; over TCP PostgreSQL ends one that does not (tcp_user_timeout), but on a socket of the same
// machine a stopped process keeps its backend, the NOTIFY queue behind it and, while that writes, its snapshot. Who is
// ended by mistake, because it was slow, connects anew. Of backends of other roles PostgreSQL tells us what they do
// only as a member of pg_read_all_stats, and lets us end them only as one of pg_signal_backend, a superuser's never.
func (b *Bus) endStopped(ctx context.Context) error {
	const query = `
WITH stopped AS MATERIALIZED (
     SELECT pid, round(extract(epoch FROM clock_timestamp() - state_change))::bigint AS silent,
            (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))
            AND (current_setting('is_superuser') = 'on' OR NOT r.rolsuper) AS may_end
       FROM pg_stat_activity JOIN pg_roles r ON r.oid = usesysid
      WHERE datname = current_database() AND application_name = ANY ($2::text[]) AND client_addr IS NULL
        AND state_change < clock_timestamp() - $1::bigint * interval '1 microsecond')
SELECT pid, silent, CASE WHEN may_end THEN pg_terminate_backend(pid) ELSE false END FROM stopped`
	var (
		pid    int32
		silent int64
		ended  bool
	)
	rows, err := b.cfg.Pool.Query(ctx, query, (silentPings * b.cfg.Ping).Microseconds(),
		[]string{postgres.ServerListens, postgres.WorkerListens})
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&pid, &silent, &ended}, func() error {
			b.log.Warn("a server or worker has stopped: it does not read its notifications, and PostgreSQL keeps them",
				"pid", pid, "silent_s", silent, "backend_ended", ended)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("look for servers that have stopped, to end their backends: %w", err)
	}
	return nil
}

// adviseWAL logs once that more topologies are attached by LISTEN than its bus serves well.
func (b *Bus) adviseWAL(ctx context.Context) error {
	const version = `SELECT current_setting('server_version_num')::int`
	attached := len(b.registry.all())
	if b.watch.advised.Load() || attached <= b.cfg.ManyChannels || b.sources.listener == nil ||
		b.sources.mode.walWanted() {
		return nil
	}
	var v int
	if err := b.cfg.Pool.QueryRow(ctx, version).Scan(&v); err != nil {
		return fmt.Errorf("ask for PostgreSQL's version: %w", err)
	}
	b.watch.advised.Store(true)
	if v >= channelsHashed {
		return nil
	}
	b.log.Warn("many topologies are attached, and PostgreSQL walks through all their channels for each event: the bus "+
		"wal would serve better; `topostream bus wal` switches, also while clients are connected", "channels", attached)
	return nil
}

// lingerLoop ends the attachments whose last client left a while ago.
func (b *Bus) lingerLoop(ctx context.Context) {
	every := time.NewTicker(max(b.cfg.Linger/8, 10*time.Millisecond))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			b.registry.expire(now.Add(-b.cfg.Linger))
		}
	}
}
