package pgbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"topostream/pgbus/journal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// errEnded: the attachment ended while a client was being given its place in it. The client is given one in the next.
var errEnded = errors.New("the attachment has ended")

// Attach implements stream.Bus.
func (b *Bus) Attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	if req.List != nil {
		return b.list.Attach(ctx, req.List)
	}
	if sub := b.AttachAtOnce(req); sub != nil {
		return sub, nil
	}
	ctx, span := b.startSpan(ctx, "attach", req.Topology, attribute.Bool("topostream.resume", req.Resume))
	sub, err := b.attach(ctx, req)
	endSpan(span, err)
	return sub, err
}

// attach is Attach where something has to be waited for.
func (b *Bus) attach(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	began := time.Now()
	waiting, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	patience := waiting
	if b.cfg.Replica != nil {
		patience = ctx // a standby may take longer
	}
	for try := 0; ; try++ {
		sub, err := b.attachOnce(waiting, patience, req)
		if err == nil {
			b.stats.Attaches.Inc()
			b.stats.AttachDuration.Observe(time.Since(began).Seconds())
			return sub, nil
		}
		if err == stream.ErrNotFound { //nolint:errorlint // the sentinel itself
			err = b.notReplayed(patience, req.Topology)
		}
		again := errors.Is(err, errEnded) || errors.Is(err, errNotReplayed)
		if !again || !attachAgain.Pause(waiting, try) {
			return nil, err
		}
	}
}

// attachOnce is one try of attach: waiting is for the topology's attachment, patience for the client's place in it.
func (b *Bus) attachOnce(
	waiting, patience context.Context, req stream.AttachRequest,
) (*stream.Subscription, error) {
	a, gone, err := b.acquire(waiting, req)
	switch {
	case err != nil:
		return nil, err
	case gone != nil:
		return b.subscribeDeleted(req, *gone)
	}
	sub, err := b.subscribe(patience, a, req)
	if err != nil {
		b.registry.release(a)
		return nil, err
	}
	return sub, nil
}

// AttachAtOnce implements stream.AtOnce: the topology is attached, and what the client needs is in memory.
func (b *Bus) AttachAtOnce(req stream.AttachRequest) *stream.Subscription {
	a := b.registry.join(req.Topology)
	if a == nil {
		return nil
	}
	sub := b.clientOf(a)
	known := max(a.feed.Last(), a.attachedAt)
	switch {
	case req.Resume && req.After.Epoch() == known.Epoch() && req.After <= known:
		sub.Cursor = a.feed.Cursor(req.After)
	case !req.Resume && !req.Graph:
		if sub.Snapshot = a.feed.Document(staleEvents, staleBytes); sub.Snapshot != nil {
			sub.Cursor = a.feed.Cursor(sub.Snapshot.Seq)
		}
	}
	if sub.Cursor == nil {
		sub.Close()
		return nil
	}
	b.stats.Attaches.Inc()
	return sub
}

// A client is a client of an attachment, in one allocation with its subscription: there is one for each stream.
type client struct {
	stream.Subscription

	registry   *registry
	attachment *attachment
	closed     sync.Once
}

// clientOf makes the subscription of a client that the attachment counts, until it is closed.
func (b *Bus) clientOf(a *attachment) *stream.Subscription {
	c := &client{registry: b.registry, attachment: a}
	c.Close = c.close
	return &c.Subscription
}

func (c *client) close() {
	c.closed.Do(func() { c.registry.release(c.attachment) })
}

// attachAgain are the pauses before another try for a client whose attachment has ended meanwhile (errEnded).
//
//nolint:gochecknoglobals // a constant
var attachAgain = wait.Steps{First: time.Millisecond, Most: 250 * time.Millisecond}

// acquire gives a topology's attachment with one more client, attaching it first if need be.
func (b *Bus) acquire(ctx context.Context, req stream.AttachRequest) (*attachment, *deletedTopology, error) {
	a, q, err := b.registry.acquire(req)
	if q == nil {
		return a, nil, err
	}
	b.attaches.Set()
	select {
	case got := <-q.done:
		return got.attachment, got.deleted, got.err
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	if why := b.registry.abandon(q); why != nil && errors.Is(cause, stream.ErrUnavailable) {
		return nil, nil, unavailable(why)
	}
	return nil, nil, cause
}

// subscribe places a client in an attached topology's feed.
func (b *Bus) subscribe(ctx context.Context, a *attachment, req stream.AttachRequest) (*stream.Subscription, error) {
	sub := b.clientOf(a)
	if req.Resume {
		ok, err := b.mayResume(ctx, a, req.After)
		if err != nil {
			return nil, err
		}
		if ok {
			sub.Cursor = a.feed.Cursor(req.After)
			return sub, nil
		}
	}
	snap, err := b.document(ctx, a, req.Graph)
	if err != nil {
		return nil, err
	}
	sub.Snapshot = snap
	sub.Cursor = a.feed.Cursor(snap.Seq)
	return sub, nil
}

// mayResume tells whether n is a seq of this history, at or below the database's head. Whether the journal still holds
// what follows, the cursor finds out by reading it. Only a seq above all that this server has been told of costs a
// query (another server may be ahead of this one), and clients that come at the same time share it.
func (b *Bus) mayResume(ctx context.Context, a *attachment, n stream.Seq) (bool, error) {
	known := max(a.feed.Last(), a.attachedAt)
	switch {
	case n.Epoch() < known.Epoch():
		return false, nil
	case n <= known, b.inDoubt(a.id, n):
		return true, nil
	}
	if b.cfg.Replica != nil && n.Epoch() == known.Epoch() {
		return b.awaitReplay(ctx, a, n)
	}
	// A read that was shared may have begun before n was recorded. The second one began after the first had ended.
	for range 2 {
		h, joined, err := b.head(ctx, a.id)
		if err != nil {
			return false, err
		}
		if h.Seq > a.feed.Last() {
			b.backfillOne(a, stream.ReadHole)
		}
		switch {
		case errors.Is(a.feed.Cause(), stream.ErrReset), n.Epoch() == h.Seq.Epoch() && n.Epoch() != known.Epoch():
			return false, errEnded // the number is of a newer history than the feed: in a fresh feed it is good
		case n.Epoch() == known.Epoch() && n <= h.Seq:
			return true, nil
		case !joined:
			return false, nil
		}
	}
	return false, nil
}

// head reads a topology's head; requests at the same time share the read, and joined tells that several have.
func (b *Bus) head(ctx context.Context, id stream.TopologyID) (_ journal.Head, joined bool, _ error) {
	h, joined, err := b.heads.do(ctx, &b.tasks, string(id), func(ctx context.Context) (journal.Head, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // it belongs to none of those who wait
		defer cancel()
		heads, err := b.reader.Heads(ctx, []stream.TopologyID{id})
		if err != nil {
			return journal.Head{}, unavailable(err)
		}
		h, ok := heads[id]
		if !ok {
			return h, stream.ErrNotFound
		}
		return h, nil
	})
	return h, joined, err
}

// subscribeDeleted serves a client that resumes below the head of a deleted topology: with the rest of its journal,
// which ends with `deleted`.
func (b *Bus) subscribeDeleted(req stream.AttachRequest, gone deletedTopology) (*stream.Subscription, error) {
	h := gone.head
	if !req.Resume || req.After >= h.Seq || req.After+1 < h.First || req.After.Epoch() != h.Seq.Epoch() {
		return nil, stream.ErrNotFound
	}
	a := &attachment{id: req.Topology, history: gone.history}
	feed := b.newFeed(a, h.Seq, 0)
	feed.Close(stream.ErrDeleted)
	return &stream.Subscription{Cursor: feed.Cursor(req.After), Close: func() {}}, nil
}
