package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func TestFiveHundredConnectsAtOnceNeverExceedTheLimitOfAUser(t *testing.T) {
	t.Parallel()
	long(t)
	const connects, limit = 500, 16
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) { c.MaxStreamsPerUser = limit })
	url := server.url + "/api/v1/topologies/" + id + "/events"
	attachFirst(t, server.url, id)
	pgtest.Eventually(t, "its place", func() bool { return metric(t, server.url, "topostream_streams") == 0 })
	var (
		wg              sync.WaitGroup
		opened, refused atomic.Int64
		mu              sync.Mutex
		most            int64
		begin           = make(chan struct{})
		told            = make(chan struct{}) // every request has its answer
	)
	for range connects {
		wg.Go(func() {
			<-begin
			res := open(t, url)
			defer func() { _ = res.Body.Close() }() // what is wanted of it is read
			if first := firstEvent(t, res.Body); first == "unavailable" {
				if refused.Add(1) == connects-limit {
					close(told)
				}
				return
			}
			n := opened.Add(1)
			mu.Lock()
			most = max(most, n)
			mu.Unlock()
			<-told
		})
	}
	sampled := make(chan float64)
	go func() {
		var highest float64
		for {
			highest = max(highest, metric(t, server.url, "topostream_streams"))
			select {
			case <-told:
				sampled <- highest
				return
			default:
			}
		}
	}()
	close(begin)
	wg.Wait()
	if highest := <-sampled; highest > limit || most != limit || refused.Load() != connects-limit {
		t.Errorf("%v streams by the metric, %d by the clients, %d refused", highest, most, refused.Load())
	}
	pgtest.Eventually(t, "free places", func() bool { return metric(t, server.url, "topostream_streams") == 0 })
	_ = open(t, url).Body.Close() // it is there
}

// attachFirst has somebody else attach a topology, which may take longer than a client waits. It stays so for a while.
func attachFirst(t *testing.T, server, id string) {
	t.Helper()
	token := newOperator(t, server, "somebody else", stream.RoleViewer).token
	pgtest.Eventually(t, "the topology to be attached", func() bool {
		res := open(t, server+"/api/v1/topologies/"+id+"/events", "Authorization", "Bearer "+token)
		defer func() { _ = res.Body.Close() }() // what is wanted of it is read
		return firstEvent(t, res.Body) == "snapshot"
	})
}

// firstEvent gives the type of a stream's first event.
func firstEvent(t *testing.T, body io.Reader) string {
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			return event
		}
	}
	t.Error("the stream ended: ", lines.Err())
	return ""
}

func TestARateIsLimitedForEachSubjectAndForWhoeverHasNoToken(t *testing.T) {
	t.Parallel()
	const limit = 20
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) { c.RateLimit = limit })
	api := server.url + "/api/v1/topologies"
	// The first minute of a limiter has no minute before it: the limit is exact, unless the test takes longer than it.
	statuses := map[int]int{}
	for range limit + 5 {
		status, header, body := get(t, api)
		statuses[status]++
		if status == http.StatusTooManyRequests &&
			(header.Get("Retry-After") != "60" || header.Get("Content-Type") != "application/problem+json" ||
				!strings.Contains(body, "too many requests")) {
			t.Errorf("%v %s", header, body)
		}
	}
	if statuses[http.StatusOK] != limit || statuses[http.StatusTooManyRequests] != 5 {
		t.Errorf("%v", statuses)
	}
	status, _, body := get(t, api+"/"+id+"/events", "Accept", "text/event-stream")
	if status != http.StatusOK || !strings.Contains(body, "event: unavailable\n") ||
		!strings.Contains(body, `"reason":"too many requests"`) {
		t.Errorf("an EventSource: %d %s", status, body)
	}
	if status, _, body := get(t, api+"/"+id+"/events", "Accept", "*/*"); status != http.StatusTooManyRequests {
		t.Errorf("a stream for another client: %d %s", status, body)
	}
	if status, _, body := get(t, api+"/"+id, "Accept", "text/event-stream"); status != http.StatusTooManyRequests {
		t.Errorf("what is no stream: %d %s", status, body)
	}
	// Who shares the address is not refused for it, nor for what bad tokens cost: of those, too many are not even
	// logged.
	other := newOperator(t, server.url, "bob", stream.RoleViewer)
	clear(statuses)
	for range limit + 5 {
		status, _, _ := get(t, api, "Authorization", "Bearer x", "X-Forwarded-For", fmt.Sprint("192.0.2.", statuses[401]))
		statuses[status]++
	}
	if statuses[http.StatusUnauthorized] != limit || statuses[http.StatusTooManyRequests] != 5 {
		t.Errorf("bad tokens: %v", statuses)
	}
	if n := strings.Count(server.log.String(), "unauthenticated"); n != limit {
		t.Errorf("%d lines in the log", n)
	}
	if status, _, body := get(t, api+"/"+id+"/events", "Authorization", "Bearer x", "Accept",
		"text/event-stream"); status != http.StatusTooManyRequests {
		t.Errorf("an EventSource with a bad token: %d %s", status, body)
	}
	if r := other.do("GET", "/topologies", ""); r.status != http.StatusOK {
		t.Errorf("another subject: %d %s", r.status, r.body)
	}
	for range limit + 1 {
		for _, path := range []string{"/livez", "/readyz", "/metrics", "/"} {
			if status, _, body := get(t, server.url+path); status == http.StatusTooManyRequests { // not ready yet is no limit
				t.Fatalf("%s: %d %s", path, status, body)
			}
		}
	}
	if n := metric(t, server.url, "topostream_requests_limited_total"); n != 5+3+5+1 {
		t.Errorf("the metric says %v", n)
	}
}

func TestPagesOfAllowedOriginsMayUseTheAPIAndNoOthers(t *testing.T) {
	t.Parallel()
	const friend, stranger = "https://console.example.org:8443", "https://console.example.org"
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) { c.AllowOrigin = []string{"http://localhost:3000", friend} })
	const unknown = "00000000-0000-4000-8000-000000000000"
	preflight := func(origin, path, method, headers string) http.Header {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, server.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", method)
		req.Header.Set("Access-Control-Request-Headers", headers)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || len(body) > 0 {
			t.Errorf("%s %s: %s %s", origin, path, res.Status, body)
		}
		return res.Header
	}
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		h := preflight(friend, "/api/v1/topologies/"+id+"/mutations", method,
			"authorization,baggage,cache-control,content-type,idempotency-key,last-event-id,pragma,traceparent,tracestate,"+
				"x-requested-with")
		if h.Get("Access-Control-Allow-Origin") != friend || h.Get("Access-Control-Allow-Credentials") != "true" ||
			h.Get("Access-Control-Allow-Methods") != method ||
			h.Get("Access-Control-Allow-Headers") == "" {
			t.Errorf("%s: %v", method, h)
		}
	}
	for what, h := range map[string]http.Header{
		"another port":   preflight(stranger, "/api/v1/topologies", "GET", "authorization"),
		"null":           preflight("null", "/api/v1/topologies", "GET", "authorization"),
		"a suffix":       preflight(friend+".evil.example", "/api/v1/topologies", "GET", "authorization"),
		"another method": preflight(friend, "/api/v1/topologies", "PUT", "authorization"),
		"another header": preflight(friend, "/api/v1/topologies", "GET", "x-other"),
	} {
		if h.Get("Access-Control-Allow-Origin") != "" || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %v", what, h)
		}
	}
	same := func(h http.Header) string { h.Del("Date"); h.Del("X-Request-ID"); return fmt.Sprint(h) }
	if a, b := same(preflight(friend, "/api/v1/topologies/"+id, "DELETE", "authorization")), same(
		preflight(friend, "/api/v1/topologies/"+unknown, "DELETE", "authorization")); a != b {
		t.Errorf("a preflight tells which ids exist: %s and %s", a, b)
	}
	for _, path := range []string{"/api/v1/topologies", "/api/v1/topologies/" + unknown} {
		for origin, want := range map[string]string{friend: friend, stranger: "", "null": ""} {
			_, h, _ := get(t, server.url+path, "Origin", origin)
			if h.Get("Access-Control-Allow-Origin") != want ||
				!strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") ||
				(want != "") != (h.Get("Access-Control-Expose-Headers") ==
					"Link, Retry-After, Topostream-Role, Topostream-Time, X-Request-Id") {
				t.Errorf("%s of %s: %v", path, origin, h)
			}
		}
	}
	res := open(t, server.url+"/api/v1/topologies/"+id+"/events", "Origin", friend)
	if res.Header.Get("Access-Control-Allow-Origin") != friend ||
		res.Header.Get("Access-Control-Allow-Credentials") != "true" {
		t.Errorf("a stream: %v", res.Header)
	}
	_ = res.Body.Close()
	for _, path := range []string{"/metrics", "/"} {
		if _, h, _ := get(t, server.url+path, "Origin", friend); h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, h)
		}
	}
	if _, h, _ := get(t, startServer(t, db.URL)+"/api/v1/topologies", "Origin", friend); h.Get(
		"Access-Control-Allow-Origin") != "" {
		t.Errorf("without the flag: %v", h)
	}
}

func TestWhatIsNoOriginIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]string{
		"*": "is no origin", "https://*.example.org": "is no origin", "null": "is no origin", "example.org": "is no origin",
		"https://example.org/":  "is no origin",
		"https://example.org/a": "is no origin", "https://example.org?a": "is no origin", "ftp://example.org": "is no origin",
		"https://": "is no origin", "https://example.org:": "is no origin",
		"https://ann:pass@example.org": "is no origin", "https://Example.org": "lower case",
		"https://example.org:443": "own port", "http://example.org:80": "own port",
	} {
		if err := checkOrigins(
			[]string{
				"https://example.org",
				origin,
			},
		); err == nil || !strings.HasPrefix(err.Error(), "--allow-origin: ") || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "ann:") {
			t.Errorf("%s: %v", origin, err)
		}
	}
	if err := checkOrigins(
		[]string{"https://example.org", "http://127.0.0.1:8080", "http://[::1]:3000", "https://example.org:80"}); err != nil {
		t.Error(err)
	}
	errOut := serveUntilError(t, "--database-url", "postgres://127.0.0.1:1/x", "--jwt-secret", testSecret,
		"--allow-origin", "*")
	if !strings.Contains(errOut, `--allow-origin: "*" is no origin`) {
		t.Error(errOut)
	}
}

func TestEveryAnswerHasTheHeadersThatKeepABrowserSafe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	for _, path := range []string{
		"/", "/console/app.js", "/livez", "/readyz", "/metrics", "/openapi.yaml", "/nothing", "/api/v1/topologies",
		"/api/v1/topologies/x", "/api/v1/topologies/" + id + "/events",
	} {
		res := open(t, server+path)
		_ = res.Body.Close() // the headers are wanted
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
			"Strict-Transport-Security": "", // this is no TLS
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q", path, name, got)
			}
		}
		if policy := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") ||
			!strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: %q", path, policy)
		}
	}
}

// rawRequest sends text and gives what the server answers until it closes, or the deadline is over.
func rawRequest(t *testing.T, server, text string) (answer string, closed bool) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // it is read
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	return string(b), err == nil
}

func TestABodyThatNeverComesHoldsNobodyWhoeverSendsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	for what, head := range map[string]string{
		"unauthenticated": "POST /api/v1/topologies/" + id + "/mutations HTTP/1.1\r\nContent-Length: 100",
		"chunked":         "POST /api/v1/topologies/" + id + "/mutations HTTP/1.1\r\nTransfer-Encoding: chunked",
		"of a viewer": "POST /api/v1/topologies HTTP/1.1\r\nContent-Length: 100\r\nAuthorization: Bearer " +
			testToken(t),
		"where there is none": "POST /nothing HTTP/1.1\r\nContent-Length: 100",
		"where none is wanted": "GET /api/v1/topologies HTTP/1.1\r\nContent-Length: 100\r\nAuthorization: Bearer " +
			testToken(t),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			answer, closed := rawRequest(t, server, head+"\r\nHost: x\r\n\r\n")
			if !closed || !strings.HasPrefix(answer, "HTTP/1.1 ") {
				t.Errorf("closed: %v, %q", closed, answer)
			}
		})
	}
	t.Run("a large header", func(t *testing.T) {
		t.Parallel()
		answer, closed := rawRequest(t, server, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 60<<10)+"\r\n\r\n")
		if !closed || !strings.HasPrefix(answer, "HTTP/1.1 431 ") {
			t.Errorf("closed: %v, %q", closed, answer)
		}
	})
}

func TestEveryLineOfTheLogIsInItsFormatAlsoNetHTTPsOwn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	cert, key := selfSigned(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.LogFormat = "json"; c.TLSCert, c.TLSKey = cert, key })
	_, _ = rawRequest(t, server.url, "this is no TLS\r\n\r\n") // the log has it
	pgtest.Eventually(t, "the failed handshake",
		func() bool { return strings.Contains(server.log.String(), "TLS handshake error") })
	server.stop()
	for line := range strings.Lines(server.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

func TestHandshakesThatFailTakeLittleOfTheLog(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	server := serve(t, pgtest.New(t).URL, func(c *serveCmd) { c.TLSCert, c.TLSKey = cert, key })
	const connections, inASecond = 1000, 20
	began := time.Now().Unix()
	for range connections {
		if _, closed := rawRequest(t, server.url, "this is no TLS\r\n\r\n"); !closed { // when it is logged
			t.Fatal("a connection is held")
		}
	}
	most := inASecond * int(time.Now().Unix()-began+1)
	if n := strings.Count(server.log.String(), "TLS handshake error"); n == 0 || n > most {
		t.Errorf("%d lines of %d handshakes, want at most %d", n, connections, most)
	}
}

func TestProfilesAreOnTheAddressOfMetricsAndHoldNoSecret(t *testing.T) {
	t.Parallel()
	if errOut := serveUntilError(t, "--database-url", "postgres://127.0.0.1:1/x", "--jwt-secret", testSecret,
		"--pprof"); !strings.Contains(errOut, "--pprof needs --metrics-addr") {
		t.Errorf("without an address: %s", errOut)
	}
	metricsAddr := pgtest.FreeAddress(t)
	server := serve(t, pgtest.New(t).URL, func(c *serveCmd) { c.MetricsAddr, c.Pprof = metricsAddr, true })
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap?gc=1": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/free": 200,
		"/debug/pprof/cmdline": 404,
	} {
		if status, _, _ := get(t, "http://"+metricsAddr+path); status != want {
			t.Errorf("%s: %d", path, status)
		}
		if status, _, _ := get(t, server.url+path); status != http.StatusNotFound {
			t.Errorf("%s on the main address: %d", path, status)
		}
	}
}

func TestMetricsAreOnTheirOwnAddressAloneAndAWrongOneIsSaidToBe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	metricsAddr := pgtest.FreeAddress(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.MetricsAddr = metricsAddr })
	if status, _, _ := get(t, server.url+"/metrics"); status != http.StatusNotFound {
		t.Errorf("on the main address: %d", status)
	}
	if n := metric(t, "http://"+metricsAddr, "topostream_streams"); n != 0 {
		t.Errorf("%v streams", n)
	}
	if status, _, _ := get(t, "http://"+metricsAddr+"/api/v1/topologies"); status != http.StatusNotFound {
		t.Errorf("on the address of metrics: %d", status)
	}
	if status, _, _ := get(t, "http://"+metricsAddr+"/debug/pprof/heap"); status != http.StatusNotFound {
		t.Errorf("profiles, which nobody asked for: %d", status)
	}
	for args, want := range map[string]string{
		"--metrics-addr=" + metricsAddr: metricsAddr + " is taken by another program: stop " +
			"it or choose another --metrics-addr",
		"--metrics-addr=8080": "--metrics-addr: address 8080: missing port in " +
			"address: give host:port",
		"--addr=" + strings.TrimPrefix(server.url, "http://"):         "choose another --addr",
		"--metrics-addr=" + strings.TrimPrefix(server.url, "http://"): "choose another --metrics-addr",
	} {
		// The database is not reached: addresses come first.
		if errOut := serveUntilError(t, "--database-url", "postgres://127.0.0.1:1/x", "--jwt-secret", testSecret,
			args); !strings.Contains(
			errOut,
			want,
		) {
			t.Errorf("%s: %s", args, errOut)
		}
	}
}
