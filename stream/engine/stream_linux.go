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
	errSlow     = errors.New("the client did not take in time what it was sent")
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

// A Stream is a client of a shard, which alone uses all but shard. Times are the engine's.
type Stream struct {
	shard   *shard
	machine delivery.Machine
	owner   Owner

	fd        int
	slot      int32
	phase     phase
	blocked   bool // the socket is full: nothing is written before it says that it is not
	follows   bool // it waits for its feed
	due       bool // it is in the shard's list of those that have something to do
	discarded int

	head   []byte // of HTTP, until it is written
	rest   []byte // of what is partly written
	pinned []byte // the whole frame, where rest is a part of one

	audience *audience // nil: it follows no feed
	index    int       // in audience.streams

	place     place
	silentAt  time.Duration // nothing was written for so long that it gets a comment, or tries again
	blockedAt time.Duration // what is partly written must be written then
	expires   time.Duration // the token
	cutAt     time.Duration // what is blocked ends then, whatever it is
	cancel    context.CancelFunc
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
	return min(c.silentAt, c.expires)
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
		s.engine.cfg.Stats.SlowCloses.Add(1)
		s.fail(c, errSlow)
		return
	default:
		c.silentAt = s.now + time.Second // until it is known better
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
		if cursor := c.machine.Cursor(); cursor != nil && c.audience == nil {
			s.join(c, cursor.Feed()) // before it looks: what comes between is told
		}
		c.follows = false
		switch step := c.machine.Next(s.batch); step.Do {
		case delivery.Write:
			if !s.write(c, step) {
				return
			}
			if step.Bytes == nil && s.batch.All {
				c.follows = true // what came since is told
				return
			}
			if s.spent() {
				s.later(c)
				return
			}
		case delivery.Wait:
			c.follows = step.Follows
			c.silentAt = s.now + step.Wait
			s.arm(c)
			return
		case delivery.Read:
			s.read(c)
		case delivery.Attach:
			s.part(c)
			s.attach(c)
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
	if c.head != nil {
		data, c.head = append(c.head, data...), nil
	}
	n, err := write(c.fd, data)
	s.bytes -= n
	switch {
	case err != nil:
		s.fail(c, err)
		return false
	case step.Bytes == nil:
		s.wrote(c, n)
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
func (s *shard) wrote(c *Stream, n int) {
	s.engine.cfg.Stats.FrameBytes.Add(uint64(n))
	for i, fr := range s.batch.Frames {
		if n >= len(fr.Bytes) {
			n -= len(fr.Bytes)
			continue
		}
		s.engine.cfg.Stats.Frames.Add(uint64(i))
		if n > 0 {
			c.rest, c.pinned = fr.Bytes[n:], fr.Bytes
			c.audience.feed.Pin(fr.Bytes)
			i++
		}
		c.machine.Cursor().GiveBack(s.batch, i)
		s.batch.Reset() // what was given back is nobody's to share
		return
	}
	s.engine.cfg.Stats.Frames.Add(uint64(len(s.batch.Frames)))
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
		if err != nil {
			s.fail(c, err)
			return
		}
		if c.rest = c.rest[n:]; c.pinned != nil {
			s.engine.cfg.Stats.FrameBytes.Add(uint64(n))
		}
		if len(c.rest) > 0 {
			return
		}
		if c.pinned != nil {
			s.engine.cfg.Stats.Frames.Add(1)
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
		c.audience.feed.Unpin(c.pinned)
	}
	c.rest, c.pinned = nil, nil
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

// read reads a page of the journal elsewhere.
func (s *shard) read(c *Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	cursor := c.machine.Cursor()
	c.cancel = cancel
	s.under++
	s.engine.reads.do(func() {
		err := cursor.Read(ctx)
		s.post(message{kind: hasRead, stream: c, err: err})
	})
}

// attach asks for another subscription elsewhere.
func (s *shard) attach(c *Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	req := c.machine.Request()
	c.cancel = cancel
	s.under++
	s.engine.attaches.do(func() {
		var sub *stream.Subscription
		err := context.Cause(ctx)
		if err == nil {
			sub, err = s.engine.cfg.Attach(ctx, req)
		}
		s.post(message{kind: attached, stream: c, err: err, sub: sub})
	})
}

// returned takes in what came of read or attach.
func (s *shard) returned(c *Stream, msg message) {
	s.under--
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	if msg.kind == hasRead {
		c.machine.HasRead(msg.err)
	} else {
		c.machine.Attached(msg.sub, msg.err)
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
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	s.unpin(c)
	s.part(c)
	c.head = nil
	c.machine.Fail(why)
	c.phase = linger
	c.owner.Ended()
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
