package wal

import (
	"context"
	"sync"

	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// The WAL may tell of a commit before any statement can see it: PostgreSQL flushes a commit, waits for a synchronous
// standby, however long that takes, and only then shows it. Such an event is in doubt. It is visible when a
// pg_snapshot that was taken after it was streamed sees its transaction; whoever was told of it is then told so. So
// none is lost: a feed that was there at that moment is compared, and the catch-up of a topology that is attached
// later begins later, and sees it.

// doubt keeps the newest event in doubt of each topology, and the transactions that may have been flushed before the
// stream began and could not be seen by the reads after it.
type doubt struct {
	some wait.Signal // there may be something to look at

	mu     sync.Mutex
	round  uint64 // of looks at the database; counts up
	newest map[stream.TopologyID]inDoubt
	before []uint32 // transactions that ran when the stream began
}

// An inDoubt is an event and the round in which it was streamed: a pg_snapshot of that round may have been taken
// before.
type inDoubt struct {
	event source.Event
	round uint64
	told  bool // the sink has been told of it; before, telling that it is visible would have it read for nothing
}

func newDoubt() doubt {
	return doubt{some: wait.NewSignal(), newest: map[stream.TopologyID]inDoubt{}}
}

func (d *doubt) add(e source.Event) {
	d.mu.Lock()
	d.newest[e.Topology] = inDoubt{event: e, round: d.round}
	d.mu.Unlock()
	d.some.Set()
}

// told records that the sink has been told of an event.
func (d *doubt) told(e source.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if newest, ok := d.newest[e.Topology]; ok && newest.event.Seq == e.Seq {
		newest.told = true
		d.newest[e.Topology] = newest
	}
}

// watch begins a stream.
func (d *doubt) watch(xids []uint32) {
	d.mu.Lock()
	d.before = append(d.before[:0], xids...)
	d.mu.Unlock()
	d.some.Set()
}

func (d *doubt) covers(id stream.TopologyID, n stream.Seq) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.newest[id]
	return ok && n <= e.event.Seq && n.Epoch() == e.event.Seq.Epoch()
}

// resolve takes out the events that v sees, but for those of this round. ended tells whether a transaction of before
// the stream has ended since the last call, left whether there is more to look at.
func (d *doubt) resolve(v Visibility) (visible []source.Event, ended, left bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, e := range d.newest {
		if e.told && e.round < d.round && v.Sees(e.event.XID) {
			visible = append(visible, e.event)
			delete(d.newest, id)
		}
	}
	still := d.before[:0]
	for _, xid := range d.before {
		if v.Sees(xid) {
			ended = true
		} else {
			still = append(still, xid)
		}
	}
	d.before = still
	return visible, ended, len(d.newest)+len(d.before) > 0
}

// next begins a round: a pg_snapshot that is taken from now on was taken after everything of the rounds before.
func (d *doubt) next() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.round++
}

// watchDoubt tells of events that have become visible, while there are any in doubt.
func (s *Source) watchDoubt(ctx context.Context, sink source.Sink) {
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.doubt.some:
		}
		if !s.cfg.Check.Pause(ctx, try) {
			return
		}
		s.doubt.next()
		v, err := ReadVisibility(ctx, s.cfg.Pool)
		if err != nil {
			s.cfg.Logger.Debug("cannot ask what is visible; asking again", "error", err)
			s.doubt.some.Set()
			try++
			continue
		}
		visible, ended, left := s.doubt.resolve(v)
		for _, e := range visible {
			sink.Visible(e)
		}
		if ended {
			sink.Subscribed(nil, stream.ReadReconnect)
		}
		try++
		if len(visible) > 0 || !left {
			try = 0
		}
		if left {
			s.doubt.some.Set()
		}
	}
}
