package pgbus

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/journal"
	"topostream/pgbus/postgres"
	"topostream/pgbus/source/notify"
	"topostream/stream"
)

const (
	attachBatch  = 200                   // topologies in one attach transaction
	attachGap    = 20 * time.Millisecond // between the beginnings of two that are not full
	attachBefore = 512                   // events below the head that a catch-up may read for requests that resume
	// attachTimeout bounds one attach transaction, with the second look for what it did not see.
	attachTimeout = 8 * time.Second
)

// attachLoop attaches what waits, in batches, so that a storm of requests costs few transactions. A request that comes
// when there was none for a while is attached at once.
func (b *Bus) attachLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var begun time.Time // the last transaction
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.attaches:
		case <-timer.C:
		}
		n := b.registry.waiting()
		if n == 0 {
			continue
		}
		if gap := attachGap - time.Since(begun); gap > 0 && n < attachBatch {
			timer.Reset(gap)
			continue
		}
		if grace := b.sources.mode.listenGrace(); grace > 0 { // a LISTEN connection that may be there in a moment
			timer.Reset(grace)
			continue
		}
		ids, next := b.registry.take(time.Now())
		if len(ids) > 0 {
			begun = time.Now()
			b.attachBatch(ctx, ids)
			b.attaches.Set() // there may be more
		} else if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// attachBatch attaches topologies that are taken from the registry, and tells it what became of each.
func (b *Bus) attachBatch(ctx context.Context, ids []stream.TopologyID) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	lights, h, subscribed, err := b.readLights(ctx, ids)
	if err != nil {
		b.log.Warn("attach failed; trying again", "topologies", len(ids), "error", err)
		for _, id := range ids {
			b.registry.failed(id, err)
		}
		return
	}
	b.stats.AttachBatch.Observe(float64(len(ids)))
	ids = b.retryMade(ctx, ids, lights)
	b.attached(ids, lights, h, subscribed)
	if low := unraised(lights, h); len(low) > 0 {
		b.tasks.spawn(func(ctx context.Context) { b.raise(ctx, h, low) }) // the other topologies do not wait for that
	}
}

// retryMade looks a second time for the topologies that an attach transaction did not see. Those that exist by now are
// attached again; it returns the others. Without it, a topology that was made after the transaction's snapshot would
// get its client a 404, which is final for a browser.
func (b *Bus) retryMade(ctx context.Context, ids []stream.TopologyID, lights []journal.Light) []stream.TopologyID {
	there := make(map[stream.TopologyID]bool, len(ids))
	for _, l := range lights {
		there[l.Topology] = l.Alive
	}
	var absent []stream.TopologyID
	for _, id := range ids {
		if !there[id] {
			absent = append(absent, id)
		}
	}
	if len(absent) == 0 {
		return ids
	}
	now, _, err := b.reader.Lights(ctx, absent)
	made := map[stream.TopologyID]bool{}
	for _, l := range now {
		made[l.Topology] = l.Alive
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id stream.TopologyID) bool {
		switch {
		case there[id]:
			return false
		case err != nil: // whether it exists is not known: its requests wait for another try
			b.registry.failed(id, err)
		case made[id]:
			b.registry.again(id)
		}
		return err != nil || made[id]
	})
}

// unraised gives the topologies that have not entered the history's epoch.
func unraised(lights []journal.Light, h postgres.History) (ids []stream.TopologyID) {
	for _, l := range lights {
		if !l.Raised(h) {
			ids = append(ids, l.Topology)
		}
	}
	return ids
}

// attached tells the registry what the light snapshots have shown of topologies that were taken from it, and reads the
// catch-up of those that are attached now. Topologies that have not entered h's epoch are left out: raise comes first.
// subscribed tells whether the transaction that took the light snapshots has LISTENed, too.
func (b *Bus) attached(ids []stream.TopologyID, lights []journal.Light, h postgres.History, subscribed bool) {
	found := make(map[stream.TopologyID]journal.Light, len(lights))
	for _, l := range lights {
		found[l.Topology] = l
	}
	var attached []*attachment
	for _, id := range ids {
		l, ok := found[id]
		switch {
		case ok && !l.Raised(h):
		case !ok:
			b.registry.absent(id, attachResult{err: stream.ErrNotFound})
		case !l.Alive:
			b.registry.absent(id, attachResult{deleted: &deletedTopology{l.Head, h}})
		default:
			a := b.registry.add(id, h, func(requests []*attachRequest) *attachment {
				return b.newAttachment(l, h, requests)
			})
			if a != nil {
				attached = append(attached, a)
			}
		}
	}
	if !subscribed && b.sources.listener != nil {
		for _, a := range attached {
			b.sources.listener.Follow(a.id)
		}
	}
	b.backfillAll(attached, stream.ReadCatchUp)
}

// readLights takes the light snapshots of topologies: by the LISTEN connection, in the transaction that subscribes to
// them, or on the pool where nothing LISTENs to what is read.
func (b *Bus) readLights(
	ctx context.Context, ids []stream.TopologyID,
) (lights []journal.Light, h postgres.History, subscribed bool, err error) {
	if b.sources.listener != nil && b.cfg.Replica == nil {
		var got struct { // the transaction may outlive ctx
			lights []journal.Light
			h      postgres.History
		}
		err = b.sources.listener.Attach(ctx, ids, func(ctx context.Context, conn *pgx.Conn) error {
			var err error
			got.lights, got.h, err = b.reader.LightsOn(ctx, conn, ids)
			if errors.Is(err, postgres.ErrOldHistory) || errors.Is(err, postgres.ErrStandby) {
				postgres.Close(conn) // an old primary that still lives
			}
			return err
		})
		switch {
		case err == nil:
			return got.lights, got.h, true, nil
		case postgres.Judged(err):
			_, _ = b.reader.Heads(ctx, nil) // the pool's reads do what there is to do
			return nil, h, false, err
		case !errors.Is(err, notify.ErrDisconnected):
			return nil, h, false, err
		}
	}
	lights, h, err = b.reader.Lights(ctx, ids)
	return lights, h, false, err
}

// raise has topologies enter the present epoch, and then be attached at once. Those that somebody's transaction holds
// wait for another try.
func (b *Bus) raise(ctx context.Context, h postgres.History, ids []stream.TopologyID) {
	held, err := b.reader.Raise(ctx, h, ids)
	failures := map[stream.TopologyID]error{}
	for _, e := range held {
		failures[e.Topology] = e
		b.log.Info("a topology cannot enter the new epoch yet", "topology", e.Topology, "error", e)
	}
	for _, id := range ids {
		switch {
		case err != nil:
			b.registry.failed(id, err)
		case failures[id] != nil:
			b.registry.failed(id, failures[id])
		default:
			b.registry.again(id)
		}
	}
	b.attaches.Set()
}

// newAttachment makes the attachment of a topology whose light snapshot is l.
func (b *Bus) newAttachment(l journal.Light, h postgres.History, requests []*attachRequest) *attachment {
	a := &attachment{id: l.Topology, history: h, attachedAt: l.Head.Seq, idle: time.Now()}
	a.feed = b.newFeed(a, lowest(requests, l.Head), l.Head.Seq)
	if l.Document != nil {
		a.feed.SetDocument(stream.NewSnapshot(l.Head.Seq, b.cfg.Encoder.Snapshot(l.Head.Seq, l.Document), nil))
	}
	return a
}

func (b *Bus) newFeed(a *attachment, base, alive stream.Seq) *stream.Feed {
	return stream.NewFeed(stream.FeedConfig{
		Topology: a.id, Base: base, Alive: alive, Journal: b.pages.of(a), Memory: b.cfg.Memory, Stats: b.stats,
	})
}

// lowest is where the feed of a fresh attachment begins: at the head, or at the lowest seq that a waiting request
// resumes from, at most attachBefore events below the head. The catch-up then fills the ring for all of them, and none
// needs a query of its own.
func lowest(requests []*attachRequest, h journal.Head) stream.Seq {
	base := h.Seq
	floor := max(h.First, 1) - 1
	if h.Seq > floor+attachBefore {
		floor = h.Seq - attachBefore
	}
	for _, q := range requests {
		if q.Resume && q.After >= floor && q.After < base {
			base = q.After
		}
	}
	return base
}
