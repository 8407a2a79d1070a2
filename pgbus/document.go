package pgbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// A document that more events or bytes than these follow is read anew: to send so many is slower than to read.
const (
	staleEvents = 256
	staleBytes  = 256 << 10
)

// documentTries is how often a document is read for one client when retention removes what follows it.
const documentTries = 2

// errPruned: retention removed what follows a document before anybody could have it.
var errPruned = errors.New("retention removes events faster than the document is read")

// documentReads are the reads of documents that are under way: at most one for each attachment without the graph, and
// one with it.
type documentReads struct {
	mu      sync.Mutex
	waiting map[documentKey][]chan documentResult // one of capacity 1 for each client that waits
}

type documentKey struct {
	attachment *attachment
	graph      bool
}

// A documentResult is one client's own handle, or an error.
type documentResult struct {
	snapshot *stream.Snapshot
	err      error
}

func newDocumentReads() documentReads {
	return documentReads{waiting: map[documentKey][]chan documentResult{}}
}

// join adds a client that waits for a document; first tells that the caller has to read it. (golang.org/x/sync's single
// flight would give all the same handle.)
func (d *documentReads) join(key documentKey) (result chan documentResult, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	others, underWay := d.waiting[key]
	result = make(chan documentResult, 1)
	d.waiting[key] = append(others, result)
	return result, !underWay
}

// leave takes back what join asked for.
func (d *documentReads) leave(key documentKey, result chan documentResult) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.waiting[key], result); i >= 0 {
		d.waiting[key] = slices.Delete(d.waiting[key], i, i+1)
		return
	}
	r := <-result // the result came at the same moment
	r.snapshot.Release()
}

// finish gives all who wait what was read. Clients that come from now on have the document read anew.
func (d *documentReads) finish(key documentKey, snapshot *stream.Snapshot, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, result := range d.waiting[key] {
		result <- documentResult{snapshot.Retain(), err}
	}
	delete(d.waiting, key)
	snapshot.Release()
}

// document gives a document that the attachment's feed continues: the last one while it is fresh, else one that is read
// now, once for all who wait. The caller releases it. A document of any moment will do, because the feed holds every
// event since the topology was attached. Only one without the graph is kept for later clients.
func (b *Bus) document(ctx context.Context, a *attachment, graph bool) (*stream.Snapshot, error) {
	if !graph {
		if s := a.feed.Document(staleEvents, staleBytes); s != nil {
			return s, nil
		}
	}
	key := documentKey{a, graph}
	result, first := b.reads.join(key)
	if first {
		patience := b.documentPatience(ctx)
		asker := ctx
		b.tasks.spawn(func(ctx context.Context) { b.readDocument(inTraceOf(asker, ctx), key, patience) })
	}
	select {
	case r := <-result:
		return r.snapshot, r.err
	case <-ctx.Done():
		b.reads.leave(key, result)
		return nil, context.Cause(ctx)
	}
}

// documentPatience is how long the read that a client with this ctx begins may take: a little less than the client
// waits, so that it learns why it got nothing; but at least half of AttachWait, because others may join the read.
func (b *Bus) documentPatience(ctx context.Context) time.Duration {
	left := b.cfg.AttachWait
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return max(left-left/10, b.cfg.AttachWait/2)
}

// readDocument reads a document for all who wait, within patience, also when nobody waits any more.
func (b *Bus) readDocument(ctx context.Context, key documentKey, patience time.Duration) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, stream.ErrUnavailable)
	defer cancel()
	ctx, span := b.startSpan(ctx, "document", key.attachment.id, attribute.Bool("topostream.graph", key.graph))
	snapshot, err := b.currentDocument(ctx, key.attachment, key.graph)
	endSpan(span, err)
	if err == nil && !key.graph {
		key.attachment.feed.SetDocument(snapshot)
	}
	b.reads.finish(key, snapshot, err)
}

// currentDocument reads a document until it is one that the attachment's feed continues.
func (b *Bus) currentDocument(ctx context.Context, a *attachment, graph bool) (*stream.Snapshot, error) {
	retry := wait.Steps{First: 20 * time.Millisecond, Most: time.Second}
	pruned := 0
	for try := 0; ; try++ {
		snapshot, err := b.oneDocument(ctx, a, graph)
		switch {
		case err == nil:
			return snapshot, nil
		case errors.Is(err, stream.ErrNotFound), errors.Is(err, errEnded), errors.Is(err, stream.ErrNoMemory):
			return nil, err
		case errors.Is(err, errPruned):
			if pruned++; pruned == documentTries {
				return nil, unavailable(err)
			}
		}
		if !retry.Pause(ctx, try) {
			return nil, unavailable(err)
		}
	}
}

// oneDocument reads a document, and waits until the feed has reached it: then it is known whether the feed continues
// it.
func (b *Bus) oneDocument(ctx context.Context, a *attachment, graph bool) (*stream.Snapshot, error) {
	d, h, err := b.reader.Document(ctx, a.id, graph)
	if err != nil {
		return nil, err
	}
	b.stats.SnapshotReads.Inc()
	switch {
	case !h.Same(a.history):
		b.endIfOther(a, h)
		err = errEnded
	case d.Head.Seq < a.attachedAt:
		err = fmt.Errorf("the document is of %d, the feed begins at %d: the standby is behind", d.Head.Seq, a.attachedAt)
	case !d.Alive:
		return nil, stream.ErrNotFound // it was deleted after it was attached
	default:
		err = b.reach(ctx, a, d.Head.Seq)
	}
	if err != nil {
		d.Snapshot.Release()
		return nil, err
	}
	return d.Snapshot, nil
}

// reach waits until the feed holds all events up to seq. A feed that has ended by then does not continue a document
// of seq: the topology may have been deleted, and made anew with the same id.
func (b *Bus) reach(ctx context.Context, a *attachment, seq stream.Seq) error {
	cursor := a.feed.Cursor(a.feed.Last())
	if a.feed.Last() < seq {
		b.backfillOne(a, stream.ReadCatchUp)
	}
	buf := make([]stream.Frame, 0, 64)
	for a.feed.Cause() == nil && a.feed.Last() < seq {
		_, changed, err := cursor.Next(ctx, buf)
		switch {
		case err != nil && a.feed.Cause() == nil:
			return err
		case err != nil || changed == nil:
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	switch cause := a.feed.Cause(); {
	case cause != nil:
		return errEnded
	case !b.holds(ctx, a, seq):
		return errPruned
	}
	return nil
}

// holds tells whether what follows seq can be had: from the ring, or from the journal.
func (b *Bus) holds(ctx context.Context, a *attachment, seq stream.Seq) bool {
	if a.feed.Holds(seq) {
		return true
	}
	_, err := b.pages.of(a).Page(ctx, a.id, seq)
	return err == nil
}
