package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

func TestAListenConnectionThatHearsNothingIsSaidAndStreamsRunOnPoll(t *testing.T) {
	t.Parallel()
	slow(t)
	db, other := pgtest.New(t), pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	for listenURL, want := range map[string]string{
		other.URL: "--listen-database-url leads to another database",
		"postgres://postgres:x@127.0.0.1:1/postgres": "streams run on poll",
	} {
		server := serve(t, db.URL, func(c *serveCmd) { c.ListenDatabaseURL = listenURL })
		c := newClient(t, server.url, id, "").watch()
		c.awaitSeq(1)
		for range 5 {
			c.awaitSeq(emit(t, conn, id))
		}
		c.stayedConnected()
		if n := metric(t, server.url, "topostream_listening"); n != 0 {
			t.Error("the server says that it listens")
		}
		pgtest.Eventually(t, "a line in the log", func() bool { return strings.Contains(server.log.String(), want) })
		if status, _, body := get(t, server.url+"/readyz"); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestAServerThatComesToListenLosesNothingOfWhatItPolled(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	for range 5 {
		// While nobody may connect to LISTEN, the bus polls; the pool's connections stay.
		pgtest.Exec(t, conn, `UPDATE pg_database SET datallowconn = false WHERE datname = current_database()`)
		pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = 'topostream listen' AND datname = current_database()`)
		pgtest.Eventually(t, "polling", func() bool { return metric(t, server, "topostream_listening") == 0 })
		c.awaitSeq(emit(t, conn, id))
		for range 20 {
			emit(t, conn, id)
		}
		pgtest.Exec(t, conn, `UPDATE pg_database SET datallowconn = true WHERE datname = current_database()`)
		pgtest.Eventually(t, "listening again", func() bool {
			emit(t, conn, id) // while it comes back
			return metric(t, server, "topostream_listening") == 1
		})
		c.awaitSeq(emit(t, conn, id))
	}
	c.stayedConnected()
}

// Each time that it listens again the next fault is a first one.
func TestLISTENIsBackAsSoonAfterTheLastFaultAsAfterTheFirst(t *testing.T) {
	t.Parallel()
	long(t)
	const faults = 7
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	awaitBus(t, server, setting.Notify)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	took := make([]time.Duration, 0, faults)
	for range faults {
		pid := pgtest.Scan[int](t, conn, `SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'topostream listen'`)
		reconnects := metric(t, server, `topostream_listen_reconnects_total{cause="broken"}`)
		begun := time.Now()
		pgtest.Exec(t, conn, `SELECT pg_terminate_backend($1)`, pid)
		pgtest.Eventually(t, "LISTEN", func() bool {
			return metric(t, server, "topostream_listening") == 1 &&
				metric(t, server, `topostream_listen_reconnects_total{cause="broken"}`) > reconnects
		})
		took = append(took, time.Since(begun))
		c.awaitSeq(emit(t, conn, id))
	}
	c.stayedConnected()
	inTime(t, fmt.Sprintf("LISTEN after the last fault, and %v after the first", took[0]), slices.Min(took[faults-2:]),
		max(time.Second, 5*took[0]))
}
