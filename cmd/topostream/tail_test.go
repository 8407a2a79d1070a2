package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

const tailID = "00000000-0000-4000-8000-000000000001"

// A tailing is a running `tail`.
type tailing struct {
	out, err growing
	cancel   context.CancelFunc
	ended    chan struct{}
	result   error
}

// startTail follows with a backoff that does not make a test wait.
func startTail(t *testing.T, cmd tailCmd) *tailing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd.leastWait, cmd.mostWait = 5*time.Millisecond, 50*time.Millisecond
	f := &tailing{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(f.ended)
		f.result = cmd.Run(ctx, output{&f.out, &f.err})
	}()
	t.Cleanup(func() {
		cancel()
		<-f.ended
		if t.Failed() {
			t.Logf("tail: %v\n%s%s", f.result, f.out.String(), f.err.String())
		}
	})
	return f
}

// code is the exit code that run makes of how it ended.
func (f *tailing) code() int {
	<-f.ended
	var coded codedError
	switch {
	case f.result == nil:
		return exitOK
	case errors.As(f.result, &coded):
		return coded.code
	}
	return exitError
}

func TestTailFollowsAServerAndResumes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	token := testToken(t)

	f := startTail(t, tailCmd{Topology: []string{strings.ToUpper(id)}, URL: server + "/", Token: token})
	f.out.await(t, "snapshot  {", f.ended)
	write(t, db.URL, id, 3)
	awaitListen(t, server, 1)
	db.Exec(t, `NOTIFY "topology.`+id+`", 'any text at all'`)
	f.out.await(t, "any text", f.ended)
	lines := strings.Split(strings.TrimSpace(f.out.String()), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for i, want := range []string{"1 snapshot", "2 test {}", "3 test {}", "4 test {}", `- notify "any text at all"`} {
		words := strings.Fields(lines[i])
		if got := strings.Join(append(words[:1], words[min(2, len(words)-1):]...), " "); i > 0 && got != want {
			t.Errorf("line %d: %q, want %q", i, got, want)
		}
	}
	f.cancel()
	if <-f.ended; !errors.Is(f.result, context.Canceled) {
		t.Errorf("after Ctrl-C: %v", f.result)
	}

	// Resumed, and as JSON.
	f = startTail(t, tailCmd{Topology: []string{id}, URL: server, Token: token, JSON: true, Since: "2"})
	db.Exec(t, `DELETE FROM topologies`)
	if code := f.code(); code != exitOK {
		t.Errorf("deleted: exit code %d, %v", code, f.result)
	}
	var got []string
	for line := range strings.Lines(f.out.String()) {
		var e struct {
			Seq  int
			Type string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		got = append(got, fmt.Sprint(e.Seq, " ", e.Type))
	}
	if fmt.Sprint(got) != "[3 test 4 test 5 deleted]" {
		t.Errorf("resumed: %v", got)
	}

	// The program itself, with its exit codes.
	for want, args := range map[string][]string{
		"the server does not take the token (401 Unauthorized give a valid token, as ?token= or as Authorization: " +
			"Bearer): give one": {"tail", id, "--url", server, "--token", "x"},
		"the server knows no such topology": {"tail", id, "--url", server, "--token", token},
		`"demo" is no topology id`:          {"tail", "demo"},
		`--since: "x" is no seq`:            {"tail", id, "--since", "x"},
		`--url: "localhost" is no address`:  {"tail", id, "--url", "localhost"},
		"--since is a seq of one topology":  {"tail", id, tailID, "--since", "1"},
	} {
		code, out, errOut := program(t, args...)
		if code != exitError || out != "" || !strings.HasPrefix(errOut, "topostream: "+want) ||
			strings.Count(errOut, "\n") != 1 {
			t.Errorf("%v: %d %s%s", args, code, out, errOut)
		}
	}
}

func TestTailComesBackAfterAServerHasEndedAndMissesNothing(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	proxy := &cuttingProxy{server: server}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	f := startTail(t, tailCmd{Topology: []string{id}, URL: front.URL, Token: testToken(t), JSON: true})
	f.out.await(t, `"seq":1`, f.ended)
	const last = 3 // each time the server's own `retry:` has to be waited for
	for n := 2; n <= last; n++ {
		proxy.cut()
		write(t, db.URL, id, 1)
		f.out.await(t, fmt.Sprintf(`"seq":%d,`, n), f.ended)
	}
	if got := strings.Count(f.out.String(), "\n"); got != last {
		t.Errorf("%d lines for one snapshot and %d events", got, last-1)
	}
	if !strings.Contains(f.err.String(), "disconnected (") {
		t.Errorf("it does not tell: %s", f.err.String())
	}
}

// A cuttingProxy passes streams on until it is told to cut them.
type cuttingProxy struct {
	server  string
	mu      sync.Mutex
	cancels []context.CancelFunc
}

func (p *cuttingProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cancel := range p.cancels {
		cancel()
	}
	p.cancels = nil
}

func (p *cuttingProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.mu.Lock()
	p.cancels = append(p.cancels, cancel)
	p.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, r.Method, p.server+r.URL.RequestURI(), nil)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.WriteHeader(res.StatusCode)
	buf := make([]byte, 4096)
	for {
		n, err := res.Body.Read(buf)
		_, _ = w.Write(buf[:n]) // a client that has gone cancels the request
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // cut, not ended
		}
	}
}

// An answer is what a server says to one connection. The stream ends after it.
type answer struct {
	status int // 0: 200, a stream
	body   string
	want   string // Last-Event-ID that the client must send
}

func snapshotAt(seq stream.Seq) string {
	return fmt.Sprintf(
		"event: snapshot\nid: %[1]d\ndata: {\"topology_id\":%[2]q,\"status\":\"active\","+
			"\"reason\":null,\"version\":0,\"seq\":%[1]d,\"in_flight\":[]}\n\n",
		seq,
		tailID,
	)
}

func eventWith(id string, seq stream.Seq, event string) string {
	return fmt.Sprintf(
		"event: %[1]s\nid: %[2]s\ndata: {\"topic\":\"topology.%[4]s.%[1]s\",\"type\":%[1]q,"+
			"\"ts\":\"2026-11-23T19:30:00.123456Z\",\"seq\":%[3]d,\"journaled\":true,\"payload\":{}}\n\n",
		event,
		id,
		seq,
		tailID,
	)
}

func eventsAt(seqs ...stream.Seq) string {
	var s strings.Builder
	for _, seq := range seqs {
		s.WriteString(eventWith(seq.String(), seq, "test"))
	}
	return s.String()
}

func unjournaled(event, more string) string {
	return "event: " + event + "\n" + more + `data: {"type":"` + event +
		`","ts":"2026-11-23T19:30:00.123456Z","journaled":false,"payload":{"reason":"the server is going away"}}` + "\n\n"
}

func gone(seq stream.Seq) string { return eventWith(seq.String(), seq, "deleted") }

func TestTailJudgesWhatAServerSends(t *testing.T) {
	t.Parallel()
	const epoch1 = stream.Seq(1 << 32)
	problem := func(status int, detail string) answer {
		return answer{
			status: status,
			body:   fmt.Sprintf(`{"title":%q,"status":%d,"detail":%q}`, http.StatusText(status), status, detail),
		}
	}
	for name, c := range map[string]struct {
		since   string
		answers []answer
		code    int
		want    string // in the error or, where there is none, on stderr
	}{
		"a whole stream": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5, 6) + gone(7)}}, exitOK, "",
		},
		"a gap": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5, 7)}}, exitBroken, "BROKEN: event 7 came after 5: 6 is missing",
		},
		"a wide gap": {
			"", []answer{{body: snapshotAt(4) + eventsAt(8)}}, exitBroken, "BROKEN: event 8 came after 4: 5 to 7 are missing",
		},
		"a doubled event": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5, 5)}}, exitBroken, "BROKEN: event 5 came again or late, after 5",
		},
		"an event that the snapshot held": {
			"", []answer{{body: snapshotAt(4) + eventsAt(4)}}, exitBroken, "BROKEN: event 4 came again or late, after 4",
		},
		"reordered events": {
			"", []answer{{body: snapshotAt(4) + eventsAt(6, 5)}}, exitBroken, "BROKEN: event 6 came after 4",
		},
		"an id that is not the seq": {
			"", []answer{{body: snapshotAt(4) + eventWith("6", 5, "test")}}, exitBroken,
			`BROKEN: the event with seq 5 has the id "6"`,
		},
		"a journaled event without an id": {
			"", []answer{{body: snapshotAt(4) + strings.Replace(eventsAt(5), "id: 5\n", "", 1)}}, exitBroken,
			`BROKEN: the event with seq 5 has the id "4"`,
		},
		"a snapshot whose id is not its seq": {
			"", []answer{{body: strings.Replace(snapshotAt(4), "id: 4", "id: 5", 1)}}, exitBroken,
			`BROKEN: the snapshot at 4 has the id "5"`,
		},
		"an event that is not journaled and has an id": {
			"", []answer{{body: snapshotAt(4) + unjournaled("notify", "id: 9\n")}}, exitBroken,
			`BROKEN: event "notify" is not journaled, but has the id 9`,
		},
		"no snapshot at the beginning": {
			"", []answer{{body: eventsAt(5)}}, exitBroken, "BROKEN: event 5 came before a snapshot",
		},
		"what is no JSON": {
			"", []answer{{body: snapshotAt(4) + "event: test\nid: 5\ndata: <html>\n\n"}}, exitBroken,
			`BROKEN: the data of event "test" is not what was agreed`,
		},
		"an event of another epoch without a snapshot": {
			"", []answer{{body: snapshotAt(4) + eventsAt(epoch1+1)}}, exitBroken, "BROKEN: event 4294967297 came after 4",
		},
		"what comes together with a fault": {
			"", []answer{{body: snapshotAt(4) + eventsAt(7) + gone(8)}}, exitBroken, "BROKEN: event 7 came after 4",
		},

		"a reconnect that goes on": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5)}, {want: "5", body: eventsAt(6)}, {want: "6", body: gone(7)}},
			exitOK, "disconnected (the server ended the stream)",
		},
		"a reconnect that skips": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5)}, {want: "5", body: eventsAt(7)}}, exitBroken,
			"BROKEN: event 7 came after 5: 6 is missing",
		},
		"a reconnect that doubles": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5)}, {want: "5", body: eventsAt(5)}}, exitBroken,
			"BROKEN: event 5 came again or late, after 5",
		},
		"a reconnect to a later snapshot": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5)}, {want: "5", body: snapshotAt(9) + gone(10)}}, exitOK,
			"events 6 to 9 were not sent: a snapshot takes their place",
		},
		"a reconnect to the same snapshot": {
			"", []answer{{body: snapshotAt(4)}, {want: "4", body: snapshotAt(4) + gone(5)}}, exitOK, "",
		},
		"a reconnect to an older snapshot": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5)}, {want: "5", body: snapshotAt(4)}}, exitBroken,
			"BROKEN: a snapshot at 4 came after 5",
		},
		"an older snapshot in mid-stream": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5, 6) + snapshotAt(5)}}, exitBroken,
			"BROKEN: a snapshot at 5 came after 6",
		},
		"a later snapshot in mid-stream": {
			"", []answer{{body: snapshotAt(4) + eventsAt(5) + snapshotAt(8) + gone(9)}}, exitOK, "events 6 to 8 were not sent",
		},
		"a snapshot of a new epoch": {
			"", []answer{{body: snapshotAt(4)}, {want: "4", body: snapshotAt(epoch1+2) + gone(epoch1+3)}}, exitOK,
			"the database has another history (epoch 1 after 0)",
		},
		"a snapshot of the epoch of a restored backup": {
			"", []answer{{body: snapshotAt(2*epoch1 + 9)}, {body: snapshotAt(epoch1) + gone(epoch1+1)}}, exitOK,
			"the database has another history (epoch 1 after 2)",
		},
		"unavailable, then the rest": {
			"", []answer{{body: snapshotAt(4) + unjournaled("unavailable", "")}, {want: "4", body: gone(5)}}, exitOK,
			"disconnected",
		},
		"unavailable at first": {
			"", []answer{{body: unjournaled("unavailable", "")}, {body: snapshotAt(4) + gone(5)}}, exitOK, "disconnected",
		},
		"frames without data": {
			"", []answer{{body: ": keepalive\n\nretry: 1\n\nevent: test\n\n" + snapshotAt(4) + gone(5)}}, exitOK, "",
		},
		"an empty topology": {
			"", []answer{{body: strings.Replace(snapshotAt(0), "id: 0\n", "", 1) + gone(1)}}, exitOK, "",
		},

		"since, continued": {"5", []answer{{body: eventsAt(6) + gone(7)}}, exitOK, ""},
		"since, skipped": {
			"5", []answer{{body: eventsAt(7)}}, exitBroken, "BROKEN: event 7 came after 5: 6 is missing",
		},
		"since, repeated": {
			"5", []answer{{body: eventsAt(5)}}, exitBroken, "BROKEN: event 5 came again or late, after 5",
		},
		"since what the journal does not hold": {
			"5", []answer{{body: snapshotAt(90) + gone(91)}}, exitOK,
			"the server cannot resume after 5: a snapshot begins the stream",
		},
		"since what is ahead of the head": {
			"500", []answer{{body: snapshotAt(90) + gone(91)}}, exitOK, "the server cannot resume after 500",
		},
		"since, then an older snapshot": {
			"5", []answer{{body: eventsAt(6)}, {want: "6", body: snapshotAt(5)}}, exitBroken,
			"BROKEN: a snapshot at 5 came after 6",
		},
		"since, cut before the first event": {
			"5", []answer{{body: ": keepalive\n\n"}, {body: eventsAt(6) + gone(7)}}, exitOK, "",
		},
		"since, a raw event before the journal": {"5", []answer{{body: unjournaled("notify", "") + gone(6)}}, exitOK, ""},

		"401": {
			"", []answer{problem(401, "the request has no valid token")}, exitError,
			"the server does not take the token (401 Unauthorized the request has no valid token)",
		},
		"403": {
			"", []answer{problem(403, "limited")}, exitError, "the token is not for this topology (403 Forbidden limited)",
		},
		"404": {
			"", []answer{problem(404, "no such topology")}, exitError,
			"the server knows no such topology (404 Not Found no such topology)",
		},
		"500": {
			"", []answer{{status: 500, body: "<html>"}}, exitError, "the server answered 500 Internal Server Error",
		},
		"a redirect": {"", []answer{{status: 302, body: "log in"}}, exitError, "the server answered 302 Found"},
		"401 when it comes back": {
			"", []answer{{body: snapshotAt(4) + unjournaled("token_expired", "")}, problem(401, "expired")}, exitError,
			"the server does not take the token",
		},
		"503, then a stream": {
			"", []answer{problem(503, "the database is away"), {body: snapshotAt(4) + gone(5)}}, exitOK,
			"disconnected (the server answered 503 Service Unavailable the database is away)",
		},
		"429 and a proxy's 502": {
			"", []answer{problem(429, "too many"), {status: 502, body: "<html>"}, {body: snapshotAt(4) + gone(5)}}, exitOK,
			"disconnected (the server answered 502 Bad Gateway)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			judge(t, c.since, c.answers, c.code, c.want)
		})
	}
}

func judge(t *testing.T, since string, answers []answer, code int, want string) {
	var mu sync.Mutex
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if n == len(answers) {
			t.Error("one request more than there are answers")
			http.NotFound(w, r)
			return
		}
		a := answers[n]
		n++
		if got := r.Header.Get("Last-Event-ID"); a.want != "" && got != a.want {
			t.Errorf("request %d has Last-Event-ID %q, want %q", n, got, a.want)
		}
		if got := r.URL.Query().Get("last_event_id"); got != since {
			t.Errorf("request %d has last_event_id=%q, want %q", n, got, since)
		}
		contentType := "text/event-stream"
		if a.status != 0 {
			contentType = "application/problem+json"
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Location", "/login")
		w.WriteHeader(cmp.Or(a.status, http.StatusOK))
		_, _ = w.Write([]byte(a.body)) // a client that found a fault has gone
	}))
	defer server.Close()
	f := startTail(t, tailCmd{Topology: []string{tailID}, URL: server.URL, Token: "x", Since: since})
	if got := f.code(); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	said := f.err.String()
	if f.result != nil {
		said += f.result.Error()
	}
	if !strings.Contains(said, want) {
		t.Errorf("it says %q, want %q", said, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if n != len(answers) {
		t.Errorf("%d requests, want %d", n, len(answers))
	}
	if code == exitBroken && strings.Contains(f.out.String(), "deleted") {
		t.Errorf("it went on after the fault: %s", f.out.String())
	}
}

func TestAServerThatIsNoTopostreamIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>")) // it is there
	}))
	defer server.Close()
	code, out, errOut := program(t, "tail", tailID, "--url", server.URL)
	if code != exitError || out != "" ||
		errOut != "topostream: the server answered with \"text/html\", not with a stream of events: is --url right?\n" {
		t.Errorf("%d %s%s", code, out, errOut)
	}
}

func TestABrokenPromiseIsExitCode3(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(snapshotAt(1) + eventsAt(3))) // the client ends it
	}))
	defer server.Close()
	code, _, errOut := program(t, "tail", tailID, "--url", server.URL)
	if code != exitBroken || errOut != "topostream: BROKEN: event 3 came after 1: 2 is missing\n" {
		t.Errorf("%d %s", code, errOut)
	}
}

func TestTailGoesOnWithATokenThatIsRenewedInTime(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	sign := func(ttl time.Duration) string {
		return signed(t, auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: ttl}) + "\n"
	}
	file := filepath.Join(t.TempDir(), "token")
	renew := func(token string) {
		if err := errors.Join(os.WriteFile(file+".new", []byte(token), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	newClient(t, server, id, "").watch().awaitSeq(1) // so that the topology is attached
	renew(sign(6 * time.Second))                     // enough to begin with on a busy machine
	f := startTail(t, tailCmd{Topology: []string{id}, URL: server, TokenFile: file, JSON: true})
	f.out.await(t, `"seq":1`, f.ended)
	renew(sign(time.Hour))
	f.out.await(t, `"type":"token_expired"`, f.ended)
	db.Exec(t, `SELECT topology_emit($1::text::uuid, 'test', '{}')`, id)
	f.out.await(t, `"seq":2`, f.ended)
	if n := strings.Count(f.out.String(), "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, f.out.String())
	}
	f.cancel()
	<-f.ended

	// Nobody renews it: it ends, and says what to do.
	renew(sign(-time.Second))
	code, out, errOut := program(t, "tail", id, "--url", server, "--token-file", file)
	if code != exitError || out != "" || !strings.Contains(errOut, "the server does not take the token") ||
		!strings.Contains(errOut, "renew the one in "+file) {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	for want, args := range map[string][]string{
		"--token and --token-file are both given": {"--token=x", "--token-file=" + file},
		"--token-file: open ":                     {"--token-file=" + file + ".none"},
		"holds no token":                          {"--token-file=" + os.DevNull},
	} {
		if code, _, errOut := program(
			t,
			append([]string{"tail", id, "--url", server}, args...)...); code != exitError ||
			!strings.Contains(errOut, want) {
			t.Errorf("%v: %d %s", args, code, errOut)
		}
	}
}

func TestATokenThatIsRenewedWhileTheServerRefusesTheOldOneIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	put := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Error(err)
		}
	}
	put("old")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer new" {
			put("new")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(snapshotAt(1) + gone(2))) // the client has what it wants
	}))
	defer server.Close()
	if code := startTail(t, tailCmd{Topology: []string{tailID}, URL: server.URL, TokenFile: file}).code(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestAnAddressThatIsShownShowsNoSecret(t *testing.T) {
	t.Parallel()
	token := strings.TrimSpace(testToken(t))
	for text, want := range map[string]string{
		"http://h/a?token=abc&x=1":                     "http://h/a?token=xxxxx&x=1",
		"GET /a?x=1&ticket=abc-_%3D HTTP/1.1":          "GET /a?x=1&ticket=xxxxx HTTP/1.1",
		`Get "http://h/#token=abc&topology=1": EOF`:    `Get "http://h/#token=xxxxx&topology=1": EOF`,
		"https://ann:pa%40ss@h/a":                      "https://xxxxx@h/a",
		"the token " + token + " is bad":               "the token xxxxx is bad",
		"/?TOKEN=" + token:                             "/?TOKEN=xxxxx",
		"http://h/tokens?q=ticketing mail a@b.example": "http://h/tokens?q=ticketing mail a@b.example",
	} {
		if got := redactAddress(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	var out lockedBuffer
	for _, format := range []string{"text", "json"} {
		log := newLogger(&out, format, slog.LevelInfo)
		log.Warn("at http://h/?ticket=abcdefgh", "url", "/?token=abcdefgh", "error",
			&url.Error{Op: "Get", URL: "http://ann:abcdefgh@h/?token=abcdefgh", Err: io.EOF})
		log.With("token", token).WithGroup("g").Warn("x", "panic", any("token="+token))
	}
	if s := out.String(); strings.Contains(s, "abcdefgh") || strings.Contains(s, token) || strings.Count(s, "xxxxx") < 12 {
		t.Error(s)
	}
	if code, _, errOut := program(t, "tail", tailID, "--url", "ftp://ann:abcdefgh@h/?token=abcdefgh"); code != exitError ||
		strings.Contains(errOut, "abcdefgh") {
		t.Errorf("%d %s", code, errOut)
	}
}
