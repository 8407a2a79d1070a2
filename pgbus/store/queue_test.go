package store

import (
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

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
