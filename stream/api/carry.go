package api

import (
	"context"
	"sync"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
)

// never is a time that does not come.
const never = 1<<63 - 1

// A driver carries one stream over net/http, in the handler's goroutine. An idle client costs it and one timer.
type driver struct {
	server  *Server
	writer  *frameWriter
	machine *delivery.Machine
	watches []watch // of the machine's parts
	inbox   inbox

	begun    time.Time
	silentAt time.Duration // since begun: when the client gets a comment
	retryAt  time.Duration // since begun: when Machine.Retry is due
}

// carry carries a stream to its end. It returns the error of the write that failed.
func (s *Server) carry(
	ctx context.Context, w *frameWriter, m *delivery.Machine, arrivals engine.Arrivals,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the reads and attaches that are under way
	d := s.newDriver(w, m)
	defer d.leave()
	d.arrive(ctx, arrivals)
	return d.run(ctx)
}

func (s *Server) newDriver(w *frameWriter, m *delivery.Machine) *driver {
	d := &driver{
		server: s, writer: w, machine: m, watches: make([]watch, m.Parts()),
		inbox: inbox{wake: make(chan struct{}, 1)}, begun: time.Now(), silentAt: m.Keepalive(), retryAt: never,
	}
	for part := range d.watches {
		d.watch(part)
	}
	return d
}

func (d *driver) run(ctx context.Context) error {
	batch := takeBatch()
	defer func() { giveBatch(batch) }()
	timer := time.NewTimer(d.machine.Keepalive())
	defer timer.Stop()
	for {
		if ctx.Err() != nil { // also while there is always something to send
			d.machine.End(context.Cause(ctx))
		}
		d.takeIn()
		step := d.machine.Next(batch)
		if step.Retry > 0 {
			d.retryAt = min(d.retryAt, d.now()+step.Retry)
		}
		switch step.Do {
		case delivery.Write:
			if err := d.writer.step(step, batch); err != nil {
				d.machine.Fail(err)
				return err
			}
			if step.Bytes == nil {
				d.delivered(batch.Frames)
			}
			d.machine.Wrote()
			d.silentAt = d.now() + d.machine.Keepalive()
		case delivery.Wait:
			giveBatch(batch)
			d.wait(ctx, timer)
			batch = takeBatch()
		case delivery.Read:
			cursor := d.machine.Cursor(step.Part)
			go func() { d.inbox.put(returned{part: step.Part, read: true, err: cursor.Read(ctx)}) }()
		case delivery.Attach:
			d.unwatch(step.Part)
			req := d.machine.Request(step.Part)
			go func() {
				sub, err := d.server.cfg.Bus.Attach(ctx, req)
				d.inbox.put(returned{part: step.Part, sub: sub, err: err})
			}()
		case delivery.Leave:
			d.unwatch(step.Part)
		case delivery.Close:
			return nil
		}
	}
}

// delivered has the machine check and count what was written.
func (d *driver) delivered(frames []stream.Frame) {
	if err := d.machine.Delivered(frames, d.server.cfg.Stats, time.Now()); err != nil {
		d.server.cfg.Logger.Error(err.Error())
	}
}

// wait waits until there may be something to do.
func (d *driver) wait(ctx context.Context, timer *time.Timer) {
	timer.Reset(min(d.silentAt, d.retryAt) - d.now())
	select {
	case <-d.inbox.wake:
	case <-timer.C:
		d.tick()
	case <-ctx.Done():
	}
}

// batches are lent to streams while they write: a stream that waits has none.
var batches = sync.Pool{ //nolint:gochecknoglobals // a pool serves all goroutines
	New: func() any { return stream.NewBatch(delivery.BatchFrames) },
}

func takeBatch() *stream.Batch { return batches.Get().(*stream.Batch) } //nolint:forcetypeassert // New's

func giveBatch(b *stream.Batch) {
	b.Reset()
	batches.Put(b)
}

func (d *driver) now() time.Duration { return time.Since(d.begun) }

// tick tells the machine which of its times have come.
func (d *driver) tick() {
	now := d.now()
	if d.retryAt <= now {
		d.retryAt = never
		d.machine.Retry()
	}
	if d.silentAt <= now {
		d.silentAt = now + d.machine.Keepalive()
		d.machine.Tick()
	}
}

// takeIn passes what is in the inbox to the machine.
func (d *driver) takeIn() {
	changed, came := d.inbox.take(d.watches)
	for _, part := range changed {
		d.machine.Changed(part)
	}
	for _, r := range came {
		if r.read {
			d.machine.HasRead(r.part, r.err)
			continue
		}
		d.machine.Attached(r.part, r.sub, r.err)
		d.watch(r.part)
	}
}

// arrive awaits the parts that somebody has begun to attach.
func (d *driver) arrive(ctx context.Context, arrivals engine.Arrivals) {
	if arrivals.Left == 0 {
		return
	}
	context.AfterFunc(ctx, arrivals.Cancel)
	go func() {
		for range arrivals.Left {
			a := <-arrivals.C
			d.inbox.put(returned{part: a.Part, sub: a.Subscription, err: a.Err})
		}
	}()
}

// leave unwatches all feeds and gives back what is in the inbox. What comes later is given back by put.
func (d *driver) leave() {
	for part := range d.watches {
		d.unwatch(part)
	}
	for _, r := range d.inbox.close() {
		r.sub.GiveBack()
	}
}

// watch watches the feed of a part, if it has one. It comes before the part's first look at the feed, so that no change
// falls between the two.
func (d *driver) watch(part int) {
	cursor := d.machine.Cursor(part)
	if cursor == nil {
		return
	}
	w := &d.watches[part]
	w.inbox, w.part, w.feed = &d.inbox, part, cursor.Feed()
	w.feed.Watch(w)
}

func (d *driver) unwatch(part int) {
	if w := &d.watches[part]; w.feed != nil {
		w.feed.Unwatch(w)
		w.feed = nil
	}
}
