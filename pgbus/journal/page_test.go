package journal

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

func TestARowContinuesOnlyWhatItFollowsInTheSameHistory(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(1) << 32
	h := postgres.History{Epoch: 1, ID: "a"}
	h2, hb := postgres.History{Epoch: 2, ID: "a"}, postgres.History{Epoch: 1, ID: "b"}
	frame := func(n stream.Seq) *stream.Frame { return &stream.Frame{Seq: n} }
	const (
		continues = iota
		contradicts
		behind
	)
	for name, c := range map[string]struct {
		row   Row
		after stream.Seq
		want  int
	}{
		"the next event":        {Row{h, Head{epoch + 9, epoch + 1}, frame(epoch + 5)}, epoch + 4, continues},
		"the oldest event":      {Row{h, Head{epoch + 9, epoch + 5}, frame(epoch + 5)}, epoch + 4, continues},
		"nothing above":         {Row{h, Head{epoch + 9, epoch + 1}, nil}, epoch + 9, continues},
		"an empty journal":      {Row{h, Head{epoch + 9, epoch + 10}, nil}, epoch + 9, continues},
		"another epoch":         {Row{h2, Head{epoch + 9, epoch + 1}, frame(epoch + 5)}, epoch + 4, contradicts},
		"another history":       {Row{hb, Head{epoch + 9, epoch + 1}, frame(epoch + 5)}, epoch + 4, contradicts},
		"a head behind":         {Row{h, Head{epoch + 9, epoch + 1}, nil}, epoch + 10, contradicts},
		"a head of later epoch": {Row{h, Head{epoch + 9, epoch + 1}, frame(epoch + 1)}, epoch - 7, contradicts},
		"pruned":                {Row{h, Head{epoch + 9, epoch + 6}, frame(epoch + 6)}, epoch + 4, behind},
		"a hole":                {Row{h, Head{epoch + 9, epoch + 1}, frame(epoch + 6)}, epoch + 4, behind},
		"an event again":        {Row{h, Head{epoch + 9, epoch + 1}, frame(epoch + 4)}, epoch + 4, behind},
		"the journal lacks it":  {Row{h, Head{epoch + 9, epoch + 1}, nil}, epoch + 8, behind},
		"an event above a head": {Row{h, Head{epoch + 4, epoch + 1}, frame(epoch + 6)}, epoch + 4, behind},
	} {
		err := c.row.Continues(h, c.after)
		broken, _ := errors.AsType[*BrokenError](err)
		switch c.want {
		case continues:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case contradicts, behind:
			if broken == nil || broken.Behind != (c.want == behind) || broken.Error() == "" {
				t.Errorf("%s: %+v", name, broken)
			}
		}
	}
}

func TestAHeldTopologySaysWhoHoldsIt(t *testing.T) {
	t.Parallel()
	prepared, pid := int32(0), int32(42)
	for want, who := range map[string]*int32{
		"a transaction that PostgreSQL does not name": nil,
		"a prepared transaction (pg_prepared_xacts)":  &prepared,
		"the transaction of pid 42":                   &pid,
	} {
		const before = "after a failover or a new epoch the topology waits for "
		const after = ", which holds it: end that transaction"
		if got := (&HeldError{PID: who}).Error(); got != before+want+after {
			t.Error(got)
		}
	}
}

func TestATopologyIsRaisedWhenItsHeadIsNotBelowTheEpoch(t *testing.T) {
	t.Parallel()
	l := Light{Head: Head{Seq: 2<<32 + 5}}
	for epoch, want := range map[int64]bool{1: true, 2: true, 3: false} {
		if got := l.Raised(postgres.History{Epoch: epoch}); got != want {
			t.Errorf("raised to %d: %v", epoch, got)
		}
	}
}

func TestWhyARowContinuesNothingNamesTheNumber(t *testing.T) {
	t.Parallel()
	for want, row := range map[string]Row{
		"the journal does not hold 6": {Head: Head{9, 1}},
		"the journal begins at 7":     {Head: Head{9, 7}},
		"the head is 4":               {Head: Head{4, 1}},
	} {
		if err := row.Continues(postgres.History{}, 5); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A told is what Rows tells of a request.
type told struct {
	rows []Row
	seqs []stream.Seq
}

func (b *bench) pages(t *testing.T, reqs []PageRequest, rows, bytes int) map[int]told {
	t.Helper()
	got := map[int]told{}
	must(t, b.Rows(soon(t), Backlog, reqs, rows, bytes, func(i int, row Row) {
		of := got[i]
		of.rows = append(of.rows, row)
		if row.Frame != nil {
			of.seqs = append(of.seqs, row.Frame.Seq)
		}
		got[i] = of
	}))
	return got
}

func TestRowsTellsEachRequestWhatFollowsItsNumberInOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ids := b.topologies(t, 2)
	b.emit(t, ids[0], 5, "a")
	b.emit(t, ids[1], 2, "b")
	first, second := b.head(t, ids[0]), b.head(t, ids[1])
	got := b.pages(t, []PageRequest{
		{ids[0], first.Seq - 4}, {unknown, 0}, {ids[1], second.Seq}, {ids[0], first.Seq - 1},
	}, 3, 1<<20)
	if len(got) != 3 {
		t.Fatalf("%d requests have an answer, want 3: %+v", len(got), got)
	}
	for place, want := range map[int][]stream.Seq{
		0: {first.Seq - 3, first.Seq - 2, first.Seq - 1}, 2: nil, 3: {first.Seq},
	} {
		if !slices.Equal(got[place].seqs, want) || len(got[place].rows) != max(len(want), 1) {
			t.Errorf("request %d: %+v, want %v", place, got[place], want)
		}
		head := first
		if place == 2 {
			head = second
		}
		for _, row := range got[place].rows {
			if row.Head != head || row.History != b.history(t) {
				t.Errorf("request %d: %+v, want %+v", place, row, head)
			}
		}
	}
	frame := string(got[3].rows[0].Frame.Bytes)
	begin := "event: x\nid: " + first.Seq.String() + "\ndata: {"
	if !strings.HasPrefix(frame, begin) || !strings.Contains(frame, `"text": "a"`) {
		t.Errorf("%q", frame)
	}
	if got := b.pages(t, []PageRequest{{unknown, 0}}, 3, 1<<20); len(got) != 0 {
		t.Errorf("one that never was: %+v", got)
	}
	// A page has one event at least, and otherwise as many bytes as it may.
	b.emit(t, ids[0], 3, strings.Repeat("x", 1000))
	for bytes, want := range map[int]int{1: 1, 1500: 1, 3000: 2, 5000: 3} {
		if got := b.pages(t, []PageRequest{{ids[0], first.Seq}}, 9, bytes)[0].seqs; len(got) != want {
			t.Errorf("%d bytes: %v, want %d events", bytes, got, want)
		}
	}
	// The end of a topology is its final frame.
	pgtest.Exec(t, b.conn, `DELETE FROM topologies`)
	end := b.pages(t, []PageRequest{{ids[1], second.Seq}}, 9, 1<<20)[0].rows
	if len(end) != 1 || end[0].Frame == nil || !end[0].Frame.Final {
		t.Errorf("%+v", end)
	}
}

func TestTheJournalIsShownAsItIsStored(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	b.emit(t, id, 4, "<a>")
	head := b.head(t, id)
	page, err := b.Journal(soon(t), stream.JournalRequest{Topology: id, After: head.Seq - 3, Limit: 2, Most: 1 << 20})
	must(t, err)
	if page.Head != head.Seq || page.First != head.First || len(page.Events) != 2 {
		t.Fatalf("%+v, want two events of %+v", page, head)
	}
	const encoded = `
SELECT topology_event_json(topology_id, seq, type, payload, at) FROM topology_events
 WHERE topology_id = $1::text::uuid AND seq = $2`
	for i, e := range page.Events {
		if want := pgtest.Scan[string](t, b.conn, encoded, id, head.Seq-2+stream.Seq(i)); string(e) != want {
			t.Errorf("%s, want %s", e, want)
		}
	}
	page, err = b.Journal(soon(t), stream.JournalRequest{Topology: id, After: head.Seq, Limit: 2, Most: 1 << 20})
	if err != nil || page.Head != head.Seq || page.First != head.First || len(page.Events) > 0 {
		t.Errorf("above the head: %+v, %v", page, err)
	}
	if text, err := json.Marshal(page.Events); err != nil || string(text) != "[]" {
		t.Errorf("no events are %s", text)
	}
}

func TestTheJournalTakesEveryNumber(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	const last = stream.Seq(1)<<53 - 1 // that there may be
	pgtest.Exec(t, b.conn, `UPDATE topology_heads SET seq = $1::bigint, first = $1::bigint + 1`, last-2)
	b.emit(t, id, 2, "x")
	for after, want := range map[stream.Seq]int{0: 2, last - 1: 1, last: 0, math.MaxUint64: 0} {
		page, err := b.Journal(soon(t), stream.JournalRequest{Topology: id, After: after, Limit: 9, Most: 1 << 20})
		if err != nil || len(page.Events) != want {
			t.Errorf("after %d: %d events, want %d: %v", after, len(page.Events), want, err)
		}
	}
}

func TestAJournalThatCannotBeShownSaysWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	id := b.topologies(t, 1)[0]
	head := b.head(t, id)
	b.emit(t, id, 1, strings.Repeat("x", 1000))
	b.emit(t, id, 1, "x")
	_, err := b.Journal(soon(t), stream.JournalRequest{Topology: id, After: head.Seq, Limit: 9, Most: 999})
	tooLarge, ok := errors.AsType[*stream.TooLargeError](err)
	if !ok || tooLarge.Bytes < 1000 || tooLarge.Bytes > 1300 || errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	_, err = b.Journal(soon(t), stream.JournalRequest{Topology: unknown, Limit: 9, Most: 999})
	if err != stream.ErrNotFound { //nolint:errorlint // the sentinel itself: it is for the client
		t.Error(err)
	}
	b.cfg.Pool.Close()
	_, err = b.Journal(soon(t), stream.JournalRequest{Topology: id, Limit: 9, Most: 999})
	if !errors.Is(err, stream.ErrUnavailable) {
		t.Error(err)
	}
}
