package check

import (
	"strings"
	"testing"

	"topostream/stream"
	following "topostream/stream/client"
)

// listerOf is a client of the list that has got one row.
func listerOf(row following.Row) *lister {
	l := &lister{newest: map[stream.TopologyID]stream.Seq{}, run: &run{stats: newStats(), faults: newWindows(nil)}}
	l.take(following.Event{List: &following.ListChange{Begins: true, Rows: []following.Row{row}}})
	return l
}

func TestARowOfAListThatIsNotTheTablesIsFound(t *testing.T) {
	t.Parallel()
	reason := "a reason"
	row := following.Row{ID: "a", Name: "demo", Status: "active", Version: 3, UpdatedAt: "now", Seq: 7, InFlight: 1}
	with := func(change func(*following.Row)) following.Row { r := row; change(&r); return r }
	for name, c := range map[string]struct {
		table  following.Row
		change func(*lister)
		want   Kind // empty: nothing
	}{
		"the same":     {table: row},
		"a higher seq": {table: with(func(r *following.Row) { r.Seq = 9 })},
		"a lower seq":  {table: with(func(r *following.Row) { r.Seq = 6 }), want: Stale},
		"a status":     {table: with(func(r *following.Row) { r.Status = "degraded" }), want: Stale},
		"a reason":     {table: with(func(r *following.Row) { r.Reason = &reason }), want: Stale},
		"a version":    {table: with(func(r *following.Row) { r.Version = 4 }), want: Stale},
		"a time":       {table: with(func(r *following.Row) { r.UpdatedAt = "later" }), want: Stale},
		"in flight":    {table: with(func(r *following.Row) { r.InFlight = 2 }), want: Stale},
		"another one":  {table: with(func(r *following.Row) { r.ID = "b" }), want: Lost},
		"another's":    {table: row, change: func(l *lister) { l.ids = []string{"b"} }, want: Stale},
		"not its own": {
			table: with(func(r *following.Row) { r.ID = "b" }), change: func(l *lister) { l.ids = []string{"a"} },
		},
		"out of status": {table: row, change: func(l *lister) { l.request.Statuses = []string{"failed"} }, want: Stale},
	} {
		l := listerOf(row)
		if c.change != nil {
			c.change(l)
		}
		faults := l.compare(map[stream.TopologyID]following.Row{c.table.ID: c.table})
		if len(faults) > 1 || (len(faults) == 1) != (c.want != "") || len(faults) == 1 && faults[0].kind != c.want {
			t.Errorf("%s: %+v, want %q", name, faults, c.want)
		}
	}
}

func TestWordsOfARowTellItsReason(t *testing.T) {
	t.Parallel()
	none := "none"
	if a, b := words(following.Row{}), words(following.Row{Reason: &none}); a == b || !strings.Contains(a, "none") {
		t.Errorf("%s, %s", a, b)
	}
}
