package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// setBus has the database's triggers serve a bus; poll takes what there is.
func setBus(t *testing.T, url, bus string) {
	t.Helper()
	if bus == setting.Poll {
		return
	}
	if code, out, errOut := program(t, "bus", bus, "--database-url", url); code != exitOK {
		t.Fatalf("bus %s: %d %s%s", bus, code, out, errOut)
	}
}

// streaming waits until a server reads the WAL.
func streaming(t *testing.T, server string) {
	t.Helper()
	pgtest.Eventually(t, "the WAL's stream", func() bool { return metric(t, server, "topostream_streaming_wal") == 1 })
}

func TestSwitchingALiveSystemFromNotifyToWALAndBackLosesNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 4)
	servers := []string{startServer(t, db.URL), serve(t, db.URL, withWorker).url}
	clients := make([]*client, 0, len(servers)*len(ids))
	for _, server := range servers {
		for _, id := range ids {
			clients = append(clients, newClient(t, server, id, "").watch())
		}
	}
	for _, c := range clients {
		c.await("its snapshot", func() bool { return len(c.snapshots) > 0 })
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	end := func() { stop(); writers.Wait() }
	defer end()
	for w := range 3 {
		writer := db.Conn(t)
		writers.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				// A switch may take long, and the worker has an end to come to.
				const mutate = `
INSERT INTO mutations (topology_id, op, payload) SELECT $1::text::uuid, 'add_lan', jsonb_build_object('name', $2::text)
 WHERE (SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')) < 100`
				if _, err := writer.Exec(t.Context(), mutate, ids[i%len(ids)], fmt.Sprintf("lan-%d-%d", w, i)); err != nil {
					t.Error(err)
					return
				}
				if _, err := writer.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'test', '{}')`,
					ids[i%len(ids)]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		for want, bus := range []string{setting.Notify, setting.WAL, setting.Notify} {
			want %= 2
			setBus(t, db.URL, bus)
			for _, server := range servers {
				pgtest.Eventually(t, "the bus "+bus,
					func() bool { return metric(t, server, "topostream_streaming_wal") == float64(want) })
			}
		}
	}
	end()
	pgtest.Eventually(t, "the worker to be done", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`) == 0
	})
	for i, c := range clients {
		c.awaitSeq(
			pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, ids[i%len(ids)]))
		c.stayedConnected()
	}
}

func TestReadyzSaysThatAServerIsForcedToAnotherBus(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := startServer(t, db.URL, setting.Notify)
	for _, bus := range []string{setting.WAL, setting.Notify} {
		want := map[string]string{
			setting.WAL: "ready\nbus: forced notify, the database says wal\n", setting.Notify: "ready\n",
		}[bus]
		setBus(t, db.URL, bus)
		pgtest.Eventually(t, want, func() bool {
			status, _, body := get(t, server+"/readyz")
			return status == 200 && body == want
		})
		if forced := metric(t, server, "topostream_bus_forced"); (forced == 1) != (bus == setting.WAL) {
			t.Errorf("the metric says %v on %s", forced, bus)
		}
	}
}

// serveBinary runs the program's binary and gives its address.
func serveBinary(t *testing.T, binary, databaseURL string, args ...string) (*process, string) {
	t.Helper()
	cmd := exec.Command(
		binary,
		append(
			[]string{"serve", "--addr", "127.0.0.1:0", "--database-url", databaseURL, "--jwt-secret", testSecret},
			args...)...)
	cmd.Env = cleanEnv()
	p := startProcess(t, cmd)
	var addr string
	pgtest.Eventually(t, "the server", func() bool {
		for line := range strings.Lines(p.err.String()) {
			if _, rest, ok := strings.Cut(line, "msg=serving addr="); ok {
				addr = strings.TrimSpace(rest)
			}
		}
		return addr != ""
	})
	return p, "http://" + addr
}

func TestServersThatAreKilledLeaveNoSlotBehind(t *testing.T) {
	t.Parallel()
	slow(t)
	binary := buildProgram(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	setBus(t, db.URL, setting.WAL)
	const slots = `SELECT count(*) FROM pg_replication_slots`
	servers := make([]*process, 0, 4)
	for range 3 {
		p, url := serveBinary(t, binary, db.URL, "--mutator")
		streaming(t, url)
		servers = append(servers, p)
	}
	pgtest.Eventually(t, "a slot for each server and each worker",
		func() bool { return pgtest.Scan[int](t, conn, slots) == 6 })
	// One more waits for its slot when it is killed.
	elsewhere, err := pgx.Connect(t.Context(), cluster.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close(t.Context())
	pgtest.Exec(t, elsewhere, `BEGIN; CREATE TABLE held (n int)`)
	waiting, url := serveBinary(t, binary, db.URL)
	pgtest.Eventually(t, "a slot that waits", func() bool { return metric(t, url, "topostream_wal_slot_waiting") == 1 })
	killed := time.Now()
	for _, p := range append(servers, waiting) { // all at once, more or less
		<-p.signal(syscall.SIGKILL)
	}
	pgtest.Eventually(t, "all slots to be gone", func() bool { return pgtest.Scan[int](t, conn, slots) == 0 })
	t.Logf("the slots were gone %s after the kill", time.Since(killed).Round(time.Millisecond))
}

// A server that is frozen keeps no WAL for longer than wal_sender_timeout, and goes on where it was.
func TestAFrozenServersSlotGoesAndItsClientsLoseNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	binary := buildProgram(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	setBus(t, db.URL, setting.WAL)
	p, url := serveBinary(t, binary, db.URL)
	streaming(t, url)
	c := newClient(t, url, id, "").watch()
	c.awaitSeq(emit(t, conn, id))
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }() // it may have ended
	var head uint64
	pgtest.Eventually(t, "the slot to be gone", func() bool {
		head = emit(t, conn, id)
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots WHERE database = current_database()`) == 0
	})
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.awaitSeq(head)
	c.stayedConnected()
	streaming(t, url)
}

// A REPEATABLE READ transaction sees the bus that there was when it began, however late it writes.
func TestAnOldSnapshotThatWritesAfterTheSwitchFromWALToNotifyIsHeardSoon(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	const rounds = 3 // a heartbeat, every 10 s, may deliver in time by chance
	ids := live(t, conn, rounds)
	server := startServer(t, db.URL)
	clients := watchAll(t, server, ids)
	for _, id := range ids {
		setBus(t, db.URL, setting.WAL)
		streaming(t, server)
		pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
		pgtest.Exec(t, old, `SELECT count(*) FROM topologies`)
		setBus(t, db.URL, setting.Notify)
		// A server that stops to read the WAL too early has stopped by then; one that waits for the old snapshot still reads.
		_ = eventually(3*time.Second, func() bool { return metric(t, server, "topostream_streaming_wal") == 0 })
		awaitBus(t, server, setting.Notify)
		seq := emit(t, old, id)
		begun := time.Now()
		pgtest.Exec(t, old, `COMMIT`)
		clients[id].awaitSeq(seq)
		inTime(t, "an event of an old snapshot", time.Since(begun), 2*time.Second)
		pgtest.Eventually(t, "the end of the WAL's stream",
			func() bool { return metric(t, server, "topostream_streaming_wal") == 0 })
	}
}
