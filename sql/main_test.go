package sql_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// background is for what rapid runs, which has no context of its own.
var background = context.Background()

func TestMain(m *testing.M) { pgtest.Main(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contiguous fails unless every topology's journal ends at its head and has no gap.
func contiguous(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	const broken = `
SELECT count(*) FROM topology_heads h
 WHERE (SELECT count(*) FROM topology_events e
         WHERE e.topology_id = h.topology_id AND e.seq BETWEEN h.first AND h.seq) <> h.seq - h.first + 1
    OR EXISTS (SELECT FROM topology_events e WHERE e.topology_id = h.topology_id AND e.seq > h.seq)`
	if n := pgtest.Scan[int](t, conn, broken); n != 0 {
		t.Errorf("%d journals are not contiguous up to their head", n)
	}
}
