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
	silentAt time.Duration // of begun, as what follows
	retryAt  time.Duration
}

// carry carries a stream to its end. It returns the error of the write that failed.
func (s *Server) carry(
	ctx context.Context, w *frameWriter, m *delivery.Machine, arrivals engine.Arrivals,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // of reads and attaches
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

// delivered has the machine look at what was written.
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

// batches are lent to streams for as long as they write: one that waits has none.
var batches = sync.Pool{ //nolint:gochecknoglobals // as above
	New: func() any { return stream.NewBatch(delivery.BatchFrames) },
}

func takeBatch() *stream.Batch { return batches.Get().(*stream.Batch) } //nolint:forcetypeassert // New's

func giveBatch(b *stream.Batch) {
	b.Reset()
	batches.Put(b)
}

func (d *driver) now() time.Duration { return time.Since(d.begun) }

// tick tells the machine that a time has come.
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

// takeIn tells the machine what others have said.
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

// leave lets go of what is left. What comes later is given back by whoever brings it.
func (d *driver) leave() {
	for part := range d.watches {
		d.unwatch(part)
	}
	for _, r := range d.inbox.close() {
		r.sub.GiveBack()
	}
}

// A watch tells the inbox of changes of a part's feed; of none where feed is nil.
type watch struct {
	inbox *inbox
	part  int
	feed  *stream.Feed
	told  bool // of the inbox's lock
}

// Changed implements stream.Watcher.
func (w *watch) Changed() { w.inbox.changed(w) }

// watch begins to watch the feed that a part has, if it has one. The part looks at it after that.
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

// An inbox is what others say to a stream's goroutine.
type inbox struct {
	wake chan struct{} // one place

	mu     sync.Mutex // held for a moment; within it nothing else is locked
	closed bool
	parts  []int // whose feeds have changed
	came   []returned
	spare  []int
}

// returned is what came of a read or an attach.
type returned struct {
	part int
	read bool
	sub  *stream.Subscription
	err  error
}

func (b *inbox) changed(w *watch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.told {
		return
	}
	w.told = true
	b.parts = append(b.parts, w.part)
	b.rouse()
}

func (b *inbox) put(r returned) {
	if !b.keeps(r) {
		r.sub.GiveBack()
	}
}

func (b *inbox) keeps(r returned) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.came = append(b.came, r)
	b.rouse()
	return true
}

// rouse wakes the stream's goroutine. The caller holds mu.
func (b *inbox) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take takes all out. The parts are valid until the next call.
func (b *inbox) take(watches []watch) (changed []int, came []returned) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, part := range b.parts {
		watches[part].told = false
	}
	changed, came = b.parts, b.came
	b.parts, b.spare, b.came = b.spare[:0], b.parts, nil
	return changed, came
}

// close keeps nothing any more, and gives what nobody took.
func (b *inbox) close() []returned {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return b.came
}
