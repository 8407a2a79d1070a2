package wal

import (
	"context"
	"sync"

	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// The WAL may tell of a commit before any statement can see it: PostgreSQL flushes a commit, waits for a synchronous
// standby, however long that takes, and only then makes it visible. (Without such a standby the time between is short,
// but it is there.) Until then the event is in doubt. It is visible when a pg_snapshot that was taken after it was
// streamed sees its transaction; Sink.Visible then says so. So no event is lost: at that call a feed that is attached
// is brought up to it, and the catch-up of a topology that is attached later begins after it became visible, and sees
// it.

// doubt keeps the newest event in doubt of each topology, and the transactions that ran when the stream began: they may
// have been flushed before it, and not have been visible to the reads that followed.
type doubt struct {
	some wait.Signal // there may be something in doubt

	mu     sync.Mutex
	round  uint64 // counts up; in each round one pg_snapshot is taken
	newest map[stream.TopologyID]inDoubt
	before []uint32 // the transactions that ran when the stream began and have not ended yet
}

// An inDoubt is an event and the round in which it was streamed. The pg_snapshot of that round may have been taken
// before the event was streamed, and so shows nothing about it.
type inDoubt struct {
	event source.Event
	round uint64
	told  bool // Sink.Event has been called with it: Visible comes after that
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

// watch begins a stream, while these transactions run.
func (d *doubt) watch(xids []uint32) {
	d.mu.Lock()
	d.before = append(d.before[:0], xids...)
	d.mu.Unlock()
	d.some.Set()
}

// covers tells whether the event n is in doubt, or one behind it is.
func (d *doubt) covers(id stream.TopologyID, n stream.Seq) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.newest[id]
	return ok && n <= e.event.Seq && n.Epoch() == e.event.Seq.Epoch()
}

// resolve takes out the events that v sees, but for those of the present round. ended tells whether a transaction that
// ran when the stream began has ended since the last call; left, whether anything is still in doubt.
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

// watchDoubt asks what is visible as long as something is in doubt, and tells the sink.
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
