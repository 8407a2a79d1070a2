package bench

import "testing"

func TestTheListIsMeasuredBesideNoClients(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	plan.Topologies = 600 // two frames of the list
	r, err := List(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 2)
	none, all := r.Rows[0], r.Rows[1]
	// Transactions are not asserted: PostgreSQL's backends report theirs once a second, the changes are known at once, so
	// that the difference may be negative over a window as short as a test's.
	if none.Clients != 0 || none.Rows != 0 || none.Reads != 0 || all.Clients != plan.Clients || all.Rows <= 0 ||
		all.Reads <= 0 {
		t.Errorf("%+v", r.Rows)
	}
}

func TestOneStreamOfManyIsMeasuredBesideOneOfEach(t *testing.T) {
	t.Parallel()
	r, err := Many(t.Context(), testPlan(t))
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 2)
	one, each := r.Rows[0], r.Rows[1]
	if one.Streams != 1 || one.Each != 3 || one.Attaches < 1 || one.Attaches > 2 || each.Streams != 3 || each.Each != 1 ||
		each.Memory <= 0 {
		t.Errorf("%+v", r.Rows)
	}
}
