package check

import "testing"

func TestARunThatComparedTooLittleGivesNoVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deliveries, unchecked uint64
		judged                bool
	}{
		"nobody got anything": {0, 0, false}, "all compared": {1, 0, true}, "one in four not": {100, 25, true},
		"more not": {100, 26, false},
	} {
		r := Report{Clients: map[ClientKind]ClientReport{Steady: {Deliveries: c.deliveries}}, Unchecked: c.unchecked}
		if err := r.Judged(); (err == nil) != c.judged {
			t.Errorf("%s: %v", name, err)
		}
	}
}
