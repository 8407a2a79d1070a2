package bench

import (
	"math"
	"testing"

	"topostream/pgbus/setting"
)

func TestEachServerCostsItsDatabaseSomethingOnEachBus(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	r, err := Servers(t.Context(), plan, []int{1, 2}, []int{0, 2})
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 3*(1+2*2)+1+3*2) // two tables, each with a header
	for _, row := range r.Rows {
		// In a time as short as a test's a server that has nothing to do may do nothing at all; the WAL comes to all.
		must := row.Servers > 0 && (row.Followed > 0 || row.Bus == setting.WAL)
		if row.Writers <= 0 || row.Servers == 0 && (row.Theirs != 0 || row.Bytes != 0 || row.Ratio != 1) ||
			must && row.Bytes <= 0 || (row.Delivered > 0) != (row.Servers*row.Followed > 0) {
			t.Errorf("%+v", row)
		}
	}
	for _, s := range r.Slopes {
		if s.Bus == setting.WAL && s.Bytes <= 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestASlopeIsThatOfTheLineThroughAllRows(t *testing.T) {
	t.Parallel()
	rows := []ServersRow{{Servers: 0, Bytes: 5}, {Servers: 1, Bytes: 8}, {Servers: 2, Bytes: 11}, {Servers: 8, Bytes: 29}}
	if s := slope(rows, func(r ServersRow) float64 { return r.Bytes }); math.Abs(s-3) > 1e-9 {
		t.Errorf("%v, want 3", s)
	}
}
