package pgbus

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// startBus runs a bus on db until the test ends and waits until it listens.
func startBus(t *testing.T, db *pgtest.DB, change func(*Config)) *Bus {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), db.URL)
	must(t, err)
	listen, err := pgx.ParseConfig(db.URL)
	must(t, err)
	cfg := Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, AttachWait: 20 * time.Second,
		Stats: metrictest.Stats()}
	if change != nil {
		change(&cfg)
	}
	b := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		pool.Close()
	})
	told(t, b)
	return b
}

// told waits until b is told as its database's triggers tell.
func told(t *testing.T, b *Bus) {
	t.Helper()
	pgtest.Eventually(t, "the bus to be told", func() bool {
		return b.cfg.Bus == setting.Poll || metrictest.Is(b.stats.Listening) && (b.sources.mode.told() || b.cfg.Bus != "")
	})
}

// onEachBus runs a test on a database whose triggers serve notify or wal, and with a bus that polls.
func onEachBus(t *testing.T, f func(t *testing.T, db *pgtest.DB, change func(*Config))) {
	t.Helper()
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if bus == setting.WAL {
				must(t, setting.Set(t.Context(), db.Conn(t), bus))
			}
			f(t, db, func(c *Config) {
				if bus == setting.Poll {
					c.Bus = bus
				}
			})
		})
	}
}

func makeTopologies(t *testing.T, conn *pgx.Conn, n int) []stream.TopologyID {
	t.Helper()
	const insert = `INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, $1) i RETURNING id::text`
	rows, err := conn.Query(t.Context(), insert, n)
	must(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[stream.TopologyID])
	must(t, err)
	return ids
}

// next waits for the frames that follow.
func next(ctx context.Context, c *stream.Cursor) ([]stream.Frame, error) {
	for {
		frames, changed, err := c.Next(ctx, make([]stream.Frame, 0, 64))
		if err != nil || len(frames) > 0 {
			return frames, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func TestAThousandClientsOfOneTopologyCostOneAttach(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		id := makeTopologies(t, conn, 1)[0]
		b := startBus(t, db, change)
		subs := make([]*stream.Subscription, 1000)
		var wg sync.WaitGroup
		for i := range subs {
			wg.Go(func() {
				var err error
				if subs[i], err = b.Attach(t.Context(), stream.AttachRequest{Topology: id}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := metrictest.Observed(b.stats.AttachBatch); n != 1 {
			t.Errorf("%d attach transactions", n)
		}
		if n := metrictest.Value(b.stats.Channels); n != 1 && b.cfg.Bus != setting.Poll {
			t.Errorf("%d channels", n)
		}
		if n := metrictest.Value(b.stats.Feeds); n != 1 {
			t.Errorf("%d feeds", n)
		}
		_, err := conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
		must(t, err)
		for _, s := range subs {
			frames, err := next(t.Context(), s.Cursor)
			if err != nil || len(frames) != 1 || frames[0].Seq != 2 {
				t.Fatalf("%v, %v", frames, err)
			}
			s.Close()
		}
	})
}

func TestFiveHundredTopologiesAreAttachedInFewTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ids := makeTopologies(t, db.Conn(t), 500)
	b := startBus(t, db, nil)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := metrictest.Observed(b.stats.AttachBatch); n > 50 {
		t.Errorf("%d attach transactions for 500 topologies", n)
	}
	if n := metrictest.Value(b.stats.Channels); n != 500 {
		t.Errorf("%d channels", n)
	}
}

func TestAHeldAlterTableLeavesAttachedClientsTheirEvents(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn, holder := db.Conn(t), db.Conn(t)
		ids := makeTopologies(t, conn, 2)
		b := startBus(t, db, func(c *Config) { change(c); c.AttachWait = 2 * time.Second })
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: ids[0]})
		must(t, err)
		_, err = holder.Exec(t.Context(), `BEGIN; LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`)
		must(t, err)
		// A second client of the attached topology is served; a fresh one is told to come back.
		if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: ids[0]}); err != nil {
			t.Errorf("attached already: %v", err)
		}
		if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: ids[1]}); !errors.Is(err, stream.ErrUnavailable) {
			t.Errorf("fresh: %v", err)
		}
		_, err = conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'x', '{}')`, ids[0])
		must(t, err)
		if frames, err := next(t.Context(), sub.Cursor); err != nil || frames[0].Seq != 2 {
			t.Errorf("%v, %v", frames, err)
		}
		_, err = holder.Exec(t.Context(), `ROLLBACK`)
		must(t, err)
		if _, err := b.Attach(t.Context(), stream.AttachRequest{Topology: ids[1]}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestForgedNotificationsLoseNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, nil)
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)
	const forge = `
SELECT pg_notify('topology.' || $1::text,
                 '~' || topology_mark(inner_pad, outer_pad, $1::text || ':' || $2::text) || ':' || $2::text)
  FROM topology_settings`
	// With the right key: numbers far ahead, with and without the event, and one that is behind.
	for _, n := range []int{1, 7, 1 << 40} {
		for _, inline := range []string{"", ` {"forged":true}`} {
			_, err = conn.Exec(t.Context(), forge, string(id), strconv.Itoa(n)+inline)
			must(t, err)
		}
	}
	for want := stream.Seq(2); want < 5; want++ {
		_, err = conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
		must(t, err)
		frames, err := next(t.Context(), sub.Cursor)
		if err == stream.ErrReset { //nolint:errorlint // the sentinel itself
			sub, err = b.Attach(t.Context(), stream.AttachRequest{Topology: id})
			must(t, err)
			if sub.Snapshot.Seq != want {
				t.Errorf("the snapshot is at %d, want %d", sub.Snapshot.Seq, want)
			}
			continue
		}
		if err != nil || len(frames) != 1 || frames[0].Seq != want {
			t.Fatalf("%v, %v, want %d", frames, err, want)
		}
	}
}

func TestFeedsOfTopologiesWithoutClientsGoAway(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		id := makeTopologies(t, db.Conn(t), 1)[0]
		b := startBus(t, db, func(c *Config) { change(c); c.Linger = 20 * time.Millisecond })
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		must(t, err)
		sub.Close()
		pgtest.Eventually(t, "the end of the feed",
			func() bool { return metrictest.Value(b.stats.Feeds) == 0 && metrictest.Value(b.stats.Channels) == 0 })
	})
}

func TestARaisedEpochGivesEveryOpenStreamASnapshot(t *testing.T) {
	t.Parallel()
	onEachBus(t, func(t *testing.T, db *pgtest.DB, change func(*Config)) {
		conn := db.Conn(t)
		id := makeTopologies(t, conn, 1)[0]
		b := startBus(t, db, change)
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		must(t, err)
		_, err = conn.Exec(t.Context(), `SELECT topology_new_epoch()`)
		must(t, err)
		if _, err := next(t.Context(), sub.Cursor); err != stream.ErrReset { //nolint:errorlint // the sentinel itself
			t.Fatalf("%v, want a reset", err)
		}
		sub, err = b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: 1})
		must(t, err)
		if sub.Snapshot == nil || sub.Snapshot.Seq.Epoch() == 0 || sub.Snapshot.Seq<<32 != 0 {
			t.Errorf("%+v", sub.Snapshot)
		}
	})
}

func TestWhatADatabaseInAnotherEncodingHoldsComesAsUTF8(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewEncoded(t, "LATIN1")
			conn := db.Conn(t)
			pgtest.Exec(t, conn, `SET client_encoding = 'UTF8'`)
			if bus == setting.WAL {
				must(t, setting.Set(t.Context(), conn, bus))
			}
			id := makeTopologies(t, conn, 1)[0]
			b := startBus(t, db, func(c *Config) {
				if bus == setting.Poll {
					c.Bus = bus
				}
			})
			sub := attach(t, b, id)
			for range 2 { // by the bus, and by the journal
				pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', jsonb_build_object('name', 'Zoé ü'))`, id)
				frames, err := next(t.Context(), sub.Cursor)
				must(t, err)
				if got := string(frames[0].Bytes); !strings.Contains(got, `{"name": "Zoé ü"}`) ||
					got != string(mustPage(t, b, id, frames[0].Seq-1).Bytes) {
					t.Errorf("%s", got)
				}
			}
		})
	}
}

// A topology whose events of one epoch are more than 2³² has numbers that read as the next epoch's. It goes on, and its
// streams with it.
func TestATopologyWithMoreEventsThanAnEpochHasNumbersForIsStreamed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	const last = 1<<32 - 1
	pgtest.Exec(t, conn, `UPDATE topology_heads SET seq = $1::bigint, first = $1::bigint + 1`, last)
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies, generate_series(1, 3)`)
	b := startBus(t, db, nil)
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
	must(t, err)
	defer sub.Close()
	if sub.Snapshot == nil || sub.Snapshot.Seq != last+3 {
		t.Fatalf("%+v, want the document at %d", sub.Snapshot, last+3)
	}
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies`)
	frames, err := next(t.Context(), sub.Cursor)
	if err != nil || frames[0].Seq != last+4 {
		t.Errorf("%v, %v", frames, err)
	}
}
