package main

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

func TestTransactionsThatCommitInOppositeOrderLeaveNoHole(t *testing.T) {
	t.Parallel()
	for bus, rounds := range map[string]int{"notify": 20, "poll": 5} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			if bus == "poll" {
				long(t)
			}
			db := pgtest.New(t)
			older, younger := db.Conn(t), db.Conn(t)
			a, b := topology(t, older, "a"), topology(t, older, "b")
			server := startServer(t, db.URL, bus)
			liveA, liveB := newClient(t, server, a, "").watch(), newClient(t, server, b, "").watch()
			liveA.awaitSeq(1)
			liveB.awaitSeq(1)
			resumed := map[*client]string{}
			resume := func(id string, live *client) { // a client that comes back in the middle, with the newest number
				live.mu.Lock()
				defer live.mu.Unlock()
				c := newClient(t, server, id, live.last).watch()
				resumed[c] = id
			}
			for range rounds {
				// On one topology: the older transaction has its id first, takes its number last and commits last.
				pgtest.Exec(t, older, `BEGIN; CREATE TEMP TABLE IF NOT EXISTS has_an_xid (n int)`)
				pgtest.Exec(t, younger, `BEGIN; CREATE TEMP TABLE IF NOT EXISTS has_an_xid (n int)`)
				n := emit(t, younger, a)
				pgtest.Exec(t, younger, `COMMIT`)
				liveA.awaitSeq(n)
				resume(a, liveA)
				n = emit(t, older, a)
				pgtest.Exec(t, older, `COMMIT`)
				liveA.awaitSeq(n)

				// On two: the older one touches both, the younger one b alone, and the younger one's commit comes
				// first.
				pgtest.Exec(t, older, `BEGIN`)
				pgtest.Exec(t, younger, `BEGIN`)
				inA := emit(t, older, a)
				inB := emit(t, younger, b)
				pgtest.Exec(t, younger, `COMMIT`)
				liveB.awaitSeq(inB)
				resume(b, liveB)
				resume(a, liveA)
				inB = emit(t, older, b)
				pgtest.Exec(t, older, `COMMIT`)
				liveA.awaitSeq(inA)
				liveB.awaitSeq(inB)

				// A rollback gives its numbers back.
				pgtest.Exec(t, older, `BEGIN`)
				emit(t, older, a)
				emit(t, older, b)
				pgtest.Exec(t, older, `ROLLBACK`)
			}
			for c, id := range resumed {
				head := emit(t, older, id)
				c.awaitSeq(head)
				if len(c.snapshots) != 0 {
					t.Error("a client that resumed got a snapshot")
				}
			}
			for c, id := range map[*client]string{liveA: a, liveB: b} {
				c.awaitSeq(pgtest.Scan[uint64](t, older, `SELECT seq FROM topology_heads WHERE topology_id = $1`, id))
				if !slices.Equal(c.data, journal(t, server, id, 1)) {
					t.Error("a live client has something else than the journal")
				}
			}
		})
	}
}

func TestLargeEventsArriveWhole(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	var want []string
	send := func(text string) {
		want = append(want, text)
		pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'size', to_jsonb($2::text))`, id, text)
	}
	for n := 7600; n < 8100; n += 11 { // NOTIFY carries less than 8,000 bytes
		send(strings.Repeat("x", n))
	}
	for n := 2550; n < 2700; n += 7 {
		send(strings.Repeat("€", n))
	}
	for n := 1900; n < 2010; n += 5 {
		send(strings.Repeat("😀", n))
	}
	for n := 3800; n < 4010; n += 13 {
		send(strings.Repeat("\n", n)) // two bytes each as JSON
	}
	send(strings.Repeat("m", 1<<20))
	send(strings.Repeat("ü", 2<<20))
	c.awaitSeq(uint64(1 + len(want)))
	_, err := conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'size', to_jsonb(repeat('x', 17000000)))`, id)
	if err == nil || !strings.Contains(err.Error(), "the limit is 16777216 bytes (16 MiB)") {
		t.Errorf("17 MB: %v", err)
	}
	c.awaitSeq(emit(t, conn, id)) // a refused one takes no number
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, text := range want {
		var body struct{ Payload string }
		if err := json.Unmarshal([]byte(c.data[i]), &body); err != nil || body.Payload != text {
			t.Errorf("event %d: %v, %d bytes of payload, want %d", i+2, err, len(body.Payload), len(text))
		}
	}
}

func TestAThousandStreamsOfOneTopologyCostOneChannelAndOneAttach(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	backends := func() (listen, pool int) {
		const count = `SELECT count(*) FILTER (WHERE application_name = $1) FROM pg_stat_activity
			WHERE datname = current_database()`
		return pgtest.Scan[int](t, conn, count, "topostream listen"), pgtest.Scan[int](t, conn, count, "topostream")
	}
	awaitListen(t, server, 0)
	clients := make([]*client, 1000)
	for i := range clients {
		clients[i] = newClient(t, server, id, "").watch()
	}
	for _, c := range clients {
		c.awaitSeq(1)
	}
	head := emit(t, conn, id)
	for _, c := range clients {
		c.awaitSeq(head)
		c.mu.Lock()
		if len(c.snapshots) != 1 { // on a busy machine it may have been told to come back before
			t.Errorf("%d snapshots, want one", len(c.snapshots))
		}
		c.mu.Unlock()
	}
	if listen, pool := backends(); listen != 1 || pool > 8 {
		t.Errorf("%d LISTEN backends and %d of the pool, want 1 and at most 8", listen, pool)
	}
	for name, want := range map[string]float64{
		"topostream_streams": 1000, "topostream_channels": 1, "topostream_feeds": 1,
		"topostream_attach_batch_topologies_count": 1,
		"topostream_attaches_total":                1000, "topostream_snapshot_reads_total": 0, "topostream_events_total": 1,
		"topostream_listening": 1,
	} {
		if got := metric(t, server, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestFiveHundredTopologiesAtOnceCostFewTransactions(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	rows, err := conn.Query(t.Context(),
		`INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, 500) i RETURNING id::text`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	server := startServer(t, db.URL)
	awaitListen(t, server, 0) // while the server polls, nobody has a channel
	var clients sync.WaitGroup
	start := time.Now()
	for _, id := range ids {
		c := newClient(t, server, id, "")
		clients.Go(func() { c.follow(t.Context(), 1) })
	}
	clients.Wait()
	if n := metric(t, server, "topostream_channels"); n != 500 {
		t.Errorf("%v channels, want 500", n)
	}
	took := time.Since(start)
	n := metric(t, server, "topostream_attach_batch_topologies_count")
	t.Logf("%v transactions attached 500 topologies", n)
	// One that is not full begins at least 20 ms after the last; however slowly the clients come, that is the bound.
	if limit := 4 + took.Seconds()/0.020; n > limit || n >= 250 {
		t.Errorf("%v transactions attached 500 topologies in %s", n, took)
	}
}
