package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

// frozen is how long PostgreSQL stands still.
const frozen = 20 * time.Second

func TestEveryEventReachesAClientThroughDatabaseFaults(t *testing.T) {
	t.Parallel()
	long(t)
	for name, fault := range map[string]func(*testing.T, *pgcluster.Cluster, *pgx.Conn){
		"LISTEN backend terminated": func(t *testing.T, _ *pgcluster.Cluster, admin *pgx.Conn) {
			const terminate = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'topostream listen'`
			pgtest.Eventually(t, "the LISTEN backend, which may be on its way back from the last time", func() bool {
				return pgtest.Scan[int](t, admin, terminate) == 1
			})
		},
		"all backends terminated": func(t *testing.T, _ *pgcluster.Cluster, admin *pgx.Conn) {
			pgtest.Exec(t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
		},
		"fast restart": func(t *testing.T, c *pgcluster.Cluster, _ *pgx.Conn) {
			if err := c.Restart(t.Context(), pgcluster.Fast); err != nil {
				t.Error(err)
			}
		},
		"immediate restart": func(t *testing.T, c *pgcluster.Cluster, _ *pgx.Conn) {
			if err := c.Restart(t.Context(), pgcluster.Immediate); err != nil {
				t.Error(err)
			}
		},
		"WAL sender terminated": func(t *testing.T, _ *pgcluster.Cluster, admin *pgx.Conn) {
			pgtest.Exec(t, admin, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots`)
		},
	} {
		for _, bus := range []string{"notify", "wal"} {
			t.Run(name+", "+bus, func(t *testing.T) {
				t.Parallel()
				cluster := pgtest.Cluster(t)
				db := pgtest.NewOn(t, cluster.URL("postgres"))
				id := demo(t, db.Conn(t))
				setBus(t, db.URL, bus)
				server := startServer(t, db.URL)
				c := newClient(t, server, id, "").watch()
				c.awaitSeq(write(t, db.URL, id, 20))
				var head uint64
				for range 3 {
					pgtest.Eventually(t, "the bus "+bus, func() bool {
						return metric(t, server,
							map[string]string{"notify": "topostream_listening", "wal": "topostream_streaming_wal"}[bus]) == 1
					})
					var wg sync.WaitGroup
					wg.Go(func() { head = write(t, db.URL, id, 200) })
					fault(t, cluster, db.Conn(t))
					wg.Wait()
					c.awaitSeq(head)
				}
				c.stayedConnected()
			})
		}
	}
}

// stayedConnected fails unless one connection, with one snapshot, gave the client all that it has.
func (c *client) stayedConnected() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connects != 1 || len(c.snapshots) != 1 {
		c.t.Errorf("%d connects and %d snapshots, want one of each", c.connects, len(c.snapshots))
	}
}

func TestAClientOutlivesAFrozenDatabaseAndFreshOnesAreToldToComeBack(t *testing.T) {
	t.Parallel()
	long(t)
	for _, bus := range []string{"notify", "wal"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			outliveAFrozenDatabase(t, bus)
		})
	}
}

func outliveAFrozenDatabase(t *testing.T, bus string) {
	t.Helper()
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	setBus(t, db.URL, bus)
	conn := db.Conn(t)
	id, other := topology(t, conn, "attached"), topology(t, conn, "fresh")
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(emit(t, conn, id))

	cluster.Freeze()
	thaw := time.After(frozen)
	written := make(chan uint64, 1)
	go func() { written <- write(t, db.URL, id, 50) }() // hangs until the thaw
	for accept, want := range map[string]int{"text/event-stream": http.StatusOK, "*/*": http.StatusServiceUnavailable} {
		status, header, body := get(t, server+"/api/v1/topologies/"+other+"/events", "Accept", accept)
		if status != want || status == http.StatusOK && !strings.Contains(body, "event: unavailable\n") ||
			status != http.StatusOK && header.Get("Retry-After") == "" {
			t.Errorf("Accept: %s: %d %s", accept, status, body)
		}
	}
	<-thaw
	cluster.Thaw()
	c.awaitSeq(<-written)
	c.stayedConnected()
	newClient(t, server, other, "").follow(t.Context(), 1)
	pgtest.Eventually(t, "the half-open LISTEN connection to be replaced", func() bool {
		reconnects := 0.0
		for _, cause := range []string{"ping", "attach", "broken"} { // whatever noticed first
			reconnects += metric(t, server, `topostream_listen_reconnects_total{cause="`+cause+`"}`)
		}
		return reconnects >= 1
	})
	if bus == "wal" {
		streaming(t, server)
	}
}

func TestAHeldAlterTableCostsAPauseAndNoEvent(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	id, other := topology(t, conn, "attached"), topology(t, conn, "fresh")
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(emit(t, conn, id))
	awaitListen(t, server, 1)

	pgtest.Exec(t, holder, `BEGIN; ALTER TABLE topologies ADD COLUMN colour text`)
	written := make(chan uint64, 1)
	go func() { written <- write(t, db.URL, id, 50) }() // waits for the lock
	newClient(t, server, id, "").follow(t.Context(), 1) // a second client of the attached topology is served
	if status, _, body := get(t, server+"/api/v1/topologies/"+other+"/events", "Accept",
		"text/event-stream"); status != http.StatusOK ||
		!strings.Contains(body, "event: unavailable\n") {
		t.Errorf("a fresh topology: %d %s", status, body)
	}
	pgtest.Exec(t, conn, `SELECT pg_notify('topology.' || $1::text, 'hello')`, id) // what needs no lock goes on
	c.await("a raw NOTIFY", func() bool { return len(c.raw) == 1 })
	pgtest.Exec(t, holder, `COMMIT`)
	c.awaitSeq(<-written)
	c.stayedConnected()
	newClient(t, server, other, "").follow(t.Context(), 1)
}

func TestACrashTakesNothingBackThatWasHeard(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	admin := db.Conn(t)
	pgtest.Exec(t, admin, `ALTER SYSTEM SET wal_writer_delay = '10s'`) // an asynchronous commit stays in memory for long
	pgtest.Exec(t, admin, `SELECT pg_reload_conf()`)
	pgtest.Exec(t, admin, `CREATE TABLE control (n int)`)
	id := demo(t, admin)
	listener, writer := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, listener, `LISTEN control; LISTEN "topology.`+id+`"`)
	pgtest.Exec(t, writer, `SET synchronous_commit = off`)
	head := emit(t, writer, id)
	// The control comes last: a later durable commit would flush it, too. What it lets a listener hear, the crash takes
	// back.
	pgtest.Exec(t, writer, `BEGIN; INSERT INTO control VALUES (1); NOTIFY control; COMMIT`)
	for _, channel := range []string{"topology." + id, "control"} {
		n, err := listener.WaitForNotification(t.Context())
		if err != nil || n.Channel != channel {
			t.Fatalf("heard %v, %v, want %s", n, err, channel)
		}
	}
	if err := cluster.Restart(t.Context(), pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	conn := db.Conn(t)
	if n := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`); n != head {
		t.Errorf("heard %d, the head after the crash is %d", head, n)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM control`); n != 0 {
		t.Error("the control was not lost: the test cannot see what a crash takes back")
	}
}
