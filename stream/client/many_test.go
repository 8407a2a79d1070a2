package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"topostream/stream"
)

const otherID = stream.TopologyID("00000000-0000-4000-8000-0000000000ff")

func both() []Request { return []Request{{Topology: topologyID}, {Topology: otherID}} }

// brief is what some events are, by the first letter of whose they are: a1 is event 1 of topologyID, b1 of otherID.
func brief(events []Event) string {
	words := make([]string, 0, len(events))
	for _, e := range events {
		whose := map[stream.TopologyID]string{topologyID: "a", otherID: "b"}[e.Topology]
		words = append(words, fmt.Sprint(e.Type, " ", whose, e.Seq))
	}
	return strings.Join(words, ", ")
}

func TestEachTopologyOfAStreamIsCheckedByItself(t *testing.T) {
	t.Parallel()
	begin := snapshotAt(4) + of(otherID, snapshotAt(70)) + eventAt(5, "x") + of(otherID, eventAt(71, "x"))
	for name, c := range map[string]struct {
		body      string
		fault     Fault
		whose     stream.TopologyID
		seq, last stream.Seq
		text      string
	}{
		"a hole in one": {
			begin + of(otherID, eventAt(73, "x")), Hole, otherID, 73, 71,
			"topology " + string(otherID) + ": event 73 came after 71: 72 is missing",
		},
		"a hole in the other": {begin + eventAt(7, "x"), Hole, topologyID, 7, 5, "6 is missing"},
		"one's number in the other": {
			begin + of(otherID, eventAt(6, "x")), Repeated, otherID, 6, 71, "event 6 came again or late, after 71",
		},
		"a double": {begin + of(otherID, eventAt(71, "x")), Repeated, otherID, 71, 71, "71 came again"},
		"no snapshot": {
			snapshotAt(4) + of(otherID, eventAt(5, "x")), Unfounded, otherID, 5, 0, "event 5 came before a snapshot",
		},
		"an older one": {begin + snapshotAt(4), Backwards, topologyID, 4, 5, "a snapshot at 4 came after 5"},
		"no JSON":      {begin + "event: x\nid: 6\ndata: <\n\n", Unreadable, "", 0, 0, `the data of event "x"`},
		"after the end": {
			begin + eventAt(6, "deleted") + rawEvent("x"), AfterDeleted, topologyID, 0, 6, `event "x" came after`,
		},
		"begun anew after the end": {
			begin + eventAt(6, "deleted") + snapshotAt(9), AfterDeleted, topologyID, 9, 6, `event "snapshot" came after`,
		},
		"a stranger's state": {
			begin + of("00000000-0000-4000-8000-000000000003", snapshotAt(1)), Mislabelled, "", 1, 0,
			`the snapshot is of "00000000-0000-4000-8000-000000000003", which was not asked for`,
		},
		"a stranger's event": {
			begin + of("00000000-0000-4000-8000-000000000003", eventAt(1, "x")), Mislabelled, "", 1, 0, "was not asked for",
		},
		"a journaled event of nobody's": {
			begin + strings.Replace(eventAt(6, "x"), "topology."+string(topologyID)+".", "", 1), Mislabelled, "", 6, 0,
			`event "x" is of "x", which was not asked for`,
		},
		"another's id": {
			begin + strings.Replace(eventAt(6, "x"), "id: 6", "id: 72", 1), Mislabelled, topologyID, 6, 5, `has the id "72"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, end := followAll(t, &Client{}, both(), answer{body: c.body + of(otherID, eventAt(72, "deleted"))})
			broken, ok := errors.AsType[*BrokenError](end)
			if !ok || broken.Fault != c.fault || broken.Seq != c.seq || broken.Last != c.last ||
				broken.Topology != c.whose || !strings.Contains(end.Error(), c.text) {
				t.Errorf("%v, %+v; want %q", end, broken, c.text)
			}
		})
	}
}

func TestAStreamOfSeveralGoesOnWhereEachWas(t *testing.T) {
	t.Parallel()
	c := &Client{LeastWait: time.Microsecond, MostWait: time.Microsecond, Token: Fixed("t")}
	first := []Request{
		{Topology: stream.TopologyID(strings.ToUpper(string(topologyID))), Resume: true, After: 3, Graph: true},
		{Topology: otherID},
	}
	events, asked, end := followAll(t, c, first,
		answer{body: ": keepalive\n\n"},
		answer{body: of(otherID, snapshotAt(8)) + rawEvent("raw") + eventAt(4, "x")},
		answer{body: of(otherID, eventAt(9, "x")) + eventAt(5, "deleted")},
		answer{body: of(otherID, snapshotAt(12)) + of(otherID, eventAt(13, "deleted"))})
	if !errors.Is(end, ErrDeleted) {
		t.Fatal(end)
	}
	if got, want := brief(events), "snapshot b8, raw a0, x a4, x b9, deleted a5, snapshot b12, deleted b13"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if s := events[5]; s.Gap != Skipped || s.Previous != 9 {
		t.Errorf("%+v", s)
	}
	names := strings.NewReplacer("a", fmt.Sprintf("%q", topologyID), "b", fmt.Sprintf("%q", otherID))
	for i, numbers := range []string{"a:3,b:null", "a:3,b:null", "a:4,b:8", "b:9"} {
		r := asked.requests[i]
		body, err := r.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if want := `{"topologies":{` + names.Replace(numbers) + `},"graph":true}`; err != nil || string(text) != want {
			t.Errorf("request %d: %s (%v), want %s", i, text, err, want)
		}
		if r.Method != http.MethodPost || r.URL.String() != "http://server/prefix/api/v1/events" ||
			r.Header.Get("Last-Event-ID") != "" || r.Header.Get("Authorization") != "Bearer t" ||
			r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("request %d: %s %s %v", i, r.Method, r.URL, r.Header)
		}
	}
}

// ended is what a server says at the end of a part, or of the whole stream where the id is empty.
func ended(event string, id stream.TopologyID) string {
	topic, payload := event, `{"reason":"later"}`
	if id != "" {
		topic, payload = fmt.Sprintf("topology.%s.%s", id, event), fmt.Sprintf(`{"topology_id":%q}`, id)
	}
	return fmt.Sprintf("event: %s\ndata: {\"topic\":%q,\"type\":%[1]q,\"ts\":\"2026-11-23T19:30:00.123456Z\","+
		"\"journaled\":false,\"payload\":%[3]s}\n\n", event, topic, payload)
}

func TestATopologyThatIsDeletedOrUnknownEndsItsPartAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"deleted": {
			snapshotAt(4) + eventAt(5, "deleted") + of(otherID, snapshotAt(7)) + of(otherID, eventAt(8, "deleted")),
			"snapshot a4, deleted a5, snapshot b7, deleted b8",
		},
		"unknown": {
			ended("deleted", otherID) + snapshotAt(4) + eventAt(5, "deleted"), "deleted b0, snapshot a4, deleted a5",
		},
	} {
		events, _, end := followAll(t, &Client{}, both(), answer{body: c.body, stays: true})
		if got := brief(events); !errors.Is(end, ErrDeleted) || got != c.want {
			t.Errorf("%s: %s, %v", name, got, end)
		}
	}
}

func TestATopologyThatIsUnavailableIsAskedForAgainAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		began := time.Now()
		c := &Client{LeastWait: 4 * time.Second, MostWait: 20 * time.Second, Keepalive: time.Minute}
		c.Disconnected = func(err error, wait time.Duration) {
			if !errors.Is(err, errAway) || wait != 0 {
				t.Errorf("%v, then %v", err, wait)
			}
			took, began = append(took, time.Since(began)), time.Now()
		}
		away := ended("unavailable", otherID)
		events, asked, end := followAll(t, c, both(),
			answer{body: away + snapshotAt(4) + eventAt(5, "x"), stays: true},
			answer{body: eventAt(6, "x") + away, stays: true},
			answer{body: of(otherID, snapshotAt(2)) + away, stays: true}, // it was there, and the pauses begin anew
			answer{body: of(otherID, eventAt(3, "x")) + of(otherID, eventAt(4, "deleted")) + eventAt(7, "deleted")})
		if !errors.Is(end, ErrDeleted) || len(asked.requests) != 4 {
			t.Fatal(end)
		}
		const want = "unavailable b0, snapshot a4, x a5, x a6, unavailable b0, snapshot b2, unavailable b0, " +
			"x b3, deleted b4, deleted a7"
		if got := brief(events); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		for i, full := range []time.Duration{4 * time.Second, 8 * time.Second, 4 * time.Second} {
			if i >= len(took) || took[i] < full/2 || took[i] > full { // in fake time
				t.Errorf("connection %d of %v did not last between %v and %v", i, took, full/2, full)
			}
		}
	})
}

func TestWhatIsSaidAboutTheWholeStreamIsNoTopologys(t *testing.T) {
	t.Parallel()
	c := &Client{LeastWait: time.Microsecond, MostWait: time.Microsecond}
	last := answer{body: of(otherID, eventAt(8, "deleted")) + eventAt(5, "deleted")}
	for _, event := range []string{"unavailable", "token_expired"} {
		events, _, end := followAll(t, c, both(),
			answer{body: snapshotAt(4) + of(otherID, snapshotAt(7)) + ended(event, "")}, last)
		const want = "snapshot a4, snapshot b7, %s 0, deleted b8, deleted a5"
		if got := brief(events); !errors.Is(end, ErrDeleted) || got != fmt.Sprintf(want, event) {
			t.Errorf("%s, %v", got, end)
		}
	}
}

func TestWhatAServerRefusesOfSeveralIsPassedOn(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]error{
		http.StatusBadRequest: nil, http.StatusForbidden: ErrForbidden, http.StatusNotFound: ErrNotFound,
	} {
		_, _, end := followAll(t, &Client{}, both(), answer{status: status, body: `{"detail":"501: give 1 to 500"}`})
		refused, ok := errors.AsType[*RefusedError](end)
		if !ok || refused.Status != status || refused.Detail != "501: give 1 to 500" ||
			want != nil && !errors.Is(end, want) {
			t.Errorf("%d: %v", status, end)
		}
	}
	twice := append(both(), Request{Topology: stream.TopologyID(strings.ToUpper(string(otherID)))})
	for want, reqs := range map[string][]Request{
		"is given twice": twice, `"demo" is no topology id`: slices.Concat(both(), []Request{{Topology: "demo"}}),
	} {
		if _, _, end := followAll(t, &Client{}, reqs); end == nil || !strings.Contains(end.Error(), want) {
			t.Errorf("%v, want %q", end, want)
		}
	}
}
