package sse_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	gosse "github.com/tmaxmax/go-sse"

	"topostream/stream"
	"topostream/stream/sse"
)

const topology = stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")

func parse(t *testing.T, frame []byte) []gosse.Event {
	t.Helper()
	var events []gosse.Event
	for e, err := range gosse.Read(strings.NewReader(string(frame)), &gosse.ReadConfig{MaxEventSize: 1 << 20}) {
		if err != nil {
			t.Fatalf("%q: %v", frame, err)
		}
		events = append(events, e)
	}
	return events
}

func TestARawNotifyIsAnEventOnlyWithAUsableType(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"type":"mutation.applied","payload":{"mutation_id":"by-hand"}}`: "mutation.applied",
		`{"type":"x"}`:             "x",
		`{"Type":"x"}`:             "notify",
		`{"type":"snapshot"}`:      "notify",
		`{"type":"deleted"}`:       "notify",
		`{"type":"a b"}`:           "notify",
		`{"type":null}`:            "notify",
		`{"type":7}`:               "notify",
		`["type"]`:                 "notify",
		`any text at all`:          "notify",
		"data: x\nevent: y\r\n\nz": "notify",
		``:                         "notify",
		`{"type":"` + strings.Repeat("a", 65) + `"}`: "notify",
	} {
		events := parse(t, sse.RawNotify(topology, text, time.Unix(0, 0)).Bytes)
		if len(events) != 1 || events[0].Type != want {
			t.Errorf("%q: %+v, want one event %s", text, events, want)
		}
	}
}

func FuzzRawNotify(f *testing.F) {
	for _, s := range []string{"", "x", "\r\n\n", `{"type":"a","payload":"\n"}`, "\xff\xfe", "data: a\n\nid: 7\n\n",
		"\u2028", "\x00", `{"type":"a","payload":` + "{\n}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		events := parse(t, sse.RawNotify(topology, text, time.Unix(0, 0)).Bytes)
		if len(events) != 1 || events[0].LastEventID != "" {
			t.Fatalf("%q: %+v", text, events)
		}
		var body struct {
			Type      string
			Journaled *bool
			Payload   json.RawMessage
		}
		if err := json.Unmarshal([]byte(events[0].Data), &body); err != nil {
			t.Fatalf("%q: %v", events[0].Data, err)
		}
		if body.Type != events[0].Type || body.Journaled == nil || *body.Journaled || len(body.Payload) == 0 {
			t.Fatalf("%q: %+v", text, body)
		}
	})
}
