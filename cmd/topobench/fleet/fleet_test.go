//go:build linux

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// A hub is a server of one topology, numbered, which resumes. A fault changes what it sends.
type hub struct {
	mu     sync.Mutex
	wake   chan struct{} // closed by the next event
	events []string      // their marks, from 1 on
	fault  func(n int) (times int)
}

func (h *hub) publish(s *Stamps) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := Mark{s.Next(0), time.Now().UnixNano()}
	h.events = append(h.events, string(m.Append(nil)))
	close(h.wake)
	h.wake = make(chan struct{})
}

// after gives the events from n+1 on.
func (h *hub) after(n int) (events []string, wake <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events[n:], h.wake
}

func (h *hub) follow(ctx context.Context, last int, send func(seq int, mark string) error) {
	for {
		events, wake := h.after(last)
		for i, mark := range events {
			for range h.fault(last + i + 1) {
				if send(last+i+1, mark) != nil {
					return
				}
			}
		}
		last += len(events)
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

// ServeHTTP is SSE, chunked as net/http has it.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ws" {
		h.webSocket(w, r)
		return
	}
	var last int
	if _, err := fmt.Sscan(r.Header.Get("Last-Event-ID"), &last); err != nil {
		events, _ := h.after(0)
		last = len(events)
		fmt.Fprintf(w, "event: snapshot\nid: %d\ndata: {}\n\n", last)
	}
	fmt.Fprint(w, ": keepalive\n\n")
	_ = http.NewResponseController(w).Flush()
	h.follow(r.Context(), last, func(seq int, mark string) error {
		fmt.Fprintf(w, "id: %d\ndata: {\"m\":\"%s\"}\n\n", seq, mark)
		return http.NewResponseController(w).Flush()
	})
}

func (h *hub) webSocket(w http.ResponseWriter, r *http.Request) {
	conn, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }() // the test is over
	if text, err := wsutil.ReadClientText(conn); err != nil || string(text) != "follow topology-0" {
		return
	}
	if wsutil.WriteServerText(conn, []byte("following")) != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = wsutil.ReadClientText(conn) // until the client goes
	}()
	h.follow(ctx, 0, func(_ int, mark string) error { return wsutil.WriteServerText(conn, []byte(mark)) })
}

func faithful(int) int { return 1 }

func serve(t *testing.T, fault func(n int) int) (h *hub, url string) {
	t.Helper()
	h = &hub{wake: make(chan struct{}), fault: fault}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return h, s.URL
}

func newFleet(t *testing.T, spec Spec) (*Fleet, *Stamps) {
	t.Helper()
	stamps := NewStamps(1)
	f, err := New(Config{Spec: spec, Topologies: []string{"topology-0"}, Stamps: stamps})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, stamps
}

func sse(url string) Spec {
	return Spec{URL: url + "/{topology}", Snapshot: "snapshot", Numbered: true, Resume: true}
}

func TestEveryEventReachesEveryClientOnce(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]func(url string) Spec{
		"sse": sse,
		"websocket": func(url string) Spec {
			return Spec{URL: strings.Replace(url, "http", "ws", 1) + "/ws", Send: []string{"follow {topology}"},
				Ready: "following"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, url := serve(t, faithful)
			f, stamps := newFleet(t, spec(url))
			if took, err := f.Connect(t.Context(), 300); err != nil || took <= 0 {
				t.Fatal(took, err)
			}
			for range 20 {
				h.publish(stamps)
			}
			if err := f.Await(t.Context(), 300*20); err != nil {
				t.Fatal(err)
			}
			tally := f.Take()
			if err := tally.Err(); err != nil || tally.Deliveries != 300*20 || tally.Latency.TotalCount() != 300*20 ||
				tally.Latency.Max() <= 0 {
				t.Errorf("%+v", tally)
			}
		})
	}
}

func TestWhatIsDroppedOrDoubledIsFound(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		times int
		says  string
	}{"dropped": {0, "event 6 came after 4"}, "doubled": {2, "event 5 came after 5"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, url := serve(t, func(n int) int {
				if n == 5 {
					return fault.times
				}
				return 1
			})
			f, stamps := newFleet(t, sse(url))
			if _, err := f.Connect(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				h.publish(stamps)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := errors.Join(f.Await(ctx, uint64(9+fault.times)), f.Broken())
			if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), fault.says) ||
				!strings.Contains(err.Error(), "id") {
				t.Error(err)
			}
		})
	}
}

func TestTheLastEventThatIsDroppedIsMissed(t *testing.T) {
	t.Parallel()
	h, url := serve(t, func(n int) int { return 2 - n }) // the first one alone
	f, stamps := newFleet(t, sse(url))
	if _, err := f.Connect(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	h.publish(stamps)
	if err := f.Await(t.Context(), 3); err != nil {
		t.Error(err)
	}
	h.publish(stamps)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Await(ctx, 6); err == nil || !strings.Contains(err.Error(), "3 of 6 deliveries did not come") {
		t.Error(err)
	}
}

func TestClientsThatWereCutComeBackForWhatTheyMissed(t *testing.T) {
	t.Parallel()
	h, url := serve(t, faithful)
	stamps := NewStamps(1)
	f, err := New(Config{Spec: sse(url), Topologies: []string{"topology-0"}, Stamps: stamps, Fresh: 0.25})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	if _, err := f.Connect(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	h.publish(stamps)
	if err := f.Await(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	f.Cut()
	h.publish(stamps)
	h.publish(stamps)
	if took, err := f.Return(t.Context()); err != nil || took <= 0 {
		t.Fatal(took, err)
	}
	if got := f.Delivered(); got != 100+75*2 { // a quarter got the document instead
		t.Error(got)
	}
	h.publish(stamps)
	if err := f.Await(t.Context(), 350); err != nil {
		t.Fatal(err)
	}
	if err := f.Broken(); err != nil {
		t.Error(err)
	}
}

func TestAConnectionThatEndsIsFound(t *testing.T) {
	t.Parallel()
	h := &hub{wake: make(chan struct{}), fault: faithful}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	f, _ := newFleet(t, sse(s.URL))
	if _, err := f.Connect(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	s.CloseClientConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Await(ctx, 1); !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
}

func TestAServerThatRefusesIsAnError(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	f, _ := newFleet(t, sse(s.URL))
	if _, err := f.Connect(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "404") {
		t.Error(err)
	}
	for _, url := range []string{"https://127.0.0.1/", "ftp://127.0.0.1/"} {
		if _, err := New(Config{Spec: Spec{URL: url}}); err == nil {
			t.Error(url)
		}
	}
}
