package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
)

// What a server sends (cmd/topostream holds its bytes against the same files) is what this client gives.
func TestTheGoldenStreamsAreReadAsTheyWereSent(t *testing.T) {
	t.Parallel()
	const a, b, unknown = topologyID, "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003"
	for name, c := range map[string]struct {
		requests []Request
		want     string
	}{
		"snapshot": {[]Request{{Topology: a, Graph: true}}, "snapshot a6"},
		"resume":   {[]Request{{Topology: a, Resume: true, After: 1}}, "status a2, status a3, decky.service_added a4"},
		"notify":   {[]Request{{Topology: a, Resume: true, After: 1}}, "decky.seen a0, notify a0, notify a0"},
		"graph": {
			[]Request{{Topology: a, Resume: true, After: 1}}, "graph a2, graph a3, graph a4, graph a5, graph a6, graph a7",
		},
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
			for _, e := range events {
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
			if len(requests) == 1 {
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
