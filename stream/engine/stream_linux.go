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

// lingering is how long a client may take to hang up once its stream is over. The socket stays open for that time:
// closed with something unread in it, it would be reset, and the client would lose the last frame.
const lingering = 500 * time.Millisecond

type phase uint8

const (
	open   phase = iota
	linger       // the stream is over and written; only the socket is left
	gone         // the socket is closed
)

// A Stream is a client of a shard. Once the shard has it, only the shard's goroutine uses its fields, but for the field
// shard, which never changes. Times are the engine's.
type Stream struct {
	shard   *shard
	machine delivery.Machine
	owner   Owner

	fd        int
	slot      int32
	phase     phase
	blocked   bool  // the socket is full: nothing is written until epoll says that it has room
	due       bool  // it is in shard.dues
	discarded int   // bytes that the client sent and nobody wanted
	bytes     int64 // of the body, written

	rest     []byte       // what is left of what is partly written
	pinned   []byte       // the whole frame, where rest is a part of one
	pinnedIn *stream.Feed // the feed that pinned is accounted in

	seats []seat // of its parts
	calls *calls // reads and attaches under way; nil: there are none

	place     place
	retryAt   time.Duration // when a part tries again
	silentAt  time.Duration // when it has been silent for so long that it gets a comment; lingering: when it is closed
	blockedAt time.Duration // when what is partly written must be written
	expires   time.Duration // when the token ends
	cutAt     time.Duration // when it is cut, if it is blocked then
}

// calls are reads and attaches of one stream that are under way on other goroutines.
type calls struct {
	ctx    context.Context //nolint:containedctx // of the calls that it counts
	cancel context.CancelFunc
	n      int
}

// begin writes the head and the opening before the shard has the stream, so that a new client does not wait for the
// shard's turn. Where that fails, the shard finds out why when it writes the rest.
func (c *Stream) begin(head []byte) {
	size := len(head) // the head is no part of the body
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

// nextTime is when a stream must be looked at, if nothing else happens before.
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

// timeout does what is due for a stream whose time in the wheel has come.
func (s *shard) timeout(c *Stream) {
	switch {
	case s.now < c.nextTime(): // its time was put off
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

// arm puts a stream into the wheel at its next time, if it is not there for an earlier one.
func (s *shard) arm(c *Stream) { s.wheel.put(c, c.nextTime()) }

// advance does what there is to do for a stream, until it waits, its socket is full, or the turn's budget is spent.
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

// write writes a step, and tells whether the socket took all of it. Frames of which it took nothing are given back, so
// that a client that does not read holds a part of one frame at most.
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

// wrote counts the frames of the batch that the socket took with n bytes, pins the one that it took a part of, and
// gives the others back.
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

// writable goes on with a stream whose socket was full. blockedAt stays as it is: a client that takes a byte now and
// then has no more time for a frame, or for the document, than others.
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
	// A client that closes its own side has gone, as for net/http: browsers and proxies do so when they end a stream.
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.fail(c, errGone)
		return
	}
	if events&unix.EPOLLOUT != 0 {
		s.writable(c)
	}
}

// startCalls counts n more calls for a stream, until each has returned, and gives their context.
func (s *shard) startCalls(c *Stream, n int) context.Context {
	if c.calls == nil {
		ctx, cancel := context.WithCancel(context.Background())
		c.calls = &calls{ctx: ctx, cancel: cancel}
	}
	c.calls.n += n
	s.underWay += n
	return c.calls.ctx
}

// arrive awaits the parts that somebody has begun to attach.
func (s *shard) arrive(c *Stream, arrivals Arrivals) {
	if arrivals.Left == 0 {
		return
	}
	context.AfterFunc(s.startCalls(c, arrivals.Left), arrivals.Cancel)
	go func() {
		for range arrivals.Left {
			a := <-arrivals.C
			s.post(message{kind: attached, stream: c, part: a.Part, err: a.Err, sub: a.Subscription})
		}
	}()
}

// read reads a page of the journal on another goroutine.
func (s *shard) read(c *Stream, part int) {
	ctx, cursor := s.startCalls(c, 1), c.machine.Cursor(part)
	s.engine.reads.do(c.machine.Request(part).Topology, func() {
		err := cursor.Read(ctx)
		s.post(message{kind: hasRead, stream: c, part: part, err: err})
	})
}

// attach asks for another subscription on another goroutine.
func (s *shard) attach(c *Stream, part int) {
	ctx, req := s.startCalls(c, 1), c.machine.Request(part)
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
	s.underWay--
	if c.calls.n--; c.calls.n == 0 {
		c.calls.cancel()
		c.calls = nil
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
	if c.calls != nil {
		c.calls.cancel()
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

// free closes the socket. Epoll forgets it with its last descriptor; events that it has given already carry the old
// generation, and are dropped by dispatch.
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
