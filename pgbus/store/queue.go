package store

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// queueEvery is how often the queue is looked at.
const queueEvery = 15 * time.Second

// queue counts what is in flight, as the heads do, and finds the oldest mutation that waits for a worker: of each
// topology that has some, the first that is pending, by the index mutations_in_flight. No other has the order
// (topology_id, position): by "topology_id = …" the planner would walk the positions of all topologies. So, once the
// table was analyzed, what it costs grows with the topologies, and not with what waits in them. In a topology that is
// neither active nor degraded mutations wait for its status, perhaps for ever, which is nothing to wake anybody for;
// they are not looked at.
const queue = `
SELECT coalesce(sum(h.in_flight), 0)::bigint,
       (SELECT count(*) FROM mutations a WHERE a.state = 'applying'),
       coalesce(extract(epoch FROM clock_timestamp() - min(o.requested_at) FILTER (WHERE isfinite(o.requested_at))),
                0)::float8
  FROM topology_heads h JOIN topologies t ON t.id = h.topology_id LEFT JOIN LATERAL (
       SELECT m.requested_at FROM mutations m
        WHERE t.status IN ('active', 'degraded') AND m.state IN ('pending', 'applying') AND m.state = 'pending'
          AND (m.topology_id, m.position) >= (h.topology_id, h.in_flight_from)
          AND (m.topology_id, m.position) <= (h.topology_id, 9223372036854775807)
        ORDER BY m.topology_id, m.position LIMIT 1) o ON true
 WHERE h.in_flight > 0`

// WatchQueue sets the metrics of what is in flight, every 15 s, until ctx ends, and returns nil then. Every server does
// so whether somebody scrapes it or not: what the first scrape shows must not depend on earlier ones. While the
// database does not answer they stay as they are.
func WatchQueue(ctx context.Context, pool *pgxpool.Pool, stats *stream.Stats, log *slog.Logger) error {
	for {
		if err := readQueue(ctx, pool, stats); err != nil && ctx.Err() == nil {
			log.Debug("cannot count mutations; trying again", "error", err)
		}
		if !wait.Pause(ctx, queueEvery) {
			return nil
		}
	}
}

func readQueue(ctx context.Context, pool *pgxpool.Pool, stats *stream.Stats) error {
	ctx, cancel := context.WithTimeout(ctx, queueEvery/3)
	defer cancel()
	var (
		all, applying int64
		oldest        float64
	)
	if err := pool.QueryRow(ctx, queue).Scan(&all, &applying, &oldest); err != nil {
		return err
	}
	stats.Mutations[stream.QueuePending].Set(float64(max(all-applying, 0)))
	stats.Mutations[stream.QueueApplying].Set(float64(applying))
	stats.OldestPending.Set(max(oldest, 0))
	return nil
}
