package mutator

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// blockedBy waits until somebody waits for conn.
func blockedBy(t *testing.T, admin, conn *pgx.Conn) {
	t.Helper()
	const blocked = `
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid))`
	pgtest.Eventually(t, "somebody to wait for the operator", func() bool {
		return pgtest.Scan[int](t, admin, blocked, conn.PgConn().PID()) > 0
	})
}

// TestAnOperatorWhoLocksTheOtherWayRoundLosesNothing has an operator hold the head of a topology's journal and then
// want the topology, while the worker holds the topology and wants the head. PostgreSQL ends one of the two.
func TestAWorkerAndAnOperatorWhoLocksTheOtherWayRoundLoseNothing(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"worker", "operator"} {
		for _, when := range []string{"claim", "end"} {
			t.Run(when+", the victim is the "+victim, func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				conn, operator, brake := db.Conn(t), db.Conn(t), db.Conn(t)
				id := active(t, conn, 1)[0]
				// Who looks for a deadlock while there is one is its victim.
				patience := map[string]string{"worker": "1min", "operator": "1ms"}[victim]
				pgtest.Exec(t, operator, `SELECT set_config('deadlock_timeout', $1, false)`, patience)
				w := newWorker(t, db.URL, nil)
				m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
				if when == "end" {
					pgtest.Exec(t, brake, `BEGIN; LOCK TABLE lans`) // the worker waits for it with the topology locked
					w.run(t)
					blockedBy(t, conn, brake)
				}
				pgtest.Exec(t, operator, `BEGIN`)
				pgtest.Exec(t, operator, `SELECT topology_emit($1::text::uuid, 'by.hand', '{}')`, id)
				if when == "end" {
					pgtest.Exec(t, brake, `ROLLBACK`)
				} else {
					w.run(t)
				}
				blockedBy(t, conn, operator)
				_, err := operator.Exec(t.Context(), `UPDATE topologies SET reason = 'by hand' WHERE id = $1::text::uuid`, id)
				switch {
				case victim == "worker" && err != nil,
					victim == "operator" && (err == nil || !strings.Contains(err.Error(), "deadlock detected")):
					t.Errorf("the operator got %v", err)
				}
				pgtest.Exec(t, operator, map[bool]string{true: `COMMIT`, false: `ROLLBACK`}[err == nil])
				if victim == "worker" {
					w.log.says(t, "trying again", "deadlock detected")
				}
				awaitState(t, conn, m, "applied")
				events := journal(t, conn, id)
				oneAtATime(t, events)
				if got, want := story(events, m), "enqueued applying applied"; got != want {
					t.Errorf("%s, want %s", got, want)
				}
				n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topology_events WHERE type = 'by.hand'`)
				if (n == 1) != (victim == "worker") {
					t.Errorf("%d events by hand", n)
				}
			})
		}
	}
}

// TestAWorkerThatFreezesInATransactionHoldsItsTopologyNoLongerThanItsLease stands for a process that is stopped, or
// whose machine is.
func TestATransactionThatStandsStillIsEndedWithTheLease(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	frozen := newWorker(t, db.URL, func(c *Config) { c.Lease = time.Second })
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	j, _, err := frozen.claim(t.Context())
	must(t, err)
	j.end() // its heartbeat stands still, too
	locked, thaw := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- frozen.transact(context.Background(), func(ctx context.Context, tx pgx.Tx) error {
			if err := lockLease(ctx, tx, j); err != nil {
				return err
			}
			close(locked)
			<-thaw
			return applied(ctx, tx, j)
		})
	}()
	receive(t, locked, "the lock")
	startWorker(t, db, func(c *Config) { c.Poll = 100 * time.Millisecond })
	awaitState(t, conn, m, "applied")
	close(thaw)
	if err := receive(t, ended, "the transaction to end"); err == nil {
		t.Error("the frozen worker's transaction went through")
	}
	if got, want := story(journal(t, conn, id), m), "enqueued applying requeued applying applied"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
