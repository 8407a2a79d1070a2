package stream_test

import (
	"slices"
	"testing"

	"topostream/stream"
)

func TestAnOpsLabelIsItselfAndWhatIsNoneHasOneOfItsOwn(t *testing.T) {
	t.Parallel()
	labels := stream.OpLabels()
	for _, op := range stream.Ops() {
		if labels[stream.OpLabel(op)] != op {
			t.Errorf("%s is counted as %s", op, labels[stream.OpLabel(op)])
		}
	}
	for _, op := range []string{"", "zzz", "drop table"} {
		if labels[stream.OpLabel(op)] != "other" {
			t.Errorf("%q is counted as %s", op, labels[stream.OpLabel(op)])
		}
	}
	if slices.Contains(labels[:], "") || len(labels) != len(stream.Ops())+1 {
		t.Errorf("%q", labels)
	}
}

func TestAnEventsTimeIsThatOfItsJSON(t *testing.T) {
	t.Parallel()
	for json, want := range map[string]int64{
		`{"topic":"topology.x.y","type":"y","ts":"2026-01-02T03:04:05.678901Z","seq":1,` +
			`"payload":{"ts":"no"}}`: 1767323045678901,
		`{"ts":"2026"}`: 0, `{}`: 0, "": 0, `{"x":1,"ts":"`: 0,
		`{"topic":"a","ts":"2026-01-02 03:04:05.678901Z","x":1}`: 0,
	} {
		if at := (stream.Event{JSON: json}).RecordedAt(); at != want {
			t.Errorf("%s: %d, want %d", json, at, want)
		}
	}
}
