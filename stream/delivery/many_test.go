package delivery_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/sse"
)

const reconnects = 2500

// manyRig makes a stream of topologies a, b and c, none of which is attached.
func manyRig() *rig {
	r := &rig{batch: stream.NewBatch(8)}
	reqs := []stream.AttachRequest{{Topology: "a"}, {Topology: "b", Resume: true, After: 7}, {Topology: "c"}}
	m := delivery.NewMany(reqs, reconnects, 15*time.Second)
	r.Machine = &m
	return r
}

func feedAt(base stream.Seq) *stream.Feed { return stream.NewFeed(stream.FeedConfig{Base: base}) }

func (r *rig) attach(part int, feed *stream.Feed, snapshot *stream.Snapshot) {
	r.feed = feed
	r.Attached(part, r.subscribe(snapshot, feed.Last()), nil)
}

func TestEachPartOfAStreamComesWhenItIsThereAndNoneWaitsForAnother(t *testing.T) {
	t.Parallel()
	r := manyRig()
	r.expect(t, "0 write "+strings.TrimPrefix(opening, "write "), "wait")
	b := feedAt(7)
	r.attach(1, b, nil)
	b.Append(event(8))
	r.expect(t, "1 write event: x\nid: 8", "wait")
	a := feedAt(3)
	r.attach(0, a, stream.NewSnapshot(3, []byte("snapshot a"), nil))
	r.expect(t, "0 write snapshot a", "wait")
	a.Append(event(4))
	b.Append(event(9))
	if !r.Changed(1) || !r.Changed(0) || r.Changed(2) {
		t.Error("those with a feed have something to do, and nobody else")
	}
	r.expect(t, "1 write event: x\nid: 9", "0 write event: x\nid: 4", "wait")
}

func TestAPartThatEndsSaysWhoseItWasAndTheLastOneEndsTheStream(t *testing.T) {
	t.Parallel()
	r := manyRig()
	r.attach(1, feedAt(7), nil)
	r.Attached(0, nil, stream.ErrNotFound)
	r.Attached(2, nil, &stream.UnavailableError{Reason: "somebody holds it", Err: errors.New("x")})
	r.expect(t, "0 write : keepalive", "0 leave",
		"1 write event: deleted\ndata: {\"topic\":\"topology.a.deleted\"", "2 leave",
		"1 write event: unavailable\ndata: {\"topic\":\"topology.c.unavailable\"", "wait")
	r.feed.Append(sse.Encoder{}.Event(stream.Event{Seq: 8, Type: stream.TypeDeleted, JSON: "{}"}))
	r.Changed(1)
	r.expect(t, "1 write event: deleted\nid: 8", "close")
	if r.closed != 1 {
		t.Errorf("%d subscriptions were closed, of 1", r.closed)
	}
}

func TestAPartThatWasThrownAwayIsAttachedAgainWhileTheOthersGoOn(t *testing.T) {
	t.Parallel()
	r := manyRig()
	a, b := feedAt(3), feedAt(7)
	r.attach(0, a, nil)
	r.attach(1, b, nil)
	r.expect(t, "0 write : keepalive", "wait")
	a.Close(stream.ErrBehind)
	r.Changed(0)
	r.expect(t, "0 attach true 3", "wait")
	b.Append(event(8))
	r.Changed(1)
	r.expect(t, "1 write event: x\nid: 8", "wait")
	r.Attached(0, nil, stream.ErrNoMemory) // for now
	r.expect(t, "1 write "+sse.Keepalive, "0 attach true 3", "wait")
	r.attach(0, feedAt(5), stream.NewSnapshot(5, []byte("snapshot a"), nil))
	r.expect(t, "0 write snapshot a", "wait")
}

func TestAPartWithALargeBacklogTakesTurnsWithTheOthers(t *testing.T) {
	t.Parallel()
	r := manyRig()
	a, b := feedAt(0), feedAt(0)
	r.attach(0, a, nil)
	r.attach(1, b, nil)
	r.expect(t, "0 write : keepalive", "wait")
	for seq := range stream.Seq(20) {
		a.Append(event(seq + 1))
	}
	b.Append(event(1))
	r.Changed(0)
	r.Changed(1)
	r.expect(t, "0 write event: x\nid: 1\n", "1 write event: x\nid: 1\n", "0 write event: x\nid: 9\n",
		"0 write event: x\nid: 17\n", "wait")
}

func TestAJournalThatIsAwayForOnePartIsReadAgainWhateverTheOthersDo(t *testing.T) {
	t.Parallel()
	r := manyRig()
	a := stream.NewFeed(stream.FeedConfig{Base: 9, Journal: emptyJournal{}})
	r.feed = a
	r.Attached(0, r.subscribe(nil, 7), nil)
	b := feedAt(7)
	r.attach(1, b, nil)
	r.expect(t, "0 write : keepalive", "0 read", "wait")
	r.HasRead(0, stream.ErrUnavailable)
	b.Append(event(8))
	r.Changed(1)
	r.expect(t, "retry in 500ms: 1 write event: x\nid: 8", "wait")
	r.Retry()
	r.expect(t, "0 read", "wait")
	r.Fail(errors.New("the client has gone"))
	r.HasRead(0, nil) // too late
	r.Attached(2, r.subscribe(stream.NewSnapshot(1, nil, nil), 1), nil)
	if r.expect(t, "close"); r.closed != 3 {
		t.Errorf("%d subscriptions were closed, of 3", r.closed)
	}
}

func TestAStreamOfManyThatEndsAsAWholeSaysSoOnce(t *testing.T) {
	t.Parallel()
	for why, want := range map[error]string{
		delivery.ErrExpired:  "event: token_expired\ndata: {\"topic\":\"token_expired\"",
		delivery.ErrDraining: "event: unavailable\ndata: {\"topic\":\"unavailable\"",
	} {
		r := manyRig()
		r.attach(0, feedAt(1), nil)
		r.attach(1, feedAt(1), nil)
		r.expect(t, "0 write : keepalive", "wait")
		r.End(why)
		r.expect(t, "1 write "+want, "close")
		if r.closed != 2 {
			t.Errorf("%v: %d subscriptions were closed, of 2", why, r.closed)
		}
	}
}
