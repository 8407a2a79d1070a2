package sql_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// maxBulkRatio is how much longer a bulk update may take on a connection that has made one-row updates before:
// plpgsql would keep the plan that it made for the first transition table, and take some fifty times as long.
const maxBulkRatio = 3

// BenchmarkBulkUpdate is one UPDATE of 10,000 mutations over 100 topologies, on a connection that has made one-row
// updates before and on a fresh one.
func BenchmarkBulkUpdate(b *testing.B) {
	var fresh, warm time.Duration
	for b.Loop() {
		f, w := bulkUpdate(b, 0), bulkUpdate(b, 20)
		fresh += f
		warm += w
	}
	ratio := warm.Seconds() / fresh.Seconds()
	b.ReportMetric(fresh.Seconds()/float64(b.N), "s/fresh")
	b.ReportMetric(warm.Seconds()/float64(b.N), "s/warm")
	b.ReportMetric(ratio, "warm/fresh")
	if ratio > maxBulkRatio {
		b.Errorf("a bulk update takes %.1f × as long on a connection that has updated single rows, at most %d × is promised",
			ratio, maxBulkRatio)
	}
}

// bulkUpdate times the UPDATE on a connection that has made before one-row updates, in a database of its own.
func bulkUpdate(b *testing.B, before int) time.Duration {
	b.Helper()
	db := pgtest.New(b)
	conn := db.Conn(b)
	run := func(conn *pgx.Conn, statement string, args ...any) {
		if _, err := conn.Exec(b.Context(), statement, args...); err != nil {
			b.Fatal(err)
		}
	}
	run(conn, `INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, 100) i`)
	run(conn, `INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies, generate_series(1, 101)`)
	run(conn, `ANALYZE`)
	conn = db.Conn(b)
	if before > 0 {
		for i := range before {
			run(conn, `UPDATE mutations SET state = 'applying' WHERE position = $1`, i+1)
		}
	}
	start := time.Now()
	tag, err := conn.Exec(
		b.Context(),
		`UPDATE mutations SET state = 'applying' WHERE state = 'pending' AND position > 100`,
	)
	took := time.Since(start)
	if err != nil || tag.RowsAffected() != 10000 {
		b.Fatal(tag, err)
	}
	return took
}
