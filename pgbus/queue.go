package pgbus

import (
	"context"
	"fmt"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// queueWarning is how full PostgreSQL's NOTIFY queue may be before somebody should look. At 0.5 the triggers stop to NOTIFY, and from there on
// PostgreSQL names the backend that pins the queue (asyncQueueFillWarning in src/backend/commands/async.c).
const queueWarning = 0.5

// watchQueue keeps the metrics of PostgreSQL's NOTIFY queue: a listener that stops reading fills it for everybody.
func (b *Bus) watchQueue(ctx context.Context, used float64) error {
	b.stats.QueueUsage.Store(uint64(used * 1e6))
	if used < queueWarning {
		b.stats.QueuePinnedBy.Store(0)
		return nil
	}
	pid, err := b.queuePinnedBy(ctx)
	if err != nil {
		return err
	}
	if pid != 0 { // PostgreSQL says it once in 5 s to one of all who NOTIFY; an older answer stays
		b.stats.QueuePinnedBy.Store(pid)
	}
	b.log.Warn("PostgreSQL's NOTIFY queue fills up, and events go by the heartbeat: end the backend that does not read its notifications",
		"usage", used, "pid", b.stats.QueuePinnedBy.Load())
	return nil
}

// queuePinnedBy asks PostgreSQL which backend is behind: it says so only in a warning to one who NOTIFYs. 0: it did not say.
func (b *Bus) queuePinnedBy(ctx context.Context) (pid int64, err error) {
	const notify = `NOTIFY "topostream.probe"`
	named := regexp.MustCompile(`PID (\d+)`)
	cfg := b.cfg.Pool.Config().ConnConfig
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if m := named.FindStringSubmatch(n.Detail); m != nil {
			pid, _ = strconv.ParseInt(m[1], 10, 64) // digits, so at worst too many
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("look for what pins the NOTIFY queue: %w", err)
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, notify); err != nil {
		return 0, fmt.Errorf("look for what pins the NOTIFY queue: %w", err)
	}
	return pid, nil
}
