package pgbus

import (
	"context"
	"sync"
	"time"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// A topic is an attached topology.
type topic struct {
	id         stream.TopologyID
	feed       *stream.Feed
	attachedAt stream.Seq // the head when it was attached

	listening bool      // on this LISTEN connection; under Bus.mu
	clients   int       // under Bus.mu
	idle      time.Time // since when clients is 0; under Bus.mu

	snaps [2]snapshotSlot // without and with the graph; the feed keeps the former. The latter is not kept, because a graph changes without an event when somebody writes to it by hand
	fill  fillState       // under fillQueue.mu
}

// A snapshotSlot lets one goroutine at a time take a snapshot.
type snapshotSlot struct {
	mu   sync.Mutex
	call *snapshotCall
}

type snapshotCall struct {
	done chan struct{}
	snap *stream.Snapshot
	err  error
}

// A snapshot older than this many events or bytes is taken anew: replaying more than that is slower than asking.
const (
	staleEvents = 256
	staleBytes  = 256 << 10
)

// snapshot gives a snapshot that the feed continues: the last one while it is fresh, else one that is shared by all who wait.
// Any moment will do, because the feed holds every event since the topology was attached.
func (b *Bus) snapshot(ctx context.Context, t *topic, graph bool) (*stream.Snapshot, error) {
	slot := &t.snaps[0]
	if graph {
		slot = &t.snaps[1]
	}
	slot.mu.Lock()
	if !graph {
		if s := t.feed.Document(staleEvents, staleBytes); s != nil {
			slot.mu.Unlock()
			return s, nil
		}
	}
	call := slot.call
	if call == nil {
		call = &snapshotCall{done: make(chan struct{})}
		slot.call = call
		b.spawn(func(ctx context.Context) { b.takeSnapshot(ctx, t, slot, call, graph) })
	}
	slot.mu.Unlock()
	select {
	case <-call.done:
		return call.snap.Retain(), call.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// takeSnapshot ends within AttachWait, also when nobody waits any more.
func (b *Bus) takeSnapshot(ctx context.Context, t *topic, slot *snapshotSlot, call *snapshotCall, graph bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	for try := 0; ; try++ {
		call.snap, call.err = b.readSnapshot(ctx, t.id, graph)
		if call.err == nil || call.err == stream.ErrNotFound || !wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, time.Second)) { //nolint:errorlint // the sentinel itself
			break
		}
	}
	slot.mu.Lock()
	slot.call = nil
	if call.err == nil && !graph {
		t.feed.SetDocument(call.snap)
	}
	slot.mu.Unlock()
	close(call.done)
}

func (b *Bus) release(t *topic) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releaseLocked(t)
}

func (b *Bus) releaseLocked(t *topic) {
	if t.clients--; t.clients == 0 {
		t.idle = time.Now()
	}
}

// drop takes a topic out of service: its feed has ended, and the next request attaches anew.
func (b *Bus) drop(t *topic, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropLocked(t, cause)
}

func (b *Bus) dropLocked(t *topic, cause error) {
	t.feed.Close(cause)
	if b.topics[t.id] == t {
		delete(b.topics, t.id)
		b.unwanted(t.id, t.listening)
	}
	b.pager.forget(t.id)
}

// reset throws a feed away whose content the database does not confirm; its clients attach again and get a snapshot.
func (b *Bus) reset(t *topic, why string) {
	b.log.Warn("feed thrown away: its clients get a snapshot", "topology", t.id, "last", t.feed.Last(), "why", why)
	b.drop(t, stream.ErrReset)
}

// lingerLoop closes the feeds whose last client left a while ago.
func (b *Bus) lingerLoop(ctx context.Context) {
	every := time.NewTicker(max(b.cfg.Linger/8, 10*time.Millisecond))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-every.C:
			b.mu.Lock()
			dropped := false
			for _, t := range b.topics {
				if t.clients == 0 && now.Sub(t.idle) >= b.cfg.Linger {
					b.dropLocked(t, stream.ErrClosed)
					dropped = true
				}
			}
			b.mu.Unlock()
			if dropped {
				b.wait.interrupt()
			}
		}
	}
}

func (b *Bus) attached() []*topic {
	b.mu.Lock()
	defer b.mu.Unlock()
	topics := make([]*topic, 0, len(b.topics))
	for _, t := range b.topics {
		topics = append(topics, t)
	}
	return topics
}

func (b *Bus) topic(id stream.TopologyID) *topic {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.topics[id]
}
