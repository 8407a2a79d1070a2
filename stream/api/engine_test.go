package api

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/engine"
	"topostream/stream/metrics/metrictest"
)

// plainServer serves streams without TLS, by the engine or by net/http, and tells when a handler has returned.
func plainServer(t *testing.T, byEngine bool, bus stream.Bus, cfg Config) (*httptest.Server, *Server, <-chan struct{}) {
	t.Helper()
	cfg.Bus, cfg.Stats = bus, metrictest.Stats()
	cfg.Auth = func(*http.Request) (stream.Principal, error) {
		return stream.Principal{Subject: "u", Role: stream.RoleViewer, Expires: time.Now().Add(time.Hour)}, nil
	}
	if byEngine {
		var err error
		if cfg.Engine, err = engine.New(engine.Config{Attach: bus.Attach, Stats: cfg.Stats}); err != nil {
			t.Skip(err)
		}
	}
	s := New(cfg)
	routes, returned := s.Handler(), make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		routes.ServeHTTP(w, r)
		returned <- struct{}{}
	}))
	t.Cleanup(server.Close)
	return server, s, returned
}

// exchange sends a request's lines and gives the answer, whose connection stays open.
func exchange(t *testing.T, server *httptest.Server, lines ...string) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // what it has is read
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return exchangeOn(t, conn, bufio.NewReader(conn), lines...), conn
}

// exchangeOn does it on a connection that is there.
func exchangeOn(t *testing.T, conn net.Conn, from *bufio.Reader, lines ...string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res // its body is over with the connection
}

func aFeed() (aBus, *stream.Feed) {
	feed := stream.NewFeed(stream.FeedConfig{})
	feed.Append(stream.Frame{Seq: 1, Bytes: []byte("event: x\nid: 1\ndata: {}\n\n")})
	return aBus{feed: feed, closed: make(chan struct{}, 100)}, feed
}

// line reads the body's lines until one is it.
func line(t *testing.T, res *http.Response, want string) {
	t.Helper()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if lines.Text() == want {
			return
		}
	}
	t.Fatalf("the stream ended before %q: %v", want, lines.Err())
}

func TestTheHeadersAreThoseOfNetHTTPButForHowTheBodyEnds(t *testing.T) {
	t.Parallel()
	heads := map[bool]http.Header{}
	for _, byEngine := range []bool{true, false} {
		bus, _ := aFeed()
		server, _, _ := plainServer(t, byEngine, bus, Config{AllowOrigin: []string{"https://a.example"}})
		res, _ := exchange(t, server, "GET "+anEvents+"?token=x HTTP/1.1", "Origin: https://a.example",
			"X-Request-Id: the-same")
		line(t, res, "id: 1")
		if ends := res.Close && len(res.TransferEncoding) == 0; ends != byEngine || res.ContentLength != -1 {
			t.Errorf("by the engine: %v, and the body ends with the connection: %v", byEngine, ends)
		}
		date, err := http.ParseTime(res.Header.Get("Date"))
		if age := time.Since(date); err != nil || age < -time.Minute || age > time.Minute {
			t.Errorf("Date: %s", res.Header.Get("Date"))
		}
		now, err := time.Parse(sixDigits, res.Header.Get("Topostream-Time"))
		if age := time.Since(now); err != nil || age < 0 || age > time.Minute {
			t.Errorf("Topostream-Time: %s", res.Header.Get("Topostream-Time"))
		}
		res.Header.Del("Topostream-Time")
		res.Header.Del("Date")
		res.Header.Del("Connection")
		heads[byEngine] = res.Header
	}
	if !maps.EqualFunc(heads[true], heads[false], slices.Equal) || len(heads[true]) < 9 ||
		!slices.Equal(heads[true][idHeader], []string{"the-same"}) ||
		!slices.Equal(heads[true]["Topostream-Role"], []string{"viewer"}) {
		t.Errorf("%v\n%v", heads[true], heads[false])
	}
}

// What a request takes, its memory and a goroutine, is free only when its handler has returned.
func TestTheHandlerReturnsAndTheStreamGoesOn(t *testing.T) {
	t.Parallel()
	bus, feed := aFeed()
	server, s, returned := plainServer(t, true, bus, Config{MaxStreamsPerUser: 1})
	res, conn := exchange(t, server, "GET "+anEvents+" HTTP/1.1")
	<-returned
	line(t, res, "id: 1")
	feed.Append(stream.Frame{Seq: 2, Bytes: []byte("event: x\nid: 2\ndata: {}\n\n")})
	line(t, res, "id: 2")
	if n := metrictest.Value(s.cfg.Stats.Streams); n != 1 {
		t.Errorf("%d streams", n)
	}
	if res, _ := exchange(t, server, "GET "+anEvents+" HTTP/1.1"); res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a second one: %s", res.Status)
	}
	_ = conn.Close()
	<-bus.closed
	for res.StatusCode = 0; res.StatusCode != http.StatusOK; { // its place is free in a moment
		res, _ = exchange(t, server, "GET "+anEvents+" HTTP/1.1")
	}
	line(t, res, "id: 1")
}

// What the engine does not carry is carried all the same.
func TestHTTP10GetsItsStreamFromNetHTTP(t *testing.T) {
	t.Parallel()
	bus, _ := aFeed()
	server, _, returned := plainServer(t, true, bus, Config{})
	res, conn := exchange(t, server, "GET "+anEvents+" HTTP/1.0")
	line(t, res, "id: 1")
	select {
	case <-returned:
		t.Error("the handler has returned")
	default:
	}
	_ = conn.Close()
	<-returned
}

func TestAStreamComesOnAConnectionThatWasUsedBeforeOrIsToBeClosed(t *testing.T) {
	t.Parallel()
	bus, _ := aFeed()
	server, _, _ := plainServer(t, true, bus, Config{})
	res, conn := exchange(t, server, "GET /livez HTTP/1.1")
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res.Status, err)
	}
	line(t, exchangeOn(t, conn, bufio.NewReader(conn), "GET "+anEvents+" HTTP/1.1"), "id: 1")
	res, _ = exchange(t, server, "GET "+anEvents+" HTTP/1.1", "Connection: close")
	line(t, res, "id: 1")
}

func TestWhatIsPipelinedBehindAStreamIsDiscarded(t *testing.T) {
	t.Parallel()
	bus, feed := aFeed()
	server, _, _ := plainServer(t, true, bus, Config{})
	const next = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	res, conn := exchange(t, server, "GET "+anEvents+" HTTP/1.1", "Host: x", "",
		strings.Repeat(next, 100)+"GET / HTTP/1.1")
	line(t, res, "id: 1")
	feed.Append(stream.Frame{Seq: 2, Bytes: []byte("event: x\nid: 2\ndata: {}\n\n")})
	line(t, res, "id: 2")
	if _, err := io.WriteString(conn, strings.Repeat(next, 64<<10/len(next))); err != nil {
		t.Fatal(err)
	}
	<-bus.closed // that was too much
}

func TestADrainAndACutEndTheEnginesStreams(t *testing.T) {
	t.Parallel()
	bus, _ := aFeed()
	server, s, _ := plainServer(t, true, bus, Config{WriteTimeout: time.Hour})
	const n = 3
	last := make([]*http.Response, 0, n)
	for range n {
		res, _ := exchange(t, server, "GET "+anEvents+" HTTP/1.1")
		line(t, res, "id: 1")
		last = append(last, res)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for _, res := range last {
		if rest, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(rest), "event: unavailable\n") {
			t.Errorf("%q, %v", rest, err)
		}
	}
}

func TestAStreamThatIsReplacedSaysSo(t *testing.T) {
	t.Parallel()
	for _, byEngine := range []bool{true, false} {
		bus, _ := aFeed()
		server, _, _ := plainServer(t, byEngine, bus, Config{MaxStreamsPerUser: 1})
		first, _ := exchange(t, server, "GET "+anEvents+" HTTP/1.1")
		line(t, first, "id: 1")
		_, _ = exchange(t, server, "GET "+anEvents+" HTTP/1.1", "Last-Event-ID: 1")
		rest, err := io.ReadAll(first.Body)
		if err != nil || !strings.Contains(string(rest), "another stream of the same user") {
			t.Errorf("%v: %q, %v", byEngine, rest, err)
		}
	}
}

// aConn is no TCP connection.
type aConn struct{ net.Conn }

// A listener of such connections is somebody's who embeds the handler.
type oddListener struct{ net.Listener }

func (l oddListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return aConn{c}, err
}

func TestAConnectionThatTheEngineCannotCarryIsToldToComeBack(t *testing.T) {
	t.Parallel()
	bus, _ := aFeed()
	server, s, _ := plainServer(t, true, bus, Config{})
	odd := httptest.NewUnstartedServer(server.Config.Handler)
	odd.Listener = oddListener{odd.Listener}
	odd.Start()
	defer odd.Close()
	res, _ := exchange(t, odd, "GET "+anEvents+" HTTP/1.1")
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(body), "event: unavailable\n") ||
		metrictest.Value(s.cfg.Stats.Streams) != 0 {
		t.Errorf("%q, %v, %d streams", body, err, metrictest.Value(s.cfg.Stats.Streams))
	}
	<-bus.closed
	if err := s.Drain(t.Context()); err != nil {
		t.Error(fmt.Errorf("somebody is left: %w", err))
	}
}
