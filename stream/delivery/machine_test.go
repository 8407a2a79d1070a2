package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/sse"
)

// emptyJournal holds nothing, for the reason it has.
type emptyJournal struct{ err error }

func (j emptyJournal) Page(context.Context, stream.TopologyID, stream.Seq) ([]stream.Frame, error) {
	return nil, j.err
}

func event(seq stream.Seq) stream.Frame {
	return sse.Encoder{}.Event(stream.Event{Seq: seq, Type: "x", JSON: "{}"})
}

// A rig is a stream whose subscriptions are counted.
type rig struct {
	*delivery.Machine

	feed   *stream.Feed
	closed int
	batch  *stream.Batch
}

func (r *rig) subscribe(snapshot *stream.Snapshot, after stream.Seq) *stream.Subscription {
	return &stream.Subscription{
		Snapshot: snapshot, Cursor: r.feed.Cursor(after), Close: func() { r.closed++ },
	}
}

// newRig makes a stream of a feed that begins behind 7.
func newRig(snapshot *stream.Snapshot, journal stream.JournalReader) *rig {
	const base = 7
	r := &rig{batch: stream.NewBatch(8)}
	r.feed = stream.NewFeed(stream.FeedConfig{Base: base, Journal: journal})
	m := delivery.New(stream.AttachRequest{Topology: "t"}, r.subscribe(snapshot, base), 2500, 15*time.Second)
	r.Machine = &m
	return r
}

// step gives the next step in words; what is written counts as written.
func (r *rig) step() string {
	step := r.Next(r.batch)
	text := ""
	if step.Retry > 0 {
		text = fmt.Sprint("retry in ", step.Retry, ": ")
	}
	if r.Parts() > 1 && step.Do != delivery.Wait && step.Do != delivery.Close {
		text += fmt.Sprint(step.Part, " ")
	}
	switch step.Do {
	case delivery.Write:
		if step.Bytes == nil {
			step.Bytes = r.batch.Bytes()
		}
		text += "write " + string(step.Bytes)
		r.Wrote()
	case delivery.Wait:
		text += "wait"
	case delivery.Read:
		text += "read"
	case delivery.Attach:
		text += fmt.Sprint("attach ", r.Request(step.Part).Resume, " ", r.Request(step.Part).After)
	case delivery.Leave:
		text += "leave"
	case delivery.Close:
		text += "close"
	}
	return text
}

// append appends events, and says so.
func (r *rig) append(seqs ...stream.Seq) {
	for _, seq := range seqs {
		r.feed.Append(event(seq))
	}
	r.Changed(0)
}

func (r *rig) expect(t *testing.T, want ...string) {
	t.Helper()
	for i, w := range want {
		if got := r.step(); !strings.HasPrefix(got, w) {
			t.Fatalf("step %d is %q, want %q", i, got, w)
		}
	}
}

const opening = "write : keepalive\nretry: 2500\n\n"

func TestAStreamBeginsWithASmallSnapshotInOneWriteAndWithALargeOneInTwo(t *testing.T) {
	t.Parallel()
	for size, want := range map[int][]string{
		10: {opening + "x", "wait"}, 1 << 20: {opening, "write x", "wait"},
	} {
		memory := stream.NewMemory(2<<20, nil)
		hold, _ := memory.TryReserve(int64(size))
		r := newRig(stream.NewSnapshot(7, []byte(strings.Repeat("x", size)), hold), nil)
		r.expect(t, want...)
		if _, all := memory.TryReserve(2 << 20); !all {
			t.Errorf("%d: the snapshot is written and still held", size)
		}
	}
}

func TestAStreamThatIsSilentGetsAKeepaliveAndThenItsEvents(t *testing.T) {
	t.Parallel()
	r := newRig(nil, nil)
	r.expect(t, opening, "wait")
	r.Tick()
	r.expect(t, "write "+sse.Keepalive, "wait")
	r.append(8, 9)
	r.expect(t, "write event: x\nid: 8\ndata: {}\n\nevent: x\nid: 9", "wait")
}

func TestAJournalThatIsAwayIsReadAgainForEverAndTheClientSeesKeepalives(t *testing.T) {
	t.Parallel()
	r := newRig(nil, emptyJournal{})
	r.feed = stream.NewFeed(stream.FeedConfig{Base: 9})
	m := delivery.New(stream.AttachRequest{}, r.subscribe(nil, 7), 2500, 15*time.Second)
	r.Machine = &m
	r.expect(t, opening, "read", "wait")
	r.HasRead(0, fmt.Errorf("%w: really", stream.ErrUnavailable))
	if r.Changed(0) {
		t.Error("a part that pauses has something to do")
	}
	r.Tick()
	r.expect(t, "retry in 500ms: write "+sse.Keepalive, "wait")
	r.Retry()
	r.expect(t, "read")
	r.HasRead(0, &stream.UnavailableError{Reason: "somebody holds it", Err: errors.New("x")})
	r.expect(t, "write event: unavailable\ndata: ", "close", "close")
	if r.closed != 1 {
		t.Errorf("the subscription was closed %d times", r.closed)
	}
}

func TestAFeedThatWasThrownAwayIsAttachedAgainUntilItIsThere(t *testing.T) {
	t.Parallel()
	for cause, want := range map[error]string{stream.ErrBehind: "attach true 8", stream.ErrReset: "attach false 0"} {
		r := newRig(nil, nil)
		r.append(8)
		r.expect(t, opening, "write event: x\nid: 8", "wait")
		r.feed.Close(cause)
		r.Changed(0)
		r.expect(t, want, "wait")
		r.Attached(0, nil, stream.ErrNoMemory)
		r.expect(t, "write "+sse.Keepalive, want)
		r.feed = stream.NewFeed(stream.FeedConfig{Base: 8})
		r.Attached(0, r.subscribe(stream.NewSnapshot(8, []byte("snapshot"), nil), 8), nil)
		r.expect(t, "write snapshot", "wait")
		r.End(delivery.ErrDraining)
		r.expect(t, "write event: unavailable", "close")
		if r.closed != 2 {
			t.Errorf("%v: %d subscriptions were closed, of 2", cause, r.closed)
		}
	}
}

func TestWhatComesTooLateIsGivenBack(t *testing.T) {
	t.Parallel()
	r := newRig(nil, nil)
	r.feed.Close(stream.ErrReset)
	r.expect(t, opening, "attach")
	r.End(delivery.ErrExpired)
	r.expect(t, "write event: token_expired", "close")
	r.Attached(0, r.subscribe(stream.NewSnapshot(8, nil, nil), 8), nil)
	if r.expect(t, "close"); r.closed != 2 {
		t.Errorf("%d subscriptions were closed, of 2", r.closed)
	}
}

func TestAStreamSaysWhyItEndsToWhomeverItHelps(t *testing.T) {
	t.Parallel()
	for why, want := range map[error][]string{
		delivery.ErrExpired:  {"write event: token_expired", "close"},
		delivery.ErrDraining: {"write event: unavailable", "close"},
		delivery.ErrReplaced: {"write : keepalive\nretry: ", "close"},
		stream.ErrClosed:     {"write event: unavailable", "close"},
		stream.ErrDeleted:    {"close"},
		context.Canceled:     {"close"},
	} {
		r := newRig(nil, nil)
		r.feed.Append(event(8))
		r.End(why)
		r.End(errors.New("another reason"))
		if r.expect(t, slices.Concat([]string{opening}, want)...); r.closed != 1 {
			t.Errorf("%v: the subscription was closed %d times", why, r.closed)
		}
	}
	r := newRig(stream.NewSnapshot(7, make([]byte, 1<<20), nil), nil)
	r.expect(t, opening)
	r.Next(r.batch)
	r.Fail(errors.New("the client has gone"))
	if r.expect(t, "close"); r.closed != 1 {
		t.Errorf("the subscription was closed %d times", r.closed)
	}
}

func TestADeletedTopologysStreamEndsBehindItsLastEvent(t *testing.T) {
	t.Parallel()
	r := newRig(nil, nil)
	r.feed.Append(sse.Encoder{}.Event(stream.Event{Seq: 8, Type: stream.TypeDeleted, JSON: "{}"}))
	r.expect(t, opening, "write event: deleted\nid: 8", "close")
}
