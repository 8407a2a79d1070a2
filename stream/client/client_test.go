package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"topostream/stream"
)

func TestWhatBreaksThePromiseIsATypedError(t *testing.T) {
	t.Parallel()
	const otherID = "00000000-0000-4000-8000-000000000002"
	for name, c := range map[string]struct {
		body      string
		fault     Fault
		seq, last stream.Seq
		text      string
	}{
		"a hole": {snapshotAt(4) + eventAt(7, "x"), Hole, 7, 4, "event 7 came after 4: 5 to 6 are missing"},
		"a double": {
			snapshotAt(4) + eventAt(5, "x") + eventAt(5, "x"),
			Repeated, 5, 5, "event 5 came again or late, after 5",
		},
		"a wrong order": {snapshotAt(4) + eventAt(6, "x") + eventAt(5, "x"), Hole, 6, 4, "5 is missing"},
		"no snapshot":   {eventAt(5, "x"), Unfounded, 5, 0, "event 5 came before a snapshot"},
		"an older one":  {snapshotAt(4) + snapshotAt(3), Backwards, 3, 4, "a snapshot at 3 came after 4"},
		"no JSON": {
			snapshotAt(4) + "event: x\nid: 5\ndata: <\n\n",
			Unreadable, 0, 4, `the data of event "x" is not what`,
		},
		"another id": {
			snapshotAt(4) + strings.Replace(eventAt(5, "x"), "id: 5", "id: 6", 1),
			Mislabelled, 5, 4, `has the id "6"`,
		},
		"another type": {
			snapshotAt(4) + strings.Replace(eventAt(5, "x"), "event: x", "event: y", 1),
			Mislabelled, 5, 4, `holds one of type "x"`,
		},
		"no type": {
			snapshotAt(4) + strings.Replace(eventAt(5, "x"), "event: x\n", "", 1),
			Mislabelled, 5, 4, `event ""`,
		},
		"another topology": {
			snapshotAt(4) + strings.Replace(eventAt(5, "x"), string(topologyID), otherID, 1),
			Mislabelled, 5, 4, "not of topology." + string(topologyID),
		},
		"another's state": {
			strings.Replace(snapshotAt(4), string(topologyID), otherID, 1),
			Mislabelled, 4, 0, "the snapshot is of",
		},
		"a raw one's id": {snapshotAt(4) + "id: 9\n" + rawEvent("notify"), Mislabelled, 0, 4, "is not journaled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, end := follow(t, &Client{}, Request{}, answer{body: c.body + eventAt(8, "deleted")})
			broken, ok := errors.AsType[*BrokenError](end)
			if !ok || broken.Fault != c.fault || broken.Seq != c.seq || broken.Last != c.last ||
				broken.Topology != topologyID || !strings.Contains(broken.Error(), c.text) {
				t.Errorf("%v, %+v; want %q", end, broken, c.text)
			}
		})
	}
}

func TestASnapshotTellsWhatLiesBetweenItAndWhatCameBefore(t *testing.T) {
	t.Parallel()
	const epoch1 = stream.Seq(1 << 32)
	for name, c := range map[string]struct {
		req      Request
		before   string
		at       stream.Seq
		gap      Gap
		previous stream.Seq
	}{
		"the first":       {Request{}, "", 4, NoGap, 0},
		"the same again":  {Request{}, snapshotAt(4), 4, NoGap, 4},
		"a later one":     {Request{}, snapshotAt(4) + eventAt(5, "x"), 9, Skipped, 5},
		"a new epoch's":   {Request{}, snapshotAt(4), epoch1, NewHistory, 4},
		"an old epoch's":  {Request{}, snapshotAt(2 * epoch1), epoch1, NewHistory, 2 * epoch1},
		"not resumed":     {Request{Resume: true, After: 7}, "", 9, NotResumed, 7},
		"once it resumed": {Request{Resume: true, After: 7}, eventAt(8, "x"), 9, Skipped, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, _, end := follow(t, &Client{}, c.req,
				answer{body: c.before + snapshotAt(c.at) + eventAt(c.at+1, "deleted")})
			if !errors.Is(end, ErrDeleted) {
				t.Fatal(end)
			}
			last := events[len(events)-2]
			if last.Gap != c.gap || last.Previous != c.previous || last.Seq != c.at || last.Type != TypeSnapshot {
				t.Errorf("%+v", last)
			}
		})
	}
}

func TestAnEventHasWhatItsFrameSays(t *testing.T) {
	t.Parallel()
	events, _, end := follow(t, &Client{}, Request{Topology: stream.TopologyID(strings.ToUpper(string(topologyID)))},
		answer{body: ": keepalive\nretry: 2000\n\n" + snapshotAt(4) + rawEvent("notify") + eventAt(5, "deleted")})
	if !errors.Is(end, ErrDeleted) || len(events) != 3 {
		t.Fatalf("%v %v", events, end)
	}
	s, raw, gone := events[0], events[1], events[2]
	if s.Seq != 4 || s.Journaled || string(s.Payload) != s.Data || !strings.HasPrefix(s.Data, `{"topology_id"`) {
		t.Errorf("%+v", s)
	}
	if raw.Seq != 0 || raw.Journaled || raw.Type != "notify" || string(raw.Payload) != `{"reason":"later"}` {
		t.Errorf("%+v", raw)
	}
	if gone.Seq != 5 || !gone.Journaled || gone.Topology != topologyID || string(gone.Payload) != `{"n":1}` ||
		gone.Time != "2026-11-23T19:30:00.123456Z" || !strings.HasPrefix(gone.Data, `{"topic"`) {
		t.Errorf("%+v", gone)
	}
}

func TestAReconnectSaysWhatCame(t *testing.T) {
	t.Parallel()
	c := &Client{LeastWait: time.Microsecond, MostWait: time.Microsecond, Token: Fixed("t")}
	_, asked, end := follow(t, c, Request{Resume: true, After: 3, Graph: true},
		answer{body: ": keepalive\n\n"}, answer{body: eventAt(4, "x")}, answer{body: eventAt(5, "deleted")})
	if !errors.Is(end, ErrDeleted) {
		t.Fatal(end)
	}
	for i, id := range []string{"", "", "4"} {
		r := asked.requests[i]
		want := fmt.Sprintf("http://server/prefix/api/v1/topologies/%s/events?graph=1&last_event_id=3", topologyID)
		if r.URL.String() != want || r.Header.Get("Last-Event-ID") != id || r.Header.Get("Authorization") != "Bearer t" ||
			r.Header.Get("Accept") != "text/event-stream" {
			t.Errorf("request %d: %s %v", i, r.URL, r.Header)
		}
	}
}

func TestAnAnswerAfterWhichATryIsInVainIsATypedError(t *testing.T) {
	t.Parallel()
	sentinels := []error{ErrUnauthorized, ErrForbidden, ErrNotFound}
	for status, want := range map[int]error{
		http.StatusUnauthorized: ErrUnauthorized, http.StatusForbidden: ErrForbidden, http.StatusNotFound: ErrNotFound,
		http.StatusInternalServerError: nil, http.StatusFound: nil,
	} {
		_, _, end := follow(t, &Client{}, Request{}, answer{
			status: status, body: `{"detail":"why"}`, header: map[string]string{"Location": "http://elsewhere/"},
		})
		refused, ok := errors.AsType[*RefusedError](end)
		if !ok || refused.Status != status || refused.Detail != "why" {
			t.Errorf("%d: %v", status, end)
		}
		for _, sentinel := range sentinels {
			if errors.Is(end, sentinel) != (sentinel == want) { //nolint:errorlint // which of them it is
				t.Errorf("%d is %v: %t", status, sentinel, errors.Is(end, sentinel))
			}
		}
	}
	html := answer{body: "<html>", header: map[string]string{"Content-Type": "text/html"}}
	if _, _, end := follow(t, &Client{}, Request{}, html); end == nil ||
		end.Error() != `the server answered with "text/html", not with a stream of events` {
		t.Errorf("a page: %v", end)
	}
}

func TestWhatIsNoRequestIsAnError(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		url string
		id  stream.TopologyID
	}{"no host": {"localhost:8080?token=hunter2", topologyID}, "no id": {"http://localhost", "demo"}} {
		var got []error
		for _, err := range (&Client{URL: c.url}).Follow(t.Context(), Request{Topology: c.id}) {
			got = append(got, err)
		}
		if len(got) != 1 || got[0] == nil || strings.Contains(got[0].Error(), "hunter2") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// waited follows in fake time and gives the pauses and why they were made.
func waited(t *testing.T, c *Client, answers ...answer) (waits []time.Duration, why []error) {
	t.Helper()
	c.Disconnected = func(err error, wait time.Duration) { waits, why = append(waits, wait), append(why, err) }
	if _, _, end := follow(t, c, Request{}, answers...); !errors.Is(end, ErrDeleted) {
		t.Error(end)
	}
	return waits, why
}

func TestAConnectionOnWhichNotAByteComesForThreeKeepalivesIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		waits, why := waited(t, &Client{Keepalive: 10 * time.Second},
			answer{body: snapshotAt(4), stays: true}, answer{body: eventAt(5, "deleted")})
		if len(why) != 1 || !strings.Contains(why[0].Error(), "not a byte came for 30s") {
			t.Fatal(why)
		}
		if silent := time.Since(began) - waits[0]; silent != 30*time.Second { // in fake time
			t.Errorf("it was silent for %v", silent)
		}
	})
}

func TestACallerThatTakesLongIsNoSilentServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := &script{t: t, answers: []answer{{body: snapshotAt(4) + eventAt(5, "x") + eventAt(6, "deleted")}}}
		c := &Client{URL: "http://server", Transport: asked}
		n := 0
		for _, err := range c.Follow(t.Context(), Request{Topology: topologyID}) {
			if err != nil && !errors.Is(err, ErrDeleted) {
				t.Error(err)
			}
			n++
			time.Sleep(time.Hour) // in fake time
		}
		if n != 4 {
			t.Errorf("%d events with the end", n)
		}
	})
}

func TestThePausesThatAServerAsksForAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		retryAfter := func(v string) answer { return answer{status: 503, header: map[string]string{"Retry-After": v}} }
		waits, why := waited(t, &Client{LeastWait: time.Millisecond, MostWait: 4 * time.Millisecond},
			answer{body: ": keepalive\n\n"}, // says nothing: the client's own
			retryAfter("7"),
			retryAfter(time.Now().Add(20*time.Second).UTC().Format(http.TimeFormat)),
			answer{body: "retry: 2841\n\n" + snapshotAt(4)},
			answer{status: 502}, // the field retry holds until another comes
			answer{body: "retry: 999999999\n\n"},
			answer{body: "retry: 3\n\n"},
			answer{body: eventAt(5, "deleted")})
		for i, want := range []struct{ least, most time.Duration }{
			{500 * time.Microsecond, time.Millisecond},
			{7 * time.Second, 10500 * time.Millisecond},
			{9 * time.Second, 30 * time.Second}, // less what has passed
			{2841 * time.Millisecond, 2841 * time.Millisecond},
			{2841 * time.Millisecond, 2841 * time.Millisecond},
			{5 * time.Minute, 5 * time.Minute},
			{3 * time.Millisecond, 3 * time.Millisecond},
		} {
			if i >= len(waits) || waits[i] < want.least || waits[i] > want.most {
				t.Errorf("pause %d: %v, want %v to %v", i, waits, want.least, want.most)
			}
		}
		if refused, ok := errors.AsType[*RefusedError](why[1]); !ok || refused.Status != http.StatusServiceUnavailable {
			t.Errorf("%v", why[1])
		}
	})
}

func TestPausesGrowWithFailuresAndBeginAnewAfterAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := answer{status: 502}
		refused := answer{body: rawEvent("unavailable")} // what an EventSource gets instead of a 503
		waits, _ := waited(t, &Client{LeastWait: time.Second, MostWait: 6 * time.Second},
			down, down, refused, down, down, answer{body: snapshotAt(4)}, down, answer{body: eventAt(5, "deleted")})
		for i, seconds := range []int{1, 2, 4, 6, 6, 1, 2} {
			full := time.Duration(seconds) * time.Second
			if i >= len(waits) || waits[i] < full/2 || waits[i] > full {
				t.Errorf("pause %d of %v is not between %v and %v", i, waits, full/2, full)
			}
		}
	})
}

func TestATokenThatIsNotTakenIsAskedForOnceMore(t *testing.T) {
	t.Parallel()
	no, yes := answer{status: 401}, answer{body: snapshotAt(4) + eventAt(5, "deleted")}
	for name, c := range map[string]struct {
		tokens  []string
		answers []answer
		want    error
	}{
		"renewed":             {[]string{"old", "new"}, []answer{no, yes}, ErrDeleted},
		"the same":            {[]string{"old", "old"}, []answer{no}, ErrUnauthorized},
		"a new one, refused":  {[]string{"a", "b"}, []answer{no, no}, ErrUnauthorized},
		"not to be had":       {[]string{"a", ""}, []answer{no}, ErrUnauthorized},
		"not to be had yet":   {[]string{"", "a"}, []answer{yes}, ErrDeleted},
		"good from the first": {[]string{"a"}, []answer{yes}, ErrDeleted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			_, asked, end := follow(t, &Client{LeastWait: time.Microsecond, Token: func(context.Context) (string, error) {
				n++
				if c.tokens[n-1] == "" {
					return "", errors.New("no token yet")
				}
				return c.tokens[n-1], nil
			}}, Request{}, c.answers...)
			if !errors.Is(end, c.want) || n != len(c.tokens) {
				t.Errorf("%v after %d tokens, want %v", end, n, c.want)
			}
			last := asked.requests[len(asked.requests)-1].Header.Get("Authorization")
			given := slices.DeleteFunc(slices.Clone(c.tokens), func(s string) bool { return s == "" })
			if last != "Bearer "+given[len(given)-1] {
				t.Errorf("the last request had %q", last)
			}
		})
	}
}

func TestTheContextEndsAStreamWithItsCause(t *testing.T) {
	t.Parallel()
	why := errors.New("enough")
	for name, first := range map[string]answer{
		"while it reads": {body: snapshotAt(4), stays: true}, "while it pauses": {body: snapshotAt(4)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			c := &Client{URL: "http://server", Transport: &script{t: t, answers: []answer{first}}, LeastWait: time.Hour}
			var got []error
			for _, err := range c.Follow(ctx, Request{Topology: topologyID}) {
				got = append(got, err)
				cancel(why)
			}
			if len(got) != 2 || got[0] != nil || !errors.Is(got[1], why) {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestWhoLeavesTheLoopEndsTheConnection(t *testing.T) {
	t.Parallel()
	asked := &script{t: t, answers: []answer{{body: snapshotAt(4) + eventAt(5, "x"), stays: true}}}
	c := &Client{URL: "http://server", Transport: asked}
	for range c.Follow(t.Context(), Request{Topology: topologyID}) { //nolint:errcheck // it leaves before there is one
		break
	}
	if err := asked.requests[0].Context().Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("its request has not ended: %v", err)
	}
}

func TestTheFieldRetryIsHeardWhereverTheStreamIsCut(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"retry: 2841\n\n":                       2841 * time.Millisecond,
		": keepalive\r\nretry:7\r\n\r\n":        7 * time.Millisecond,
		"retry: 1\n\nretry: 2\n\n":              2 * time.Millisecond,
		"data: x\rretry: 3\r\r":                 3 * time.Millisecond,
		"data: retry: 5\n\n":                    0,
		"retry: 5":                              0, // the line has no end
		"retry: 5s\n\nretry: -1\n\nretry: \n\n": 0,
		"retry: " + strings.Repeat("9", 40) + "\n\ndata: " + strings.Repeat("x", 100) + "\nretry: 4\n": 4 * time.Millisecond,
	} {
		for cut := range len(text) + 1 {
			var heard pauses
			b := &watchedBody{pauses: &heard}
			b.scanRetry([]byte(text[:cut]))
			b.scanRetry([]byte(text[cut:]))
			if heard.retry != want {
				t.Errorf("%q cut at %d: %v, want %v", text, cut, heard.retry, want)
			}
		}
	}
}
