package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
)

// A socket that is closed while the client sends something is reset, and what it had still to send is lost. The bench
// does nothing by itself: no time passes between the goodbye and what the client sends.
func TestWhatAClientSendsWhileItsStreamEndsDoesNotTakeTheGoodbyeFromIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream.FeedConfig{}, 0)
	client, server := b.accept()
	if err := client.SetReadBuffer(4096); err != nil { // a small window
		t.Fatal(err)
	}
	fd, err := duplicate(server)
	if err != nil {
		t.Fatal(err)
	}
	_ = server.Close() // the connection lives on in fd
	b.append(128 << 10)
	c := b.carryOn(fd, b.machine(options{}))
	for b.turn() {
	}
	if unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil || unsent == 0 || c.blocked {
		t.Fatalf("%d bytes wait in the socket, blocked %v, %v: the test shows nothing", unsent, c.blocked, err)
	}
	c.End(delivery.ErrDraining, time.Time{})
	for b.turn() {
	}
	if c.owner != nil {
		t.Fatal("the stream is not over: the test shows nothing")
	}
	if _, err := client.Write(bytes.Repeat([]byte("x"), 10<<10)); err != nil {
		t.Fatal(err)
	}
	b.dispatch(b.epollTells(0))
	all, err := io.ReadAll(client)
	if err != nil || !strings.Contains(string(all), "event: unavailable\n") {
		t.Errorf("%d bytes that end with %.100q, %v", len(all), all[max(0, len(all)-100):], err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for c.phase != gone {
		events := b.epollTells(patience)
		if len(events) == 0 {
			t.Fatal("the client has hung up, and its socket is still there")
		}
		b.dispatch(events)
	}
}

// Were it in one, a deleted topology would be kept, and visited, for as long as a client follows others on the stream.
func TestAPartThatHasEndedIsInNoAudience(t *testing.T) {
	t.Parallel()
	for _, why := range []error{stream.ErrDeleted, stream.ErrClosed} {
		b := newBench(t, stream.FeedConfig{}, 0)
		stays, ends := b.feed, stream.NewFeed(stream.FeedConfig{Memory: b.memory})
		c := b.admit(unix.SOCK_SEQPACKET, subscribed(stays, ends))
		for b.turn() {
		}
		if len(b.audiences) != 2 {
			t.Fatalf("%d audiences: the test shows nothing", len(b.audiences))
		}
		ends.Close(why)
		for b.turn() {
		}
		if b.audiences[ends] != nil || c.seats[1].audience != nil {
			t.Errorf("%v: the part is still one of the audience", why)
		}
		if a := b.audiences[stays]; a == nil || len(a.members) != 1 || c.seats[0].audience != a {
			t.Errorf("%v: the other part is in no audience", why)
		}
		for record(t, b.peers[0]) != "" { // the opening, and why
			continue
		}
		b.append(10)
		for b.turn() {
		}
		if got := record(t, b.peers[0]); !strings.HasPrefix(got, "event: x\nid: 1\n") {
			t.Errorf("%v: the other part got %q", why, got)
		}
	}
}

// Were it not cancelled, an attach that waits would go on for a client that has gone.
func TestWhatWasBegunForAStreamIsCancelledWithItAndGivenBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	client, server := r.accept()
	m := delivery.NewMany(make([]stream.AttachRequest, 2), 2500, time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	arrivals, closed := make(chan Arrival), make(chan int, 2)
	of := func(part int) *stream.Subscription {
		return &stream.Subscription{Cursor: r.feed.Cursor(0), Close: func() { closed <- part }}
	}
	p := &peer{TCPConn: client, tb: t, ended: make(chan struct{})}
	if _, err := r.Carry(server, Handover{
		Machine: m, Arrivals: Arrivals{C: arrivals, Left: 2, Cancel: cancel},
	}, p); err != nil {
		t.Fatal(err)
	}
	arrivals <- Arrival{Part: 0, Subscription: of(0)}
	r.append(10)
	event := fmt.Appendf(nil, "id: %d\n", r.seq)
	for got := []byte{}; !bytes.Contains(got, event); {
		var buf [4096]byte
		n, err := client.Read(buf[:])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if ctx.Err() != nil {
		t.Error("it was cancelled while somebody waited for it")
	}
	_ = client.Close()
	p.awaitEnd()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Error("it was not cancelled")
	}
	arrivals <- Arrival{Part: 1, Subscription: of(1)} // it came at the same moment
	if first, second := <-closed, <-closed; first+second != 1 {
		t.Errorf("the parts %d and %d were closed", first, second)
	}
}
