package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// heldTopologies are attached while somebody holds one of them: many, so that whatever locks them in order meets it.
const heldTopologies = 20

// writerWait is how long a writer may wait for what is none of its business, and loadedWait where other tests run, too:
// a writer that waits for the holder waits for as long as that holds.
const (
	writerWait = 100 * time.Millisecond
	loadedWait = 3 * time.Second
)

// A holder is idle in a transaction on one topology, as somebody is who has gone to lunch.
type holder struct {
	conn *pgx.Conn
	pid  string
}

func hold(t *testing.T, db *pgtest.DB, id string) holder {
	t.Helper()
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `UPDATE topologies SET reason = 'somebody is at it' WHERE id = $1::text::uuid`, id)
	return holder{conn, strconv.Itoa(pgtest.Scan[int](t, conn, `SELECT pg_backend_pid()`))}
}

// writers emit to some topologies in turn, each to its own, so that none waits for another. PostgreSQL judges how long
// they wait for a lock, and for that alone: a busy machine that has no time for them counts for nothing.
type writers struct {
	written [2]atomic.Int64 // events of each
	waited  atomic.Int64    // times that one waited for longer than wait
	wait    time.Duration
	end     func()
}

func writeTo(t *testing.T, db *pgtest.DB, ids []string, wait time.Duration) *writers {
	t.Helper()
	w := &writers{wait: wait}
	if !isAlone() {
		w.wait = max(wait, loadedWait)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for writer := range w.written {
		conn, own := db.Conn(t), ids[writer*len(ids)/2:(writer+1)*len(ids)/2]
		pgtest.Exec(t, conn, fmt.Sprintf(`SET lock_timeout = %d`, w.wait.Milliseconds()))
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := conn.Exec(ctx, `SELECT topology_emit($1::text::uuid, 'test', '{}')`, own[i%len(own)])
				pgErr, refused := errors.AsType[*pgconn.PgError](err)
				switch {
				case err == nil:
					w.written[writer].Add(1)
				case refused && pgErr.Code == "55P03": // lock_not_available
					w.waited.Add(1)
				case ctx.Err() == nil:
					t.Errorf("a writer: %v", err)
					return
				}
			}
		})
	}
	w.end = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(w.end)
	w.waitForNobody(t, "nothing")
	return w
}

// waitForNobody awaits writes of each writer, so that none is waiting unseen, and fails if one has waited for a lock.
func (w *writers) waitForNobody(t *testing.T, by string) {
	t.Helper()
	for writer := range w.written {
		enough := w.written[writer].Load() + 50
		pgtest.Eventually(t, "writes beside "+by,
			func() bool { return w.written[writer].Load() >= enough || w.waited.Load() > 0 })
	}
	if n := w.waited.Load(); n > 0 {
		t.Errorf("%s: writers of other topologies waited %d times for %v", by, n, w.wait)
	}
}

// inEpoch tells whether a watched client has a snapshot of that epoch or a later one.
func (c *client) inEpoch(epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.snapshots, func(s uint64) bool { return s>>32 >= epoch })
}

// raisedWhileHeld is what everybody sees of a new epoch while somebody holds the last topology, and after that.
func raisedWhileHeld(t *testing.T, server string, db *pgtest.DB, ids []string, clients map[string]*client, h holder) {
	t.Helper()
	held, others := ids[len(ids)-1], ids[:len(ids)-1]
	for _, id := range others {
		c := clients[id]
		pgtest.Eventually(t, "a snapshot of the new epoch for all others", func() bool { return c.inEpoch(1) })
	}
	for _, id := range others[:2] {
		fresh := newClient(t, server, id, "")
		fresh.follow(t.Context(), 1<<32)
	}
	path := "/api/v1/topologies/" + held + "/events"
	for accept, want := range map[string]int{"text/event-stream": http.StatusOK, "*/*": http.StatusServiceUnavailable} {
		status, header, body := get(t, server+path, "Accept", accept)
		if status != want || !strings.Contains(body, h.pid) || want != http.StatusOK && header.Get("Retry-After") == "" ||
			want == http.StatusOK && !strings.Contains(body, "event: unavailable\n") {
			t.Errorf("the held topology, Accept: %s: %d %s, want %d and the pid %s", accept, status, body, want, h.pid)
		}
	}
	if clients[held].inEpoch(1) {
		t.Error("the held topology has a snapshot of the new epoch")
	}
	pgtest.Exec(t, h.conn, `COMMIT`)
	pgtest.Eventually(t, "a snapshot of the new epoch for the one that was held",
		func() bool { return clients[held].inEpoch(1) })
	conn := db.Conn(t)
	for _, id := range ids {
		clients[id].awaitSeq(emit(t, conn, id))
	}
	const epochs = `SELECT array_agg(DISTINCT seq >> 32) FROM topology_heads`
	heads := pgtest.Scan[[]int64](t, conn, epochs)
	if len(heads) != 1 {
		t.Errorf("the topologies are of the epochs %v", heads)
	}
}

func watchAll(t *testing.T, server string, ids []string) map[string]*client {
	t.Helper()
	clients := map[string]*client{}
	for _, id := range ids {
		clients[id] = newClient(t, server, id, "").watch()
	}
	for _, c := range clients {
		c.awaitSeq(1)
	}
	return clients
}

func TestANewEpochWhileSomebodyHoldsATopologyMakesNoOtherWait(t *testing.T) {
	t.Parallel()
	long(t)
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			ids := live(t, db.Conn(t), heldTopologies)
			server := serveOn(t, db.URL, bus)
			clients := watchAll(t, server, ids)
			w := writeTo(t, db, ids[:heldTopologies-1], writerWait)
			h := hold(t, db, ids[heldTopologies-1])
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // who is held is not let go before
			defer cancel()
			var out lockedBuffer
			code := run(ctx, []string{"migrate", "new-epoch", "--database-url", db.URL}, &out, &out)
			if code != exitOK || ctx.Err() != nil || !strings.HasPrefix(out.String(), "epoch ") {
				t.Errorf("migrate new-epoch: exit code %d: %s", code, out.String())
			}
			w.waitForNobody(t, "migrate new-epoch")
			if !t.Failed() {
				raisedWhileHeld(t, server, db, ids, clients, h)
				w.waitForNobody(t, "what the server did about the new epoch")
			}
		})
	}
}

// serveOn runs a server on a bus, which it has the database's triggers serve first.
func serveOn(t *testing.T, databaseURL, bus string) string {
	t.Helper()
	setBus(t, databaseURL, bus)
	server := serve(t, databaseURL, func(c *serveCmd) {
		if c.MaxStreamsPerUser = 0; bus == setting.Poll {
			c.Bus = bus
		}
	}).url
	awaitBus(t, server, bus)
	return server
}

// awaitBus waits until a server works on a bus.
func awaitBus(t *testing.T, server, bus string) {
	t.Helper()
	switch bus {
	case setting.Notify:
		awaitListen(t, server, 0)
	case setting.WAL:
		streaming(t, server)
	}
}

func TestAPromotionWhileSomebodyHoldsATopologyMakesNoOtherWait(t *testing.T) {
	t.Parallel()
	long(t)
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			ids := live(t, p.db.Conn(t), heldTopologies)
			way, databaseURL := relayTo(t, p.primary.URL("streams"), uncut)
			setBus(t, p.db.URL, bus)
			server := serveOn(t, databaseURL, bus)
			clients := watchAll(t, server, ids)
			p.caughtUp()
			p.primary.Kill()
			p.promote()
			// Nobody has come to the promoted one yet.
			promoted := &pgtest.DB{URL: p.standby.URL("streams")}
			w := writeTo(t, promoted, ids[:heldTopologies-1], writerWait)
			h := hold(t, promoted, ids[heldTopologies-1])
			to, err := url.Parse(promoted.URL)
			if err != nil {
				t.Fatal(err)
			}
			way.lead(to.Host)
			conn := promoted.Conn(t)
			raised := eventually(10*time.Second, func() bool {
				return pgtest.Scan[int](t, conn, `SELECT epoch FROM topology_settings`) > 0
			})
			w.waitForNobody(t, "the promotion")
			if raised != nil {
				t.Fatal("the epoch: ", raised)
			}
			raisedWhileHeld(t, server, promoted, ids, clients, h)
			w.waitForNobody(t, "what the server did about the new epoch")
		})
	}
}
