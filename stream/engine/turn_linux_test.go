package engine

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
)

// admit gives the bench a stream, whose socket's writes are records unless kind says otherwise.
func (b *bench) admit(kind int, m delivery.Machine) *Stream {
	b.tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.peers = append(b.peers, pair[1])
	return b.carryOn(pair[0], m)
}

// carryOn gives the bench a stream on a socket.
func (b *bench) carryOn(fd int, m delivery.Machine) *Stream {
	c := &Stream{
		shard: b.shard, fd: fd, machine: m, owner: nobody{}, seats: make([]seat, m.Parts()),
		retryAt: never, expires: never, cutAt: never,
	}
	b.post(message{kind: added, stream: c})
	return c
}

// epollTells gives what epoll has to tell now, or within a time.
func (b *bench) epollTells(within time.Duration) []unix.EpollEvent {
	b.tb.Helper()
	var buf [turnEvents]unix.EpollEvent
	for {
		var n int
		var err error
		if controlErr := b.raw.Control(func(fd uintptr) {
			n, err = unix.EpollWait(int(fd), buf[:], int(within.Milliseconds()))
		}); controlErr != nil {
			b.tb.Fatal(controlErr)
		}
		switch {
		case err == nil:
			return buf[:n]
		case !errors.Is(err, unix.EINTR):
			b.tb.Fatal(err)
		}
	}
}

// subscribed is a stream of one feed, behind all that it has.
func subscribed(feed *stream.Feed, many ...*stream.Feed) delivery.Machine {
	of := func(feed *stream.Feed) *stream.Subscription {
		return &stream.Subscription{Cursor: feed.Cursor(feed.Last()), Close: func() {}}
	}
	if len(many) == 0 {
		return delivery.New(stream.AttachRequest{Topology: "t"}, of(feed), 2500, time.Hour)
	}
	all := append([]*stream.Feed{feed}, many...)
	m := delivery.NewMany(make([]stream.AttachRequest, len(all)), 2500, time.Hour)
	for part, feed := range all {
		m.Attached(part, of(feed), nil)
	}
	return m
}

// Large frames to many streams of one topology keep nobody of another one waiting for all of them.
func TestATurnHasABudgetOfBytesAndAnotherTopologysEventWaitsForLittleMore(t *testing.T) {
	t.Parallel()
	const (
		n     = 200
		frame = 60 << 10
	)
	b := newBench(t, stream.FeedConfig{}, n)
	other := stream.NewFeed(stream.FeedConfig{Memory: b.memory})
	c := b.admit(unix.SOCK_SEQPACKET, subscribed(other))
	for b.turn() {
	}
	fd := b.peers[n]
	record(t, fd) // the opening
	b.append(frame)
	other.Append(stream.Frame{Seq: 1, Bytes: []byte("event: y\nid: 1\ndata: {}\n\n")})
	before := metrictest.Value(b.stats.FrameBytes)
	turns := 0
	for ; record(t, fd) == "" && turns < 10; turns++ {
		b.turn()
	}
	if c.machine.Cursor(0).Last() != 1 || turns > 3 {
		t.Errorf("it waited for %d turns", turns)
	}
	if written := metrictest.Value(b.stats.FrameBytes) - before; written > int64(turns)*(turnBytes+2*frame) {
		t.Errorf("%d bytes were written in %d turns", written, turns)
	}
	for b.turn() || len(b.called) > 0 {
		continue
	}
	for i, fd := range b.peers[:n] {
		if record(t, fd) == "" {
			t.Errorf("the stream %d got nothing", i)
		}
	}
}

// Epoll tells once that a socket has room. Told as long as it has, a shard whose clients are idle would spin.
func TestEpollTellsOfSocketsThatHaveRoomOnceAndNotAgain(t *testing.T) {
	t.Parallel()
	const n = 5
	b := newBench(t, stream.FeedConfig{}, n)
	wakeUps := 0
	for ; wakeUps < 10; wakeUps++ { // that they came, and that the opening was read
		events := b.epollTells(0)
		if len(events) == 0 {
			break
		}
		b.dispatch(events)
	}
	if wakeUps == 0 || wakeUps == 10 {
		t.Errorf("the idle shard was told %d times", wakeUps)
	}
	b.append(10)
	for b.turn() {
	}
	for _, fd := range b.peers {
		if record(t, fd) == "" {
			t.Error("a stream got no event")
		}
	}
	for wakeUps = 0; wakeUps < 10 && len(b.epollTells(0)) > 0; wakeUps++ { // that the event was read
		continue
	}
	if wakeUps > 1 {
		t.Errorf("it was told %d times after one event", wakeUps)
	}
}
