package main

import (
	"sync"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

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
