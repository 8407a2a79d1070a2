package main

import (
	"context"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// While the NOTIFY queue is over half full the triggers do not NOTIFY, and the heartbeat carries all events. It does so
// also when PostgreSQL lets nobody in, so that the backend that pins the queue cannot be looked for.
func TestTheHeartbeatDeliversWhileTheQueueIsHalfFullAndNobodyIsLetIn(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, listener := db.Conn(t), db.Conn(t)
	id := demo(t, conn)
	queueIsHalfFull(t, db)
	server := serve(t, pgtest.With(t, db.URL, "search_path", "public,pg_catalog"), nil)
	awaitBus(t, server.url, setting.Notify)
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(1)
	pgtest.Exec(t, listener, `LISTEN "topology.`+id+`"`)
	seq := emit(t, conn, id)
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if n, err := listener.WaitForNotification(soon); err == nil {
		t.Fatalf("the triggers NOTIFY all the same: %v; the test sees nothing", n)
	}
	c.awaitSeq(seq) // also with connections that are free, by the heartbeat

	lock := func(allowed bool) {
		pgtest.Exec(t, conn, `UPDATE pg_database SET datallowconn = $1 WHERE datname = current_database()`, allowed)
	}
	lock(false)
	defer lock(true)
	begun := time.Now()
	c.awaitSeq(emit(t, conn, id)) // the heartbeat is 10 s
	inTime(t, "the delivery by the heartbeat of 10 s", time.Since(begun), 25*time.Second)
}

// queueIsHalfFull has triggers and servers of a database believe that the NOTIFY queue is over half full.
func queueIsHalfFull(t *testing.T, db *pgtest.DB) {
	t.Helper()
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `CREATE FUNCTION public.pg_notification_queue_usage() RETURNS double precision
		LANGUAGE sql AS 'SELECT 0.6::float8'`)
	functions := pgtest.Scan[[]string](t, conn, `SELECT array_agg(oid::regprocedure::text) FROM pg_proc
		WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%pg_notification_queue_usage%'`)
	if len(functions) == 0 {
		t.Fatal("no function asks how full the queue is")
	}
	for _, f := range functions {
		pgtest.Exec(t, conn, `ALTER FUNCTION `+f+` SET search_path = public, pg_catalog`)
	}
}
