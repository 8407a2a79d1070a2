package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A server and a worker may have other roles, with other settings, and what they say of one row is the same.
func TestNumbersAreTheSameWhicheverProgramWritesThem(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	const short = "extra_float_digits=0&bytea_output=escape&DateStyle=German"
	with := func(url, keywords string) string {
		return url + map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + keywords
	}
	servers := []string{serve(t, db.URL, withWorker).url, serve(t, with(db.URL, short), nil).url}
	id := live(t, conn, 1)[0]
	clients := make([]*client, 0, len(servers))
	for _, server := range servers {
		c := newClient(t, server, id, "").watch()
		c.await("its snapshot", func() bool { return len(c.snapshots) > 0 })
		clients = append(clients, c)
	}
	const x = "0.1234567890123456"
	awaitMutation(t, conn, enqueueOp(t, conn, id, "add_lan", `{"name":"a","x":`+x+`}`), "applied")
	head := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
	for i, c := range clients {
		c.awaitSeq(head)
		c.mu.Lock()
		if len(c.data) == 0 || !strings.Contains(c.data[len(c.data)-1], `"x": `+x+`,`) {
			t.Errorf("the event by server %d: %q", i, c.data)
		}
		c.mu.Unlock()
		var graph struct{ LANs []struct{ X json.Number } }
		getJSON(t, servers[i]+"/api/v1/topologies/"+id, &graph)
		if len(graph.LANs) != 1 || graph.LANs[0].X.String() != x {
			t.Errorf("the document by server %d: %v", i, graph)
		}
	}
}

func TestThePoolHasAsManyConnectionsAsItsFlagSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const size, requests = 20, 30
	server := serve(t, db.URL, func(c *serveCmd) { c.PoolSize = size })
	conn := db.Conn(t)
	ids := live(t, conn, requests) // the requests of one topology wait in a line, with one connection
	admin := newOperator(t, server.url, "admin", stream.RoleAdmin)
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `SELECT FROM topologies FOR UPDATE`)
	var asking sync.WaitGroup
	held := make(chan struct{})
	for _, id := range ids {
		asking.Go(func() {
			for {
				admin.do("DELETE", "/topologies/"+id, "") // waits for the lock, at times in vain
				select {
				case <-held:
					return
				default:
				}
			}
		})
	}
	const waiting = `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`
	watcher := db.Conn(t)
	pgtest.Eventually(t, "a third of the pool to wait for the lock", func() bool { // more is never REST's
		return pgtest.Scan[int](t, watcher, waiting) == size/3
	})
	close(held)
	pgtest.Exec(t, conn, `ROLLBACK`)
	asking.Wait()
}

func TestTheLogSaysWhichClaimOfATokenWasRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, pgtest.New(t).URL, nil)
	for _, claim := range []string{"exp", "iat"} {
		claims := jwt.MapClaims{
			"sub": "ann", "role": "viewer", "iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		}
		claims[claim] = json.Number(fmt.Sprint(claims[claim], ".5"))
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(testSecret))
		if err != nil {
			t.Fatal(err)
		}
		before := len(server.log.String())
		if got := listed(t, server.url, "Authorization", "Bearer "+token); got != http.StatusUnauthorized {
			t.Errorf("a fraction in %s gets %d", claim, got)
		}
		if said := server.log.String()[before:]; !strings.Contains(said, claim) || strings.Contains(said, token) {
			t.Errorf("a fraction in %s: %s", claim, said)
		}
	}
}

func TestBusStatusNamesAPreparedTransactionThatASlotWaitsFor(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.NewOn(t, pgtest.Cluster(t, "max_prepared_transactions=5").URL("postgres"))
	conn := db.Conn(t)
	for _, statement := range []string{
		`BEGIN`, `SELECT pg_current_xact_id()`, `PREPARE TRANSACTION 'forgotten by somebody'`,
	} {
		pgtest.Exec(t, conn, statement)
	}
	code, out, errOut := program(t, "bus", "status", "--database-url", db.URL)
	if code != exitOK || !strings.Contains(out, `"forgotten by somebody"`) || strings.Contains(out, "nothing is missing") {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	setBus(t, db.URL, "wal")
	server := serve(t, db.URL, nil)
	pgtest.Eventually(t, "a line of the log that names it", func() bool {
		return strings.Contains(server.log.String(), "forgotten by somebody")
	})
	pgtest.Exec(t, conn, `ROLLBACK PREPARED 'forgotten by somebody'`)
	pgtest.Eventually(t, "the bus wal", func() bool { return metric(t, server.url, "topostream_streaming_wal") == 1 })
}
