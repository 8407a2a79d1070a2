package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/engine"
	"topostream/stream/metrics/metrictest"
)

// aBus attaches everybody to one feed; without a feed, nobody ever.
type aBus struct {
	stream.Bus

	feed    *stream.Feed
	waiting chan struct{} // gets one for each who waits
	closed  chan struct{} // gets one for each stream that has ended
}

func (b aBus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	if b.feed == nil {
		b.waiting <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return &stream.Subscription{Cursor: b.feed.Cursor(req.After), Close: func() { b.closed <- struct{}{} }}, nil
}

// serveStreams serves streams of bus to one user whose token is good for life.
func serveStreams(t *testing.T, bus stream.Bus, life time.Duration, protocol string, cfg Config) *httptest.Server {
	t.Helper()
	expires := time.Now().Add(life)
	cfg.Bus, cfg.Stats = bus, metrictest.Stats()
	cfg.Auth = func(*http.Request) (stream.Principal, error) {
		return stream.Principal{Subject: "u", Role: stream.RoleViewer, Expires: expires}, nil
	}
	if protocol == overEngine {
		var err error
		if cfg.Engine, err = engine.New(engine.Config{
			Attach: bus.Attach, Stats: cfg.Stats, WriteTimeout: cfg.WriteTimeout,
		}); err != nil {
			t.Skip(err)
		}
	}
	server := httptest.NewUnstartedServer(New(cfg).Handler())
	server.EnableHTTP2 = protocol == "HTTP/2.0"
	if protocol == overEngine {
		server.Start()
	} else {
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	return server
}

// overEngine is HTTP/1.1 without TLS, which the engine carries.
const overEngine = "the engine"

// protocols are the ways in which a stream may be carried.
func protocols() []string { return []string{"HTTP/1.1", "HTTP/2.0", overEngine} }

func get(t *testing.T, server *httptest.Server, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+anEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() }) // it is read, or nobody wants it
	return res
}

func TestATokenThatEndsBeforeItsStreamBeginsIsNoValidToken(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{"text/event-stream", "*/*"} {
		server := serveStreams(t, aBus{waiting: make(chan struct{}, 1)}, 100*time.Millisecond, "HTTP/1.1", Config{})
		res := get(t, server, "Accept", accept)
		body, err := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" || err != nil {
			t.Errorf("Accept: %s: %s, %v: %s", accept, res.Status, err, body)
		}
	}
}

func TestAStreamThatLosesItsPlaceBeforeItBeginsDoesNotComeBackSoon(t *testing.T) {
	t.Parallel()
	bus := aBus{waiting: make(chan struct{}, 2)}
	server := serveStreams(t, bus, time.Hour, "HTTP/1.1", Config{MaxStreamsPerUser: 1})
	first := make(chan *http.Response, 1)
	go func() { first <- get(t, server, "Last-Event-ID", "1") }()
	<-bus.waiting
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+anEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Last-Event-ID", "1")
	go func() {
		if res, err := server.Client().Do(req); err == nil {
			_ = res.Body.Close() // it is over with ctx
		}
	}()
	if res := <-first; res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "15" {
		t.Errorf("%s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
	}
}

// endless is a journal whose end nobody reaches.
type endless struct{}

func (endless) Page(_ context.Context, _ stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	return []stream.Frame{{Seq: after + 1, Bytes: []byte("event: x\ndata: {}\n\n")}}, nil
}

// A client that catches up, or whose topology is never still, has the next events ready at each moment.
func TestAStreamThatIsNeverIdleEndsWithItsToken(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			feed := stream.NewFeed(stream.FeedConfig{Base: 1 << 50, Journal: endless{}})
			server := serveStreams(t, aBus{feed: feed, closed: make(chan struct{}, 1)}, time.Second, protocol, Config{})
			var last string
			lines := bufio.NewScanner(get(t, server).Body)
			for lines.Scan() {
				if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
					last = event
				}
			}
			if last != "token_expired" || lines.Err() != nil {
				t.Errorf("the last event is %q: %v", last, lines.Err())
			}
		})
	}
}

// fullFeed holds far more than the sockets' buffers.
func fullFeed() *stream.Feed {
	feed := stream.NewFeed(stream.FeedConfig{MaxBytes: 1 << 30})
	frame := fmt.Appendf(nil, "event: x\ndata: %s\n\n", strings.Repeat("x", 1<<20))
	for seq := range stream.Seq(64) {
		feed.Append(stream.Frame{Seq: seq + 1, Bytes: frame})
	}
	return feed
}

// openUnread opens a stream and waits until a write to it is blocked. Ended is closed when its handler has returned.
func openUnread(t *testing.T, life time.Duration, protocol string) (server *httptest.Server, ended <-chan struct{}) {
	t.Helper()
	over := make(chan struct{}, 2)
	cfg := Config{WriteTimeout: 5 * time.Minute, MaxStreamsPerUser: 1}
	server = serveStreams(t, aBus{feed: fullFeed(), closed: over}, life, protocol, cfg)
	get(t, server)
	return server, over
}

func TestAWriteThatIsBlockedDoesNotOutliveTheToken(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			_, ended := openUnread(t, time.Second, protocol)
			wait(t, ended)
		})
	}
}

// Did it outlive that, a client that reads nothing could hold any number of streams by resuming again and again.
func TestAWriteThatIsBlockedDoesNotOutliveTheLossOfItsPlace(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server, ended := openUnread(t, time.Hour, protocol)
			get(t, server, "Last-Event-ID", "1")
			wait(t, ended)
		})
	}
}

// wait waits less than a write may take.
func wait(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the stream is still there")
	}
}

func TestAServerThatBecomesReadyWhileItIsAskedAnswers(t *testing.T) {
	t.Parallel()
	asked := 0
	s := New(Config{Stats: metrictest.Stats(), Ready: func() error {
		if asked++; asked == 1 {
			return stream.ErrUnavailable
		}
		return nil
	}})
	if w := ask(s, http.MethodGet, "/readyz", ""); w.Code != http.StatusServiceUnavailable {
		t.Error(w.Code, w.Body)
	}
}
