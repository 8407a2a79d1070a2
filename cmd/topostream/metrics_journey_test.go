package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

// Each family that the main journey touches must show it: a metric that nobody ever saw above 0 may count nothing.
func TestTheMainJourneyIsSeenInTheMetrics(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := serve(t, db.URL, func(c *serveCmd) {
		c.heartbeat, c.pruneEvery, c.MaxStreams = 100*time.Millisecond, 50*time.Millisecond, 7
	})
	awaitListen(t, server.url, 0)
	id := topology(t, conn, "measured")
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(1)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active'`)
	// One that a worker has claimed, and died over; one that is good; one that is refused.
	const enqueue = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb)`
	pgtest.Exec(t, conn, enqueue, id, "add_lan", `{"name":"a"}`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying', lease = gen_random_uuid(),
		leased_until = clock_timestamp() - interval '1 second'`)
	pgtest.Exec(t, conn, enqueue, id, "add_lan", `{"name":"b"}`)
	pgtest.Exec(t, conn, enqueue, id, "remove_lan", `{"name":"nobody"}`)
	worker := startMutator(t, db.URL, nil)
	pgtest.Eventually(t, "all to be done", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('applied', 'failed')`) == 3
	})
	c.awaitSeq(pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = '`+id+`'`))
	awaitListen(t, server.url, 1)
	pgtest.Exec(t, conn, `NOTIFY "topology.`+id+`", 'by hand'`)
	newClient(t, server.url, id, "1").follow(t.Context(), 2) // resumes
	post := func(path, token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.url+path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close() // its status is all
		return res.StatusCode
	}
	if status := post("/api/v1/auth/sse-ticket", testToken(t)); status != http.StatusOK {
		t.Fatal(status)
	}
	if status := post("/api/v1/auth/sse-ticket", ""); status != http.StatusUnauthorized {
		t.Fatal(status)
	}
	got(t, server.url+"/api/v1/events?ticket=x", http.StatusUnauthorized)
	pgtest.Exec(t, conn, `INSERT INTO sse_tickets (hash, subject, role, expires)
		VALUES ('\x00', 'ada', 'viewer', now() - interval '1 hour')`)
	served, worked := func(name string) float64 { return metric(t, server.url, name) },
		func(name string) float64 { return metric(t, worker, name) }
	pgtest.Eventually(t, "what is old to be pruned", func() bool { return served("topostream_pruned_rows_total") > 0 })
	pgtest.Eventually(t, "the second client to be gone", func() bool { return served("topostream_streams") == 1 })
	for name, of := range map[string]func(string) float64{
		`topostream_build_info`: served, `topostream_bus{bus="notify"}`: served, `topostream_streams{bus="notify"}`: served,
		`topostream_bus_wanted{bus="notify"}`: served,
		`topostream_streams_opened_total`:     served, `topostream_streams_closed_total{reason="client"}`: served,
		`topostream_delivery_delay_seconds_count`: served, `topostream_delivery_delay_seconds_sum`: served,
		`topostream_attach_duration_seconds_count`: served, `topostream_attach_batch_topologies_sum`: served,
		`topostream_attaches_total`: served, `topostream_resumes_total{result="continued"}`: served,
		`topostream_journal_reads_total`: served, `topostream_events_total`: served, `topostream_raw_events_total`: served,
		`topostream_frames_total`: served, `topostream_frame_bytes_total`: served, `topostream_feeds`: served,
		`topostream_feed_bytes`: served, `topostream_channels`: served, `topostream_listening`: served,
		`topostream_listen_reconnects_total{cause="start"}`:                     served,
		`topostream_tickets_total{result="minted"}`:                             served,
		`topostream_tickets_total{result="refused"}`:                            served,
		`topostream_auth_refusals_total{reason="missing"}`:                      served,
		`topostream_auth_refusals_total{reason="ticket"}`:                       served,
		`topostream_pruned_rows_total{table="tickets"}`:                         served,
		`http_server_request_duration_seconds_count`:                            served,
		`pgxpool_acquires_total{pool="main"}`:                                   served,
		`go_goroutines`:                                                         served,
		`process_resident_memory_bytes`:                                         served,
		`topostream_mutation_wait_seconds_count`:                                worked,
		`topostream_mutation_apply_seconds_count`:                               worked,
		`topostream_lease_expiries_total`:                                       worked,
		`pgxpool_max_connections{pool="mutator"}`:                               worked,
		`topostream_mutations_finished_total{op="add_lan",outcome="applied"}`:   worked,
		`topostream_mutations_finished_total{op="remove_lan",outcome="failed"}`: worked,
	} {
		if v := of(name); v <= 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	for _, of := range []func(string) float64{served, worked} {
		if v := of("topostream_ready"); v != 1 {
			t.Errorf("topostream_ready is %v", v)
		}
	}
	if v := served("topostream_streams_limit"); v != 7 {
		t.Errorf("the limit is %v", v)
	}
	if n := served("topostream_promise_violations_total"); n != 0 {
		t.Errorf("%v violations", n)
	}
	if v := served("topostream_delivery_delay_seconds_sum") / served("topostream_delivery_delay_seconds_count"); v > 60 {
		t.Errorf("an event took %v s", v)
	}
}

func TestTheNewestOpenMetricsHoldAnExemplarOfTheDelay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := startServer(t, db.URL)
	id := topology(t, conn, "measured")
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	c.awaitSeq(2)
	pgtest.Eventually(t, "the exemplar", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
		body := bodyOf(t, req)
		return strings.Contains(body, `seq="2"`) && strings.Contains(body, `topology="`+id+`"`)
	})
}

func bodyOf(t *testing.T, req *http.Request) string {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
