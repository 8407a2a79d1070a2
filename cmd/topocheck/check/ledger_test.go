package check

import (
	"strings"
	"testing"
	"time"
)

func TestTheLedgerFindsWhatTheJournalHasWrong(t *testing.T) {
	t.Parallel()
	first, second := newTag(3, 7), newTag(3, 8)
	for name, c := range map[string]struct {
		steps func(l *ledger) (problem string)
		want  string
	}{
		"committed, then found": {func(l *ledger) string {
			l.begin(first)
			l.decide(first, committed, time.Second, time.Second)
			_, problem := l.find(first, 1)
			return problem
		}, ""},
		"found, then committed": {func(l *ledger) string {
			l.begin(first)
			_, before := l.find(first, 1)
			seq, problem := l.decide(first, committed, time.Second, time.Second)
			if seq != 1 {
				return "the seq is not known"
			}
			return before + problem
		}, ""},
		"rolled back, then found": {func(l *ledger) string {
			l.begin(first)
			l.decide(first, rolledBack, 0, 0)
			_, problem := l.find(first, 1)
			return problem
		}, "w3-7, which was not committed"},
		"found, then rolled back": {func(l *ledger) string {
			l.begin(first)
			l.find(first, 1)
			_, problem := l.decide(first, rolledBack, 0, 0)
			return problem
		}, "w3-7, which was rolled back"},
		"found twice": {func(l *ledger) string {
			l.begin(first)
			l.decide(first, committed, 0, 0)
			l.find(first, 1)
			_, problem := l.find(first, 2)
			return problem
		}, "holds it twice"},
		"found twice before it is decided": {func(l *ledger) string {
			l.begin(first)
			l.find(first, 1)
			_, problem := l.find(first, 2)
			return problem
		}, "twice: it is also 1"},
		"never written": {func(l *ledger) string {
			_, problem := l.find(first, 1)
			return problem
		}, "was not committed"},
		"in the other order": {func(l *ledger) string {
			l.begin(first)
			l.begin(second)
			l.decide(first, committed, 0, 0)
			l.decide(second, committed, 0, 0)
			l.find(second, 1)
			_, problem := l.find(first, 2)
			return problem
		}, "w3-7 after w3-8"},
		"unknown, and committed late": {func(l *ledger) string {
			l.begin(first)
			l.decide(first, unknown, 0, 0)
			l.begin(second)
			l.decide(second, committed, 0, 0)
			_, a := l.find(second, 1)
			_, b := l.find(first, 2)
			return a + b
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger()
			if problem := c.steps(&l); (problem == "") != (c.want == "") || !strings.Contains(problem, c.want) {
				t.Errorf("the problem is %q, want %q", problem, c.want)
			}
			if len(l.entries) != 0 && name != "found twice before it is decided" {
				t.Errorf("%d entries stay", len(l.entries))
			}
		})
	}
}

func TestWhatWasCommittedAndIsNotInTheJournalIsReportedAtTheEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		outcome outcome
		sent    time.Duration
		mayLose bool
		want    uint64
	}{
		"committed": {committed, time.Second, false, 1},
		// the answer came after the epoch, which proves nothing of when it was done
		"committed, and it may be lost": {committed, time.Second, true, 0},
		"committed in the new epoch":    {committed, 2500 * time.Millisecond, true, 1},
		"unknown":                       {unknown, time.Second, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testRun()
			r.cfg.MayLose = c.mayLose
			topology := newTopology(r, "id", "name", 3)
			topology.begin(newTag(0, 1))
			topology.decide(newTag(0, 1), c.outcome, c.sent, 3*time.Second)
			topology.ledger.newEpoch(2 * time.Second)
			r.closeLedger(topology)
			if got := r.violations.count[Journal]; got != c.want {
				t.Errorf("%d journal faults, want %d", got, c.want)
			}
		})
	}
}

func TestWhatRetentionMayHaveRemovedIsExcusedAndWhatIsWrittenLaterIsNot(t *testing.T) {
	t.Parallel()
	r := testRun()
	topology := newTopology(r, "id", "name", 3)
	before, after := newTag(0, 1), newTag(0, 2)
	topology.begin(before)
	topology.ledger.excuse()
	topology.decide(before, committed, time.Second, time.Second)
	topology.begin(after)
	topology.decide(after, committed, time.Second, time.Second)
	r.closeLedger(topology)
	if got := r.violations.count[Journal]; got != 1 {
		t.Errorf("%d journal faults, want that of %s", got, after)
	}
	if _, problem := topology.ledger.find(newTag(0, 3), 9); problem == "" {
		t.Error("an event that nobody wrote is none of the ledger's business")
	}
}
