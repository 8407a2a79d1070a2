package store

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestWhatTheQueueCostsDoesNotGrowWithWhatWaits(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	conn.Config().DefaultQueryExecMode = pgx.QueryExecModeExec
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('new'), ('live')`)
	for _, status := range []string{"deploying", "active"} {
		pgtest.Exec(t, conn, `UPDATE topologies SET status = $1 WHERE name = 'live'`, status)
	}
	const enqueue = `
INSERT INTO mutations (topology_id, op) SELECT t.id, 'add_lan' FROM topologies t, generate_series(1, $1)`
	const many = 5000
	pgtest.Exec(t, conn, enqueue, many)
	pgtest.Exec(t, conn, `VACUUM ANALYZE`)
	if n := pgtest.Buffers(t, conn, queue); n > 30 {
		t.Errorf("with %d in flight in each of two topologies it touches %d pages", many, n)
	}
}

// Mutations of a topology that was never deployed, failed or is torn down wait for ever, and an alert on the oldest
// would, too.
func TestTheOldestPendingMutationIsThatOfATopologyThatIsActiveOrDegraded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, stats := newPool(t, db), metrictest.Stats()
	s := New(pool, 0, nil)
	made, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: "demo"})
	must(t, err)
	db.Exec(t, `INSERT INTO mutations (topology_id, op) VALUES ($1::text::uuid, 'add_lan')`, string(made.ID))
	look := func(status string, waits bool) {
		t.Helper()
		must(t, readQueue(t.Context(), pool, stats))
		if n := metrictest.Value(stats.Mutations[stream.QueuePending]); n != 1 {
			t.Errorf("%s: %d are pending", status, n)
		}
		if oldest := metrictest.Ratio(stats.OldestPending); (oldest > 0) != waits {
			t.Errorf("%s: the oldest waits for %v s", status, oldest)
		}
	}
	look("pending", false)
	for _, c := range []struct {
		status string
		waits  bool
	}{
		{"deploying", false}, {"active", true}, {"degraded", true}, {"tearing_down", false}, {"torn_down", false},
	} {
		_, err := s.ChangeStatus(t.Context(), made.ID, stream.StatusChange{Status: c.status})
		must(t, err)
		look(c.status, c.waits)
	}
}

// PostgreSQL before 17 does not subtract infinity.
func TestAMutationThatWasRequestedAtNoTimeHidesNoOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, stats := newPool(t, db), metrictest.Stats()
	s := New(pool, 0, nil)
	for _, at := range []string{"-infinity", "now", "infinity"} {
		made, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: at})
		must(t, err)
		for _, status := range []string{"deploying", "active"} {
			_, err = s.ChangeStatus(t.Context(), made.ID, stream.StatusChange{Status: status})
			must(t, err)
		}
		const insert = `
INSERT INTO mutations (topology_id, op, requested_at) VALUES ($1::text::uuid, 'add_lan', $2::text::timestamptz)`
		db.Exec(t, insert, string(made.ID), at)
	}
	must(t, readQueue(t.Context(), pool, stats))
	if n := metrictest.Value(stats.Mutations[stream.QueuePending]); n != 3 {
		t.Errorf("%d are pending", n)
	}
	if oldest := metrictest.Ratio(stats.OldestPending); oldest <= 0 || oldest > 3600 {
		t.Errorf("the oldest waits for %v s", oldest)
	}
}
