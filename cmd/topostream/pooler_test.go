package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func TestThroughATransactionPoolerTheServerSaysSoAndPollsAndADirectWayRestoresTheBus(t *testing.T) {
	t.Parallel()
	long(t)
	for bus, live := range map[string]string{"notify": "topostream_listening", "wal": "topostream_streaming_wal"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			throughAPooler(t, bus, live)
		})
	}
}

// throughAPooler runs servers behind a pooler; live is the metric of a bus that works.
func throughAPooler(t *testing.T, bus, live string) {
	t.Helper()
	db := pgtest.New(t)
	setBus(t, db.URL, bus)
	conn := db.Conn(t)
	id := demo(t, conn)
	pooled := newBouncer(t, db.URL).url
	for _, direct := range []bool{false, true} {
		server := serve(t, pooled, func(c *serveCmd) {
			if direct {
				c.ListenDatabaseURL = db.URL
			}
		})
		c := newClient(t, server.url, id, "").watch()
		c.awaitSeq(1)
		for range 20 {
			c.awaitSeq(emit(t, conn, id))
		}
		c.stayedConnected()
		if direct {
			pgtest.Eventually(t, "the bus", func() bool { return metric(t, server.url, live) == 1 })
		} else {
			pgtest.Eventually(t, "the advice",
				func() bool { return strings.Contains(server.log.String(), "--listen-database-url") })
		}
		resumed := newClient(t, server.url, id, "1")
		resumed.follow(t.Context(), pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`))
		if want := journal(t, server.url, id, 1); !slices.Equal(resumed.data, want) {
			t.Error("who resumes through the pooler has something else than the journal")
		}
		for _, bad := range []string{"prepared statement", "cannot encode"} {
			if strings.Contains(server.log.String(), bad) {
				t.Errorf("the log: %s", server.log.String())
			}
		}
		server.stop()
	}
	nothingStays(t, pooled)
}

// nothingStays fails if one of the pooler's backends, which others get, has a setting or a prepared statement of ours,
// or listens to something that events go to: the probe's own channel stays on the backend that the pooler gave for it.
// Nobody else may use the pooler meanwhile.
func nothingStays(t *testing.T, pooled string) {
	t.Helper()
	const query = `SELECT array_agg(name || ' = ' || setting) FROM (
  SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT IN
     ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
  UNION ALL SELECT 'LISTEN', c FROM pg_listening_channels() c WHERE c <> 'topostream.probe'
  UNION ALL SELECT 'prepared', name FROM pg_prepared_statements) left_behind (name, setting)`
	cfg, err := pgx.ParseConfig(pooled)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	backends := map[int]bool{}
	for range poolSize { // all at once, so that each has another backend
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) }) // its work is done
		pgtest.Exec(t, conn, `BEGIN`)
		backends[pgtest.Scan[int](t, conn, `SELECT pg_backend_pid()`)] = true
		if left := pgtest.Scan[[]string](t, conn, query); len(left) > 0 {
			t.Errorf("others get from the pooler: %v", left)
		}
	}
	if len(backends) != poolSize {
		t.Errorf("looked at the backends %v only", backends)
	}
}

func TestThroughATransactionPoolerRequestsAndAWorkerDoTheirWork(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	pooled := newBouncer(t, db.URL).url
	server := serve(t, pooled, func(c *serveCmd) { c.MaxStreamsPerUser = 0 })
	worker := mutate(t, buildProgram(t), pooled)
	o := newOperator(t, server.url, "operator", stream.RoleAdmin)
	id := o.create(`{"name": "pooled", "lans": [{"name": "lan-1"}]}`)
	// Many at once, so that each request meets other backends than the last one.
	clients := make([]*client, 0, 20)
	for range cap(clients) {
		clients = append(clients, newClient(t, server.url, id, "1").watch())
	}
	for i := range 10 {
		o.do(http.MethodPost, "/topologies/"+id+"/mutations",
			fmt.Sprintf(`{"op": "add_lan", "payload": {"name": "more-%d"}}`, i)).into(
			t,
			http.StatusAccepted,
			&enqueued{},
		)
	}
	pgtest.Eventually(t, "the worker to apply them", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == 10
	})
	head := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`)
	want := journal(t, server.url, id, 1)
	for _, c := range clients {
		c.awaitSeq(head)
		c.mu.Lock()
		if len(c.snapshots) != 0 || !slices.Equal(c.data, want) {
			t.Errorf("a client has %d of %d events and the snapshots %v", len(c.data), len(want), c.snapshots)
		}
		c.mu.Unlock()
	}
	pgtest.Eventually(t, "the worker to say so",
		func() bool { return strings.Contains(worker.err.String(), "as through a transaction pooler") })
	<-worker.signal(syscall.SIGINT)
	server.stop()
	for _, log := range []string{worker.err.String(), server.log.String()} {
		if strings.Contains(log, "prepared statement") || strings.Contains(log, "unsupported startup parameter") {
			t.Errorf("the log: %s", log)
		}
	}
	nothingStays(t, pooled)
}
