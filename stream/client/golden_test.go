package client

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"iter"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"topostream/stream"
)

var updateGolden = flag.Bool("update", false, "write what is read of testdata/golden anew")

// What a server sends (cmd/topostream holds its bytes against the same files) is what this client gives.
func TestTheGoldenStreamsAreReadAsTheyWereSent(t *testing.T) {
	t.Parallel()
	const a, b, unknown = topologyID, "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003"
	for name, c := range map[string]struct {
		requests []Request // nil: the list
		want     string
	}{
		"list":     {nil, "list 0, topology 0, topology 0, removed 0"},
		"snapshot": {[]Request{{Topology: a, Graph: true}}, "snapshot a6"},
		"resume":   {[]Request{{Topology: a, Resume: true, After: 1}}, "status a2, status a3, decky.service_added a4"},
		"notify":   {[]Request{{Topology: a, Resume: true, After: 1}}, "decky.seen a0, notify a0, notify a0"},
		"graph":    {[]Request{{Topology: a, Resume: true, After: 1}}, "graph a2, graph a3, graph a4, graph a5, graph a6"},
		"changeset": {
			[]Request{{Topology: a, Resume: true, After: 3}}, "mutation.enqueued a4, mutation.applying a5, mutation.applied a6",
		},
		"deleted": {[]Request{{Topology: a}}, "snapshot a1, decky.service_added a2, deleted a3"},
		"many": {
			[]Request{{Topology: a}, {Topology: b}, {Topology: unknown}},
			"snapshot a1, decky.service_added a2, deleted a3, snapshot 3, decky.service_added 4, deleted 5, deleted 0",
		},
		"vector": {
			[]Request{{Topology: a, Resume: true, After: 1}, {Topology: b, Resume: true, After: 2}},
			"decky.service_added a2, deleted a3, status 3, decky.service_added 4, deleted 5",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events := readGolden(t, name, c.requests)
			if got := brief(events); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			held(t, name, events)
			for _, e := range events {
				if e.List != nil {
					continue
				}
				numbered := e.Type == TypeSnapshot || e.Journaled
				if !json.Valid(e.Payload) || e.Gap != NoGap || numbered != (e.Seq > 0) ||
					(e.Time == "") != (e.Type == TypeSnapshot) {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// readGolden gives the events of a file of testdata/golden. A stream that is not over has no other connection.
func readGolden(t *testing.T, name string, requests []Request) []Event {
	t.Helper()
	body, err := os.ReadFile("../../testdata/golden/" + name + ".sse")
	if err != nil {
		t.Fatal(err)
	}
	answers := []answer{{body: string(body)}}
	want := ErrDeleted
	if !strings.Contains(string(body), "event: deleted\nid: ") {
		answers, want = append(answers, answer{status: http.StatusNotFound}), ErrNotFound
	}
	// The field retry makes it wait, in fake time.
	var events []Event
	synctest.Test(t, func(t *testing.T) {
		t.Helper()
		c := &Client{}
		var end error
		events, _, end = play(t, c, func(ctx context.Context) iter.Seq2[Event, error] {
			switch len(requests) {
			case 0:
				return c.FollowList(ctx, ListRequest{})
			case 1:
				return c.Follow(ctx, requests[0])
			}
			return c.FollowAll(ctx, requests)
		}, answers)
		if !errors.Is(end, want) {
			t.Error(end)
		}
	})
	return events
}

// A reading is what a golden stream means, which clients in other languages are held to, too: the file .json beside it.
type reading struct {
	Events []readEvent `json:"events"`
	List   []Row       `json:"list"` // at the end, by id; null: the stream has none
}

type readEvent struct {
	Topology  string          `json:"topology_id"` // empty: of none
	Type      string          `json:"type"`
	Seq       stream.Seq      `json:"seq"` // 0: it has none
	Journaled bool            `json:"journaled"`
	Time      string          `json:"ts"` // empty: it has none
	Payload   json.RawMessage `json:"payload"`
}

// held compares what was read with the file .json, or with -update writes it.
func held(t *testing.T, name string, events []Event) {
	t.Helper()
	var (
		r reading
		l List
	)
	for _, e := range events {
		l.Take(e.List)
		r.Events = append(r.Events, readEvent{string(e.Topology), e.Type, e.Seq, e.Journaled, e.Time, e.Payload})
	}
	for _, id := range slices.Sorted(maps.Keys(l.Rows())) {
		r.List = append(r.List, l.Rows()[id])
	}
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := "../../testdata/golden/" + name + ".json"
	if *updateGolden {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != string(got) {
		t.Errorf("%s is not what was read (-update writes it anew): %v\n%s", path, err, got)
	}
}
