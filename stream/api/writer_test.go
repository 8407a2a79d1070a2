package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// A discardWriter is a client that takes everything at once.
type discardWriter struct{ header http.Header }

func (w *discardWriter) Header() http.Header            { return w.header }
func (*discardWriter) Write(p []byte) (int, error)      { return len(p), nil }
func (*discardWriter) WriteHeader(int)                  {}
func (*discardWriter) FlushError() error                { return nil }
func (*discardWriter) SetWriteDeadline(time.Time) error { return nil }

// An audience is some clients of one feed, each with what a stream's handler has.
type audience struct {
	feed    *stream.Feed
	clients []listener
	next    stream.Frame
}

type listener struct {
	*driver

	batch *stream.Batch
}

func newAudience(n int) *audience {
	first := stream.Frame{Seq: 1, At: time.Now().UnixMicro(), Bytes: []byte("event: x\nid: 1\ndata: {}\n\n")}
	server := &Server{cfg: Config{Stats: metrictest.Stats()}}
	a := &audience{feed: stream.NewFeed(stream.FeedConfig{}), next: first}
	for range n {
		w := newFrameWriter(&discardWriter{http.Header{}}, time.Second, server.cfg.Stats)
		sub := &stream.Subscription{Cursor: a.feed.Cursor(0), Close: func() {}}
		m := delivery.New(stream.AttachRequest{}, sub, 2000, time.Hour)
		m.Wrote() // the opening
		d := server.newDriver(w, &m)
		a.clients = append(a.clients, listener{d, stream.NewBatch(delivery.BatchFrames)})
	}
	return a
}

// event is the way of one event from the bus to all sockets, but for the sockets.
func (a *audience) event(tb testing.TB) {
	a.feed.Append(a.next)
	a.next.Seq++
	for i := range a.clients {
		c := &a.clients[i]
		c.takeIn()
		step := c.machine.Next(c.batch)
		if step.Do != delivery.Write || len(c.batch.Frames) != 1 {
			tb.Fatal(step, c.batch.Frames)
		}
		if err := c.writer.step(step, c.batch); err != nil {
			tb.Fatal(err)
		}
		if err := c.machine.Delivered(c.batch.Frames, c.server.cfg.Stats, time.Now()); err != nil {
			tb.Fatal(err)
		}
		c.machine.Wrote()
		if step := c.machine.Next(c.batch); step.Do != delivery.Wait {
			tb.Fatal(step)
		}
	}
}

func TestAnEventCostsNoAllocationForAClient(t *testing.T) { //nolint:paralleltest // it counts allocations
	for _, n := range []int{1, 100} {
		a := newAudience(n)
		for range stream.DefaultMaxEvents { // until the ring has its full size
			a.event(t)
		}
		if allocs := testing.AllocsPerRun(1000, func() { a.event(t) }); allocs != 0 {
			t.Errorf("%v allocations an event with %d clients", allocs, n)
		}
	}
}

// BenchmarkFramePath is one event to 100 clients, all that happens but for the socket writes.
func BenchmarkFramePath(b *testing.B) {
	a := newAudience(100)
	b.ReportAllocs()
	for b.Loop() {
		a.event(b)
	}
}

func TestAnIdleStreamOutlivesEveryWriteTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 300 * time.Millisecond
	silences := 3
	if testing.Short() {
		silences = 1
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				f := newFrameWriter(w, timeout, metrictest.Stats())
				f.headers()
				if err := f.write(sse.AppendOpening(nil, 2000)); err != nil {
					t.Error(err)
				}
				for range silences {
					select {
					case <-time.After(8 * timeout): // silence
					case <-r.Context().Done():
						t.Error("the stream was reset")
						return
					}
					if err := f.frames([]stream.Frame{{Seq: 1, Bytes: []byte("event: x\nid: 1\ndata: {}\n\n")}}); err != nil {
						t.Error(err)
					}
				}
			}))
			server.Config.WriteTimeout = 4 * timeout // http.Server's own, of answers
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			res, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }() // it is read
			body, err := io.ReadAll(res.Body)
			if err != nil || res.Proto != protocol || strings.Count(string(body), "event: x\n") != silences {
				t.Errorf("%s: %q, %v", res.Proto, body, err)
			}
		})
	}
}
