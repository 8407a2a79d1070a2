package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/stream"
)

// rowAt is a row of the list.
func rowAt(id stream.TopologyID, seq stream.Seq, status string) string {
	return fmt.Sprintf(`{"id":%q,"name":"demo","status":%q,"reason":null,"version":2,`+
		`"created_at":"2026-11-23T19:30:00.123456Z","updated_at":"2026-11-23T19:30:01.123456Z",`+
		`"status_changed_at":"2026-11-23T19:30:02.123456Z","seq":%d,"in_flight":3}`, id, status, seq)
}

func listOf(more bool, rows ...string) string {
	return fmt.Sprintf("event: list\ndata: {\"data\":[%s],\"more\":%t}\n\n", strings.Join(rows, ","), more)
}

func changed(row string) string { return "event: topology\ndata: " + row + "\n\n" }

func gone(id stream.TopologyID) string {
	return fmt.Sprintf("event: removed\ndata: {\"id\":%q}\n\n", id)
}

// followList follows until the script refuses.
func followList(t *testing.T, c *Client, req ListRequest, answers ...answer) ([]Event, *script, error) {
	t.Helper()
	answers = append(answers, answer{status: http.StatusForbidden})
	c.LeastWait, c.MostWait = time.Microsecond, time.Microsecond
	return play(t, c, func(ctx context.Context) iter.Seq2[Event, error] { return c.FollowList(ctx, req) }, answers)
}

// statuses are those of a list's rows, a's and b's; nothing: it has not come.
func statuses(l *List) string {
	if l.Rows() == nil {
		return "nothing"
	}
	var words []string
	for name, id := range map[string]stream.TopologyID{"a": topologyID, "b": otherID} {
		if r, ok := l.Rows()[id]; ok {
			words = append(words, fmt.Sprint(name, " ", r.Status, " ", r.Seq))
		}
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func TestTheListIsKeptAsItsEventsSay(t *testing.T) {
	t.Parallel()
	a, b := topologyID, otherID
	events, asked, end := followList(t, &Client{}, ListRequest{Statuses: []string{"active", "degraded"}},
		answer{body: listOf(true, rowAt(a, 4, "active")) + listOf(false, rowAt(b, 9, "active")) +
			changed(rowAt(b, 11, "degraded")) + gone(a) + changed(rowAt(a, 6, "degraded"))},
		// Another server, which is behind in one row and has lost the other.
		answer{body: listOf(false, rowAt(b, 9, "active")) + changed(rowAt(b, 12, "active")) + listOf(true) + listOf(false)})
	if !errors.Is(end, ErrForbidden) {
		t.Fatal(end)
	}
	var l List
	l.Take(nil)
	l.Take(&ListChange{Rows: []Row{{ID: a, Seq: 1}}})
	for i, want := range []struct {
		begins bool
		list   string
	}{
		{true, "nothing"}, {false, "a active 4, b active 9"}, {false, "a active 4, b degraded 11"}, {false, "b degraded 11"},
		{false, "a degraded 6, b degraded 11"},
		{true, "b degraded 11"}, {false, "b active 12"}, {true, "b active 12"}, {false, ""},
	} {
		e := events[i]
		if l.Take(e.List); e.List.Begins != want.begins || statuses(&l) != want.list || e.Topology != "" || e.Seq != 0 {
			t.Errorf("event %d: %+v: %s, want %s", i, e, statuses(&l), want.list)
		}
	}
	row := Row{
		ID: a, Name: "demo", Status: "active", Version: 2, CreatedAt: "2026-11-23T19:30:00.123456Z",
		UpdatedAt: "2026-11-23T19:30:01.123456Z", StatusChangedAt: "2026-11-23T19:30:02.123456Z", Seq: 4, InFlight: 3,
	}
	if got := events[0].List.Rows[0]; got != row {
		t.Errorf("%+v, want %+v", got, row)
	}
	const address = "http://server/prefix/api/v1/topologies/events?status=active&status=degraded"
	if r := asked.requests[1]; r.Method != http.MethodGet || r.URL.String() != address {
		t.Errorf("%s %s", r.Method, r.URL)
	}
}

func TestTwoHistoriesOfARowAreNotCompared(t *testing.T) {
	t.Parallel()
	const epoch = 1 << 32
	begin := listOf(false, rowAt(topologyID, epoch+2, "active"))
	events, _, end := followList(t, &Client{}, ListRequest{},
		answer{body: begin + changed(rowAt(topologyID, 7, "degraded"))})
	if !errors.Is(end, ErrForbidden) {
		t.Fatal(end)
	}
	var l List
	for _, e := range events {
		l.Take(e.List)
	}
	if got := statuses(&l); got != "a degraded 7" {
		t.Error(got)
	}
}

func TestTopologiesBesideTheListKeepTheirPromise(t *testing.T) {
	t.Parallel()
	req := ListRequest{Topologies: []Request{{Topology: topologyID, Graph: true}}}
	row := listOf(false, rowAt(topologyID, 4, "active"))
	events, asked, end := followList(t, &Client{}, req,
		answer{body: snapshotAt(4) + row + eventAt(5, "x") + changed(rowAt(topologyID, 5, "active"))},
		answer{body: row + eventAt(6, "deleted") + gone(topologyID)}, // and the list goes on
		answer{body: listOf(false) + ended("unavailable", "")})
	if !errors.Is(end, ErrForbidden) {
		t.Fatal(end)
	}
	const want = "snapshot a4, list 0, x a5, topology 0, list 0, deleted a6, removed 0, list 0, unavailable 0"
	if got := brief(events); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	const id = string(topologyID)
	for i, topologies := range []string{`{"` + id + `":null}`, `{"` + id + `":5}`, `{}`} {
		body, err := asked.requests[i].GetBody()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if want := `{"topologies":` + topologies + `,"graph":true,"list":true}`; err != nil || string(text) != want {
			t.Errorf("request %d: %s (%v), want %s", i, text, err, want)
		}
	}
	req.Statuses = []string{"active"}
	c := &Client{URL: "http://server"}
	for _, err := range c.FollowList(t.Context(), req) {
		if err == nil || !strings.Contains(err.Error(), "follow one that has some by itself") {
			t.Error(err)
		}
	}
}

func TestAListThatBreaksThePromiseIsATypedError(t *testing.T) {
	t.Parallel()
	row := rowAt(topologyID, 4, "active")
	whole := listOf(false, row)
	for name, c := range map[string]struct {
		body  string
		fault Fault
		text  string
	}{
		"a change before the list": {changed(row), Unfounded, `event "topology" came before the whole list`},
		"one within the list":      {listOf(true, row) + gone(topologyID), Unfounded, `event "removed" came before`},
		"one within a list that comes anew": {
			whole + listOf(true, row) + changed(row), Unfounded, `event "topology" came before`,
		},
		"an older row": {
			whole + changed(rowAt(topologyID, 3, "degraded")), Backwards, "at 3 came after that at 4",
		},
		"an older list": {whole + listOf(false, rowAt(topologyID, 3, "degraded")), Backwards, "at 3 came after that at 4"},
		"an id": {
			strings.Replace(whole, "data:", "id: 4\ndata:", 1), Mislabelled, `event "list" is the list's, but has the id 4`,
		},
		"no JSON":     {"event: list\ndata: <\n\n", Unreadable, `the data of event "list"`},
		"no rows":     {"event: list\ndata: {\"more\":false}\n\n", Unreadable, "data or more is missing"},
		"no more":     {"event: list\ndata: {\"data\":[]}\n\n", Unreadable, "data or more is missing"},
		"no seq":      {listOf(false, rowAt(topologyID, 0, "active")), Unreadable, "the seq 0"},
		"no id":       {whole + "event: removed\ndata: {}\n\n", Unreadable, `the id ""`},
		"no such id":  {whole + changed(rowAt("demo", 5, "active")), Unreadable, `the id "demo"`},
		"no row":      {whole + "event: topology\ndata: []\n\n", Unreadable, `the data of event "topology"`},
		"not removed": {whole + "event: removed\ndata: []\n\n", Unreadable, `the data of event "removed"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := &Client{}
			_, _, end := play(t, cl, func(ctx context.Context) iter.Seq2[Event, error] {
				ctx, cancel := context.WithCancel(ctx)
				cl.Disconnected = func(error, time.Duration) { cancel() } // which a break of the promise is not
				return cl.FollowList(ctx, ListRequest{})
			}, []answer{{body: c.body}})
			broken, ok := errors.AsType[*BrokenError](end)
			if !ok || broken.Fault != c.fault || !strings.Contains(end.Error(), c.text) {
				t.Errorf("%v; want %q", end, c.text)
			}
		})
	}
}

func TestAListThatNobodyAskedForIsMislabelled(t *testing.T) {
	t.Parallel()
	_, _, end := followAll(t, &Client{}, both(), answer{body: listOf(false), stays: true})
	if broken, ok := errors.AsType[*BrokenError](end); !ok || broken.Fault != Mislabelled {
		t.Error(end)
	}
}
