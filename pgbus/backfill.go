package pgbus

import (
	"context"
	"errors"
	"sync"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Bounds of one backfill. The bytes are shared among the topologies of a read; one event is always read.
const (
	backfillers   = 2
	backfillBatch = 200
	backfillRows  = 256
	backfillBytes = 4 << 20
	leastBackfill = 64 << 10
)

// A backfillState is an attachment's state in the backfiller.
type backfillState struct {
	queued bool // it waits for a read, or one is under way
	again  bool // it was added again while a read was under way, which may not have seen what there is now
	cause  stream.Cause
}

// A backfiller holds the attachments whose feeds must be brought up to the head from the journal. Each is read by one
// goroutine at a time.
type backfiller struct {
	mu    sync.Mutex
	queue []*attachment
	ready wait.Signal
}

func newBackfiller() backfiller { return backfiller{ready: wait.NewSignal()} }

// add queues attachments, for reads that begin after this call.
func (f *backfiller) add(attachments []*attachment, cause stream.Cause) {
	if len(attachments) == 0 {
		return
	}
	f.mu.Lock()
	for _, a := range attachments {
		if a.backfill.queued {
			a.backfill.again = true
			continue
		}
		a.backfill = backfillState{queued: true, cause: cause}
		f.queue = append(f.queue, a)
	}
	f.mu.Unlock()
	f.ready.Set()
}

func (f *backfiller) take() []*attachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.queue), backfillBatch)
	batch := append([]*attachment(nil), f.queue[:n]...)
	f.queue = append(f.queue[:0], f.queue[n:]...)
	if len(f.queue) > 0 {
		f.ready.Set()
	}
	for _, a := range batch {
		a.backfill.again = false
	}
	return batch
}

// done gives a batch back. Those with more to read are queued again, behind the others.
func (f *backfiller) done(batch []*attachment, more map[*attachment]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range batch {
		if (a.backfill.again || more[a]) && a.feed.Cause() == nil {
			f.queue = append(f.queue, a)
			continue
		}
		a.backfill = backfillState{}
	}
	if len(f.queue) > 0 {
		f.ready.Set()
	}
}

func (b *Bus) backfillAll(attachments []*attachment, cause stream.Cause) {
	b.backfill.add(attachments, cause)
}

func (b *Bus) backfillOne(a *attachment, cause stream.Cause) { b.backfill.add([]*attachment{a}, cause) }

// backfillLoop reads what is queued, and what could not be read again.
func (b *Bus) backfillLoop(ctx context.Context) {
	retry := wait.Steps{First: 100 * time.Millisecond, Most: 2 * time.Second}
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-b.backfill.ready:
		}
		for batch := b.backfill.take(); len(batch) > 0; batch = b.backfill.take() {
			more, err := b.readBatch(ctx, batch)
			b.backfill.done(batch, more)
			if err == nil {
				try = 0
				continue
			}
			if ctx.Err() != nil {
				return
			}
			b.log.Warn("journal read failed; trying again", "topologies", len(batch), "error", err)
			if !retry.Pause(ctx, try) {
				return
			}
			try++
		}
	}
}

// readBatch reads one page of each attachment's journal into its feed, row by row, and tells which have more. After
// an error all have.
func (b *Bus) readBatch(ctx context.Context, batch []*attachment) (more map[*attachment]bool, err error) {
	more = map[*attachment]bool{}
	reqs := make([]journal.PageRequest, len(batch))
	reads := make([]feedRead, len(batch))
	causes := map[stream.Cause]struct{}{}
	for i, a := range batch {
		last := a.feed.Last()
		reqs[i] = journal.PageRequest{Topology: a.id, After: last}
		reads[i] = feedRead{attachment: a, last: last, inDoubt: b.inDoubt(a.id, last)}
		causes[a.backfill.cause] = struct{}{}
		more[a] = true
	}
	for c := range causes {
		b.stats.JournalReads[c].Inc()
	}
	size := max(backfillBytes/len(batch), leastBackfill)
	ctx, span := b.tracer.Start(ctx, "journal read") //nolint:spancheck // endBackfill ends it
	defer func() { endBackfill(span, batch[0].backfill.cause, len(batch), err) }()
	err = b.reader.Rows(ctx, journal.Live, reqs, backfillRows, size, func(i int, row journal.Row) {
		b.take(&reads[i], row)
	})
	if err != nil {
		return more, err //nolint:spancheck // as above
	}
	for i := range reads {
		r := &reads[i]
		if !r.found {
			b.reset(r.attachment, stream.ErrReset, "the topology has no head")
		}
		more[r.attachment] = r.some && !r.ended && r.last < r.head
	}
	return more, nil
}

// A feedRead is an attachment whose journal is being read. Each event goes into its feed as it is read, so that the
// events of two hundred topologies are never in memory together.
type feedRead struct {
	attachment *attachment
	last       stream.Seq // read so far
	head       stream.Seq
	found      bool // the topology has a head
	some       bool // at least one event was read
	ended      bool // the rest of the rows is not taken
	inDoubt    bool // the feed is ahead of what the database shows, because the WAL told of an event in doubt
}

// take appends the row that follows.
func (b *Bus) take(r *feedRead, row journal.Row) {
	r.found = true
	if r.ended = r.ended || r.inDoubt && !r.some && row.Head.Seq <= r.last; r.ended {
		return
	}
	if err := row.Continues(r.attachment.history, r.last); err != nil {
		r.ended = true
		broken, _ := errors.AsType[*journal.BrokenError](err)
		cause := stream.ErrReset
		if broken != nil && broken.Behind {
			cause = stream.ErrBehind
		}
		b.reset(r.attachment, cause, err.Error())
		return
	}
	r.head = row.Head.Seq
	if row.Frame != nil {
		r.last, r.some = row.Frame.Seq, true
		b.append(r.attachment, *row.Frame)
	}
}

// append adds to a feed a frame that a source or the journal claims to be the next, and does what the feed's answer
// asks for.
func (b *Bus) append(a *attachment, fr stream.Frame) {
	counted := b.deliveries.begin(a, fr, b.registry.clients)
	result := a.feed.Append(fr)
	b.deliveries.appended(counted, result)
	switch result {
	case stream.Appended:
		if fr.Final && fr.Seq > a.attachedAt {
			b.registry.end(a, stream.ErrDeleted)
		}
	case stream.Conflict:
		b.reset(a, stream.ErrReset, "an event differs from one of the same seq: somebody forged it")
	case stream.Hole:
		b.backfillOne(a, stream.ReadHole)
	case stream.Duplicate, stream.Closed:
	}
}

// reset ends an attachment whose feed cannot go on. With ErrReset its clients get a snapshot; with ErrBehind each
// resumes from its own place where the journal holds what follows.
func (b *Bus) reset(a *attachment, cause error, why string) {
	if a.feed.Cause() == nil {
		b.log.Warn("feed thrown away: its clients attach again", "topology", a.id, "last", a.feed.Last(), "why", why)
	}
	b.registry.end(a, cause)
}
