package engine

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// The socket of a client that does not read yet takes a part of a long head. The rest comes before all else.
func TestAHeadThatTheSocketTookInPartArrivesWholeAndTheEventsBehindIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{WriteTimeout: time.Hour}, stream.FeedConfig{})
	head := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(head) // it never fails
	r.append(10)
	client, server := r.accept()
	p := &peer{TCPConn: client, tb: t, ended: make(chan struct{})}
	c, err := r.Carry(server, Handover{Head: slices.Clone(head), Machine: r.machine(options{})}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer p.awaitEnd()
	defer func() { _ = client.Close() }() // so that it ends
	want := slices.Concat(head, sse.AppendOpening(nil, 2500), r.all[0].Bytes)
	got := make([]byte, len(want))
	if n, err := io.ReadFull(client, got); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the first %d bytes are not the head of %d, the opening and the event", len(got), len(head))
	}
	c.End(delivery.ErrDraining, time.Time{})
	rest, err := io.ReadAll(client)
	if err != nil || !bytes.HasPrefix(rest, []byte("event: unavailable\n")) || metrictest.Value(r.stats.Frames) != 1 {
		t.Errorf("%q, %v, %d frames", rest, err, metrictest.Value(r.stats.Frames))
	}
}

// toldHowOften counts.
type toldHowOften struct {
	times atomic.Int64
	ended chan struct{} // gets one for each
}

func (o *toldHowOften) Ended(delivery.Account) {
	o.times.Add(1)
	o.ended <- struct{}{}
}

// The client has hung up already when Stream.begin writes the head: that write fails, and the shard does not know the
// stream yet.
func TestWhoHadHungUpBeforeItsStreamBeganIsEndedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{WriteTimeout: time.Hour}, stream.FeedConfig{})
	other := r.open(options{})
	for _, reset := range []bool{true, false} {
		client, server := r.accept()
		if reset {
			if err := client.SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{}, 10)
		sub := &stream.Subscription{Cursor: r.feed.Cursor(r.seq), Close: func() { closed <- struct{}{} }}
		m := delivery.New(stream.AttachRequest{Topology: "t"}, sub, 2500, time.Hour)
		owner := &toldHowOften{ended: make(chan struct{}, 10)}
		c, err := r.Carry(server, Handover{Head: make([]byte, 8<<20), Machine: m}, owner)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-owner.ended:
		case <-time.After(patience):
			t.Fatal("the stream is still there")
		}
		c.End(delivery.ErrDraining, time.Now())
		r.lives(other) // the shard has taken that in
		if owner.times.Load() != 1 || len(closed) != 1 {
			t.Errorf("told %d times, the subscription closed %d times", owner.times.Load(), len(closed))
		}
	}
}
