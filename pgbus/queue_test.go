package pgbus

import (
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestAPinnedNotifyQueueCostsADelayAndNoEventAndSaysWhoPinsIt(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	t.Parallel()
	if v := pgtest.Version(t); v < 17 {
		t.Skipf("PostgreSQL %d has no max_notify_queue_pages, and its queue of 8 GB takes too long to fill: 17 is needed", v)
	}
	cluster := pgtest.Cluster(t, "max_notify_queue_pages=64")
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Heartbeat = 100 * time.Millisecond })
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)

	// A listener in a transaction reads nothing, and whatever is sent meanwhile stays in the queue.
	pin := db.Conn(t)
	for _, statement := range []string{`LISTEN something`, `BEGIN`, `SELECT 1`} {
		_, err = pin.Exec(t.Context(), statement)
		must(t, err)
	}
	const (
		usage = `SELECT pg_notification_queue_usage()`
		fill  = `SELECT count(pg_notify('something', repeat('x', 7000) || i)) FROM generate_series(1, 4) i`
	)
	for used := 0.0; used <= 0.5; {
		_, err = conn.Exec(t.Context(), fill)
		must(t, err)
		must(t, conn.QueryRow(t.Context(), usage).Scan(&used))
	}
	for want := stream.Seq(2); want < 500; want++ { // more than the queue could take
		_, err = conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'x', to_jsonb(repeat('x', 7000)))`, id)
		must(t, err)
	}
	for want := stream.Seq(2); want < 500; {
		frames, err := next(t.Context(), sub.Cursor)
		must(t, err)
		for _, fr := range frames {
			if fr.Seq != want {
				t.Fatalf("%d, want %d", fr.Seq, want)
			}
			want++
		}
	}
	pgtest.Eventually(t, "the pid that pins the queue",
		func() bool { return metrictest.Value(b.stats.QueuePinnedBy) == int64(pin.PgConn().PID()) })
	if u := metrictest.Ratio(b.stats.QueueUsage); u < 0.5 || u > 1 {
		t.Errorf("the queue is full by %v", u)
	}
	_, err = pin.Exec(t.Context(), `COMMIT`)
	must(t, err)
	pgtest.Eventually(t, "a queue that nobody pins", func() bool { return metrictest.Value(b.stats.QueuePinnedBy) == 0 })
}
