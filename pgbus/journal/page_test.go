package journal

import (
	"errors"
	"testing"

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

func TestATopologyIsRaisedWhenItsHeadIsOfTheEpoch(t *testing.T) {
	t.Parallel()
	l := Light{Head: Head{Seq: 2<<32 + 5}}
	for epoch, want := range map[int64]bool{1: false, 2: true, 3: false} {
		if got := l.Raised(postgres.History{Epoch: epoch}); got != want {
			t.Errorf("raised to %d: %v", epoch, got)
		}
	}
}
