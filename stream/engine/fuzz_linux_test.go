package engine

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
)

// FuzzSocketEvents has a few clients do whatever clients do, while their feed changes and is thrown away. Whatever a
// client has read is the beginning of its stream, every event once and in order, and all streams end with their
// sockets, and leave neither a subscription nor a frame's part behind.
func FuzzSocketEvents(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
	f.Add([]byte{0, 0, 0, 4, 4, 20, 36, 52, 4, 4, 4, 3, 19, 35, 1, 17, 33, 7, 4, 3, 19, 35})
	f.Add([]byte{0, 0, 5, 5, 5, 5, 5, 5, 5, 3, 19, 3, 19, 5, 5, 2, 18})
	f.Add([]byte{0, 0, 0, 8, 4, 3, 8, 4, 9, 9, 9, 25, 41, 10, 26, 42})
	f.Fuzz(func(t *testing.T, script []byte) {
		script = script[:min(len(script), 64)]
		z := &fuzzed{}
		z.rig = newRig(t, Config{WriteTimeout: 200 * time.Millisecond, Attach: z.attach}, stream.FeedConfig{MaxEvents: 4})
		z.feeds = make(chan *stream.Feed, 1)
		z.feeds <- z.feed
		for _, b := range script {
			z.do(int(b%16), int(b/16))
		}
		for _, p := range z.peers {
			_ = p.Close()
			p.awaitEnd()
		}
		for _, p := range z.peers {
			p.check(t)
		}
		z.leftNothing(t)
	})
}

// fuzzed is a rig whose feed changes.
type fuzzed struct {
	*rig

	feeds chan *stream.Feed // one place: the feed of now
	peers []*hostile

	counting sync.Mutex
	closes   []*atomic.Int64 // of each subscription
}

// closing gives the Close of another subscription.
func (z *fuzzed) closing() func() {
	z.counting.Lock()
	defer z.counting.Unlock()
	n := &atomic.Int64{}
	z.closes = append(z.closes, n)
	return func() { n.Add(1) }
}

// leftNothing fails unless the streams, which have ended, have closed each subscription once and hold no frames.
func (z *fuzzed) leftNothing(t *testing.T) {
	t.Helper()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for late := time.After(patience); !z.rests(); { // what was under way has come
		select {
		case <-again.C:
		case <-late:
			t.Fatal("the shard still has something to do")
		}
	}
	z.feed.Close(stream.ErrClosed)
	for i, n := range z.closes {
		if n.Load() != 1 {
			t.Errorf("the subscription %d of %d was closed %d times", i, len(z.closes), n.Load())
		}
	}
	if n := metrictest.Value(z.stats.FeedBytes); n != 0 {
		t.Errorf("all feeds have ended, and %d bytes are accounted", n)
	}
}

// rests tells whether the shard has ended its goroutine.
func (z *fuzzed) rests() bool {
	s := z.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.running
}

// hostile is a peer with what it has read.
type hostile struct {
	*peer

	got strings.Builder
}

func (z *fuzzed) attach(_ context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	feed := <-z.feeds
	defer func() { z.feeds <- feed }()
	sub := &stream.Subscription{Cursor: feed.Cursor(req.After), Close: z.closing()}
	if !req.Resume {
		sub.Cursor = feed.Cursor(feed.Last())
		sub.Snapshot = stream.NewSnapshot(feed.Last(), fmt.Appendf(nil, "event: snapshot\nid: %d\n\n", feed.Last()), nil)
	}
	return sub, nil
}

func (z *fuzzed) do(what, which int) {
	if what == 0 {
		if len(z.peers) < 4 {
			z.peers = append(z.peers, &hostile{peer: z.stalled(options{keepalive: 10 * time.Millisecond, close: z.closing()})})
		}
		return
	}
	switch what {
	case 4:
		z.append(100)
		return
	case 5:
		z.append(300 << 10)
		return
	case 6:
		z.feed.AppendRaw(stream.Frame{Bytes: []byte("event: notify\ndata: x\n\n")})
		return
	case 8:
		z.renew([]error{stream.ErrBehind, stream.ErrReset}[which%2])
		return
	}
	if len(z.peers) == 0 {
		return
	}
	switch p := z.peers[which%len(z.peers)]; what {
	case 1:
		_ = p.Close()
	case 2:
		_ = p.CloseWrite() // it may be closed, as below
	case 3:
		_ = p.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = io.CopyN(&p.got, p, 100_000)
	case 7:
		_ = p.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = p.Write(make([]byte, 20<<10))
	case 9:
		p.stream.End(delivery.ErrDraining, time.Time{})
	case 10:
		p.stream.End(delivery.ErrReplaced, time.Now())
	case 11:
		_ = p.SetLinger(0)
		_ = p.Close()
	default:
		_ = p.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, _ = io.CopyN(&p.got, p, 1)
	}
}

// renew throws the feed away.
func (z *fuzzed) renew(why error) {
	old := <-z.feeds
	z.feed = stream.NewFeed(stream.FeedConfig{Base: old.Last(), MaxEvents: 4, Journal: z, Memory: z.memory})
	z.feeds <- z.feed
	old.Close(why)
}

var ids = regexp.MustCompile(`event: (\w+)\nid: (\d+)\n`)

func (p *hostile) check(t *testing.T) {
	t.Helper()
	last := 0
	for _, id := range ids.FindAllStringSubmatch(p.got.String(), -1) {
		n, err := strconv.Atoi(id[2])
		if err != nil || id[1] == "x" && n != last+1 || n < last {
			t.Errorf("%s %s came after %d", id[1], id[2], last)
		}
		last = n
	}
}
