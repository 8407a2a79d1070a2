package check

import (
	"fmt"
	"hash/maphash"
	"testing"
	"time"
)

// forked is a topology with three events, of which the promoted copy has the first, and then others.
func forked(t *testing.T) *topology {
	t.Helper()
	r := testRun()
	topology := newTopology(r, "id", "name", 0)
	take := func(what string, seqs ...uint64) {
		for _, seq := range seqs {
			topology.fold(seq, eventJSON(seq, "custom", what), 0, true)
		}
	}
	take(`"both"`, 1)
	promoted := newState(r.hash)
	promoted.seq, promoted.digest = 1, topology.state.digest
	take(`"lost"`, 2, 3)
	topology.fork(promoted, 1, 1)
	take(`"new"`, 2, 3, 4)
	topology.eras = append(topology.eras, era{topology.position, topology.state.log})
	topology.position, topology.bases[1] = epochBase(1), topology.state.digest
	take(`"new"`, epochBase(1)+1)
	if r.violations.total() != 0 {
		t.Fatal(r.violations.first)
	}
	return topology
}

func TestAfterAPromotionOnlyWhatCanBeToldFromLostHistoryMayBeDelivered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		seq  uint64
		what string
		want Kind
	}{
		"what both have":                         {1, `"both"`, ""},
		"what is lost":                           {2, `"lost"`, ""},
		"what is lost, the newest":               {3, `"lost"`, ""},
		"another event under a lost number":      {2, `"new"`, Spliced},
		"the one after the lost numbers":         {4, `"new"`, Spliced},
		"an event of the new epoch":              {epochBase(1) + 1, `"new"`, ""},
		"other bytes under a number of both":     {1, `"lost"`, Altered},
		"other bytes under one of the new epoch": {epochBase(1) + 1, `"lost"`, Altered},
	} {
		topology := forked(t)
		data := eventJSON(c.seq, "custom", c.what)
		topology.observe(observation{client: &client{run: topology.run, kind: Slow}, seq: c.seq,
			hash: maphash.Bytes(topology.run.hash, data)})
		topology.judgeWaiting(true)
		if got := topology.run.violations.count; c.want == "" && len(got) != 0 || c.want != "" && got[c.want] != 1 {
			t.Errorf("%s: %v, want %q", name, got, c.want)
		}
	}
}

func TestASnapshotOfLostHistoryIsComparedWithThatAndNoneOfTheNewMayHaveItsNumbers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		seq     uint64
		version int64
		want    Kind
	}{
		"of both": {1, 0, ""}, "of lost history": {3, 0, ""}, "of neither": {1, 7, WrongSnapshot},
		"of the new history under a lost number": {2, 7, Spliced}, "at the beginning of the epoch": {epochBase(1), 0, ""},
		"of the new history in the old epoch": {4, 0, Spliced},
	} {
		topology := forked(t)
		d := topology.record(1).digest
		d.version = c.version
		topology.run.stats.kinds[Slow] = &kindStats{}
		topology.takeSnapshot(taken{client: &client{run: topology.run, kind: Slow}, seq: c.seq, digest: d})
		topology.judgeWaiting(true)
		if got := topology.run.violations.count; c.want == "" && len(got) != 0 || c.want != "" && got[c.want] != 1 {
			t.Errorf("%s: %v, want %q", name, got, c.want)
		}
	}
}

func TestWhatAPromotionTakesBackNeedNotBeFoundAgainButMay(t *testing.T) {
	t.Parallel()
	l := newLedger()
	kept, decided, asked := newTag(0, 1), newTag(0, 2), newTag(0, 3)
	for i, m := range []tag{kept, decided, asked} {
		l.begin(m)
		if _, problem := l.find(m, uint64(i)+1); problem != "" {
			t.Fatal(problem)
		}
	}
	l.decide(decided, committed, time.Second, time.Second)
	l.fork(1, 2*time.Second)
	if _, problem := l.find(asked, 2); problem != "" { // a request was sent again
		t.Error(problem)
	}
	l.decide(asked, committed, 3*time.Second, 3*time.Second)
	l.decide(kept, committed, 3*time.Second, 3*time.Second)
	if len(l.entries) != 0 {
		t.Errorf("entries stay: %v", fmt.Sprint(l.entries))
	}
	if _, problem := l.find(decided, 3); problem == "" {
		t.Error("an event that its writer knows and did not write again is found again, and nobody says so")
	}
}

func TestWhereNothingIsLostANumberStandsForOneEvent(t *testing.T) {
	t.Parallel()
	r := testRun()
	topology := newTopology(r, "id", "name", 0)
	topology.fold(1, eventJSON(1, "custom", `1`), 0, true)
	promoted := newState(r.hash)
	promoted.seq, promoted.digest = 1, topology.state.digest
	topology.fork(promoted, 1, 1)
	topology.fold(2, eventJSON(2, "custom", `2`), 0, true)
	topology.observe(observation{client: &client{run: r, kind: Slow}, seq: 2,
		hash: maphash.Bytes(r.hash, eventJSON(2, "custom", `2`))})
	topology.judgeWaiting(true)
	if r.violations.total() != 0 || r.stats.lostByFailover.Load() != 0 {
		t.Errorf("%v", r.violations.first)
	}
}
