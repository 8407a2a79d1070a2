package mutator

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// BenchmarkEnqueueToApplied is the way of one edit on an idle machine, from the commit that enqueues it to the bus's
// cursor that gives mutation.applied, with a raw NOTIFY's way to a LISTEN beside it, turn by turn.
func BenchmarkEnqueueToApplied(b *testing.B) {
	db := pgtest.New(b)
	conn, listener := db.Conn(b), db.Conn(b)
	id := active(b, conn, 1)[0]
	startWorker(b, db, nil)
	cursor := attach(b, db, id)
	pgtest.Exec(b, listener, `LISTEN raw`)
	var edits, raws []time.Duration
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprint(`{"name":"l`, i, `"}`)
		if i%2 == 1 { // the graph stays small
			name = fmt.Sprint(`{"name":"l`, i-1, `"}`)
		}
		pgtest.Exec(b, conn, `BEGIN`)
		enqueue(b, conn, id, []string{"add_lan", "remove_lan"}[i%2], name)
		start := time.Now()
		pgtest.Exec(b, conn, `COMMIT`)
		awaitFrame(b, cursor, "event: mutation.applied\n")
		edits = append(edits, time.Since(start))

		start = time.Now()
		pgtest.Exec(b, conn, `NOTIFY raw`)
		if _, err := listener.WaitForNotification(b.Context()); err != nil {
			b.Fatal(err)
		}
		raws = append(raws, time.Since(start))
	}
	for name, times := range map[string][]time.Duration{"edit": edits, "raw-notify": raws} {
		slices.Sort(times)
		b.ReportMetric(times[len(times)/2].Seconds()*1000, name+"-p50-ms")
		b.ReportMetric(times[len(times)*99/100].Seconds()*1000, name+"-p99-ms")
	}
}

// attach runs a bus and attaches a client to it.
func attach(b *testing.B, db *pgtest.DB, id stream.TopologyID) *stream.Cursor {
	b.Helper()
	pool, err := postgres.NewPool(b.Context(), db.URL)
	must(b, err)
	b.Cleanup(pool.Close)
	listen, err := pgx.ParseConfig(db.URL)
	must(b, err)
	stats := metrictest.Stats()
	bus := pgbus.New(pgbus.Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Stats: stats})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bus.Run(ctx) }()
	b.Cleanup(func() { cancel(); must(b, <-done) })
	pgtest.Eventually(b, "LISTEN", func() bool { return metrictest.Is(stats.Listening) })
	sub, err := bus.Attach(b.Context(), stream.AttachRequest{Topology: id})
	must(b, err)
	b.Cleanup(sub.Close)
	return sub.Cursor
}

// awaitFrame reads until a frame begins like that.
func awaitFrame(b *testing.B, cursor *stream.Cursor, start string) {
	b.Helper()
	for {
		frames, changed, err := cursor.Next(b.Context(), make([]stream.Frame, 0, 16))
		must(b, err)
		for _, f := range frames {
			if bytes.HasPrefix(f.Bytes, []byte(start)) {
				return
			}
		}
		if len(frames) == 0 {
			<-changed
		}
	}
}
