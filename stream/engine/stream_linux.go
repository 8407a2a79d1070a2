package engine

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
)

var (
	errGone     = errors.New("the client has gone")
	errUnwanted = errors.New("the client sends what nobody wants")
)

// lingering is how long a client may take to hang up that has been told to: what it sends meanwhile must not make the
// kernel take back the goodbye.
const lingering = 500 * time.Millisecond

type phase uint8

const (
	open   phase = iota
	linger       // all is written, and the stream is over; only the socket is left
	gone
)

// A Stream is a client of a shard, which alone uses all but shard, once it has it. Times are the engine's.
type Stream struct {
	shard   *shard
	machine delivery.Machine
	owner   Owner

	fd        int
	slot      int32
	phase     phase
	blocked   bool // the socket is full: nothing is written before it says that it is not
	due       bool // it is in the shard's list of those that have something to do
	discarded int
	bytes     int64 // written

	rest     []byte // of what is partly written
	pinned   []byte // the whole frame, where rest is a part of one
	pinnedIn *stream.Feed

	seats  []seat     // of its parts
	abroad *elsewhere // reads and attaches under way; nil: there are none

	place     place
	retryAt   time.Duration // a part tries again
	silentAt  time.Duration // nothing was written for so long that it gets a comment, or tries again
	blockedAt time.Duration // what is partly written must be written then
	expires   time.Duration // the token
	cutAt     time.Duration // what is blocked ends then, whatever it is
}

// elsewhere are reads and attaches that are under way on other goroutines.
type elsewhere struct {
	ctx    context.Context //nolint:containedctx // of what it counts
	cancel context.CancelFunc
	n      int
}

// begin writes the head and what every stream begins with, before the shard has it: who comes does not wait for the
// shard's turn. Where it cannot be written, the shard learns why.
func (c *Stream) begin(head []byte) {
	size := len(head) // which is no part of the body
	head = append(head, c.machine.Next(nil).Bytes...)
	n, err := write(c.fd, head)
	c.bytes += int64(n - size)
	if err == nil && n == len(head) {
		c.machine.Wrote()
		return
	}
	c.rest, c.blocked = head[n:], true
}

// End ends the stream in order, with the reason; what is blocked is cut at by, unless that is zero. Any goroutine may
// call it at any time, again and again.
func (c *Stream) End(why error, by time.Time) {
	at := never
	if !by.IsZero() {
		at = c.shard.engine.now() + time.Until(by)
	}
	c.shard.post(message{kind: ended, stream: c, err: why, at: at})
}

// nextTime is when there is something to do for it if nothing else happens.
func (c *Stream) nextTime() time.Duration {
	switch {
	case c.phase == linger:
		return c.silentAt
	case c.blocked:
		return min(c.blockedAt, c.expires, c.cutAt)
	}
	return min(c.silentAt, c.retryAt, c.expires)
}

// end is End, on the shard.
func (s *shard) end(c *Stream, why error, at time.Duration) {
	if c.phase != open {
		return
	}
	c.machine.End(why)
	c.cutAt = min(c.cutAt, at)
	s.arm(c)
	s.later(c)
}

// told has come to a client's time.
func (s *shard) told(c *Stream) {
	switch {
	case s.now < c.nextTime(): // it was put off
	case c.phase == linger:
		s.free(c)
		return
	case c.expires <= s.now:
		c.expires = never
		s.end(c, delivery.ErrExpired, s.now+delivery.LastWords)
		return
	case c.blocked:
		s.fail(c, delivery.ErrSlow)
		return
	case c.retryAt <= s.now:
		c.retryAt = never
		c.machine.Retry()
		s.later(c)
	default:
		c.silentAt = s.now + c.machine.Keepalive()
		c.machine.Tick()
		s.later(c)
	}
	s.arm(c)
}

// arm puts the client into the wheel, or puts it forward.
func (s *shard) arm(c *Stream) { s.wheel.put(c, c.nextTime()) }

// advance does what there is to do for a client, until it waits, its socket is full, or the turn's budget is spent.
func (s *shard) advance(c *Stream) {
	for c.phase == open && !c.blocked {
		step := c.machine.Next(s.batch)
		if step.Retry > 0 {
			c.retryAt = min(c.retryAt, s.now+step.Retry)
			s.arm(c)
		}
		switch step.Do {
		case delivery.Write:
			if !s.write(c, step) {
				return
			}
			if s.spent() {
				s.later(c)
				return
			}
		case delivery.Wait:
			return
		case delivery.Read:
			s.read(c, step.Part)
		case delivery.Attach:
			s.quit(c, step.Part)
			s.attach(c, step.Part)
		case delivery.Leave:
			s.quit(c, step.Part)
		case delivery.Close:
			s.over(c)
			return
		}
	}
}

// write does a step, and tells whether all of it was written. Of frames, those that the socket did not begin with go
// back: a client that does not read holds a part of one frame at most.
func (s *shard) write(c *Stream, step delivery.Step) bool {
	data := step.Bytes
	if data == nil {
		data = s.batch.Bytes()
	}
	n, err := write(c.fd, data)
	s.bytes -= n
	c.bytes += int64(n)
	switch {
	case err != nil:
		s.fail(c, err)
		return false
	case step.Bytes == nil:
		s.wrote(c, step.Part, n)
	case n < len(data):
		c.rest = data[n:]
	}
	if n < len(data) {
		s.block(c)
		return false
	}
	c.machine.Wrote()
	c.silentAt = s.now + c.machine.Keepalive()
	s.arm(c)
	return true
}

// wrote counts the frames of the batch that n bytes are, and gives back those that were not begun.
func (s *shard) wrote(c *Stream, part, n int) {
	s.engine.cfg.Stats.FrameBytes.Add(float64(n))
	for i, fr := range s.batch.Frames {
		if n >= len(fr.Bytes) {
			n -= len(fr.Bytes)
			continue
		}
		s.engine.cfg.Stats.Frames.Add(float64(i))
		if n > 0 {
			c.rest, c.pinned, c.pinnedIn = fr.Bytes[n:], fr.Bytes, c.machine.Cursor(part).Feed()
			c.pinnedIn.Pin(fr.Bytes)
			i++
		}
		s.delivered(c, s.batch.Frames[:i])
		c.machine.GiveBack(s.batch, i)
		return
	}
	s.engine.cfg.Stats.Frames.Add(float64(len(s.batch.Frames)))
	s.delivered(c, s.batch.Frames)
}

// delivered has the machine look at what the socket took.
func (s *shard) delivered(c *Stream, frames []stream.Frame) {
	if err := c.machine.Delivered(frames, s.engine.cfg.Stats, time.Now()); err != nil {
		s.engine.cfg.Logger.Error(err.Error())
	}
}

// block waits until the socket has room.
func (s *shard) block(c *Stream) {
	c.blocked = true
	c.blockedAt = s.now + s.engine.cfg.WriteTimeout
	s.arm(c)
}

// writable goes on where the socket was full. The time for a frame, or for the document, does not begin anew with each
// byte that the client takes.
func (s *shard) writable(c *Stream) {
	if c.phase != open || !c.blocked {
		return
	}
	if len(c.rest) > 0 {
		n, err := write(c.fd, c.rest)
		s.bytes -= n
		c.bytes += int64(n)
		if err != nil {
			s.fail(c, err)
			return
		}
		if c.rest = c.rest[n:]; c.pinned != nil {
			s.engine.cfg.Stats.FrameBytes.Add(float64(n))
		}
		if len(c.rest) > 0 {
			return
		}
		if c.pinned != nil {
			s.engine.cfg.Stats.Frames.Inc()
		}
		s.unpin(c)
		c.machine.Wrote()
	}
	c.blocked = false
	c.silentAt = s.now + c.machine.Keepalive()
	s.arm(c)
	s.later(c)
}

func (s *shard) unpin(c *Stream) {
	if c.pinned != nil {
		c.pinnedIn.Unpin(c.pinned)
	}
	c.rest, c.pinned, c.pinnedIn = nil, nil, nil
}

// happened takes in what epoll says of a client.
func (s *shard) happened(c *Stream, events uint32) {
	if events&unix.EPOLLIN != 0 {
		if err := discard(c.fd, s.scratch[:], &c.discarded); err != nil {
			s.fail(c, err)
			return
		}
	}
	// Who hangs up half has gone, as for net/http: browsers and proxies do so when they end a stream.
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.fail(c, errGone)
		return
	}
	if events&unix.EPOLLOUT != 0 {
		s.writable(c)
	}
}

// begin counts what goes on elsewhere for a client, until returned.
func (s *shard) begin(c *Stream, n int) context.Context {
	if c.abroad == nil {
		ctx, cancel := context.WithCancel(context.Background())
		c.abroad = &elsewhere{ctx: ctx, cancel: cancel}
	}
	c.abroad.n += n
	s.under += n
	return c.abroad.ctx
}

// arrive awaits the parts that somebody has begun to attach.
func (s *shard) arrive(c *Stream, arrivals Arrivals) {
	if arrivals.Left == 0 {
		return
	}
	context.AfterFunc(s.begin(c, arrivals.Left), arrivals.Cancel)
	go func() {
		for range arrivals.Left {
			a := <-arrivals.C
			s.post(message{kind: attached, stream: c, part: a.Part, err: a.Err, sub: a.Subscription})
		}
	}()
}

// read reads a page of the journal elsewhere.
func (s *shard) read(c *Stream, part int) {
	ctx, cursor := s.begin(c, 1), c.machine.Cursor(part)
	s.engine.reads.do(c.machine.Request(part).Topology, func() {
		err := cursor.Read(ctx)
		s.post(message{kind: hasRead, stream: c, part: part, err: err})
	})
}

// attach asks for another subscription elsewhere.
func (s *shard) attach(c *Stream, part int) {
	ctx, req := s.begin(c, 1), c.machine.Request(part)
	s.engine.attaches.do(req.Topology, func() {
		var sub *stream.Subscription
		err := context.Cause(ctx)
		if err == nil {
			sub, err = s.engine.cfg.Attach(ctx, req)
		}
		s.post(message{kind: attached, stream: c, part: part, err: err, sub: sub})
	})
}

// returned takes in what came of read or attach.
func (s *shard) returned(c *Stream, msg message) {
	s.under--
	if c.abroad.n--; c.abroad.n == 0 {
		c.abroad.cancel()
		c.abroad = nil
	}
	if msg.kind == hasRead {
		c.machine.HasRead(msg.part, msg.err)
	} else {
		c.machine.Attached(msg.part, msg.sub, msg.err)
		s.join(c, msg.part)
	}
	if c.phase == open {
		s.later(c)
	}
}

// fail ends a stream to which nothing can be written any more.
func (s *shard) fail(c *Stream, why error) {
	if c.phase == open {
		s.leave(c, why)
	}
	s.free(c)
}

// over ends a stream whose last byte is written.
func (s *shard) over(c *Stream) {
	s.leave(c, nil)
	if unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		s.free(c)
		return
	}
	c.phase, c.silentAt = linger, s.now+lingering
	s.arm(c)
}

// leave lets go of all but the socket.
func (s *shard) leave(c *Stream, why error) {
	if c.abroad != nil {
		c.abroad.cancel()
	}
	s.unpin(c)
	for part := range c.seats {
		s.quit(c, part)
	}
	c.machine.Fail(why)
	c.phase = linger
	account := c.machine.Account()
	account.Bytes = max(c.bytes, 0)
	c.owner.Ended(account)
	c.owner = nil
}

// free closes the socket. Epoll forgets it with its last descriptor; what it has told already is of another generation.
func (s *shard) free(c *Stream) {
	if c.phase == gone {
		return
	}
	c.phase = gone
	s.wheel.remove(c)
	_ = unix.Close(c.fd) // what was written is the kernel's
	slot := &s.slots[c.slot]
	slot.stream = nil
	slot.generation++
	s.vacant = append(s.vacant, c.slot)
	s.streams--
}
