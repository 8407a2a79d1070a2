package engine

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
)

// What a turn may do before a shard looks again at who has come, gone, or has room.
const (
	turnStreams  = 512
	turnBytes    = 4 << 20
	turnMessages = 256
	turnEvents   = 128
)

type kind uint8

const (
	added    kind = iota // the stream is new
	ended                // somebody has called End
	hasRead              // a read of the journal has returned
	attached             // an attach has returned
)

// A message tells a shard of one of its streams.
type message struct {
	kind   kind
	part   int // of the stream
	stream *Stream
	err    error         // of ended: why; else what the call returned
	at     time.Duration // of ended: Stream.cutAt
	sub    *stream.Subscription

	arrivals Arrivals // of added
}

// A slot is a place in shard.slots, whose index is the number by which epoll names a stream. It is used again for
// another stream, with another generation, so that an event of a descriptor that was closed meanwhile is not taken for
// one of its successor.
type slot struct {
	stream     *Stream
	generation int32
}

// A member is a part of a stream, of the topology whose feed it is.
type member struct {
	stream *Stream
	part   int
}

// An audience are the streams' parts that follow one feed on one shard. The feed tells it of changes, and a walk then
// visits each member once, from the last to the first.
type audience struct {
	shard   *shard
	feed    *stream.Feed
	members []member
	unseen  int    // how many members, the first ones, the walk under way has still to visit; 0: there is no walk
	version uint64 // changes when the walk began

	changes atomic.Uint64 // of the feed: counts up
	queued  atomic.Bool   // it is in shard.called or shard.walks
}

// Changed implements stream.Watcher.
func (a *audience) Changed() {
	a.changes.Add(1)
	a.queue()
}

func (a *audience) queue() {
	if !a.queued.Swap(true) {
		a.shard.call(a)
	}
}

// A shard is a goroutine with its streams, and one that waits for their sockets. Neither is there while it has no
// streams.
type shard struct {
	engine *Engine
	epoll  *os.File
	fd     int // of epoll, which is open as long as the shard is there
	raw    syscall.RawConn
	wake   chan struct{} // one place
	events chan []unix.EpollEvent
	taken  chan struct{} // answers each of events: the buffer may be used again

	mu      sync.Mutex // held for a moment; within it nothing else is locked
	running bool
	inbox   []message
	called  []*audience // whose feeds have changed

	// Of the goroutine alone.
	now       time.Duration
	wheel     wheel
	slots     []slot
	vacant    []int32
	audiences map[*stream.Feed]*audience
	streams   int           // with those that linger
	underWay  int           // reads and attaches
	messages  []message     // taken from inbox, to be handled
	walks     []*audience   // taken from called, to be visited
	dues      []*Stream     // that have something to do by themselves
	batch     *stream.Batch // what is being written
	left      int           // streams that this turn may still look at
	bytes     int           // that this turn may still write
	scratch   [4096]byte    // what clients send is read into it and dropped
	onTime    func(*Stream) // the method timeout: as a value made once, because each making allocates
}

func newShard(e *Engine) (*shard, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os.NewFile gives it no place in Go's poller
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	s := &shard{
		engine: e, epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd, wake: make(chan struct{}, 1),
		events: make(chan []unix.EpollEvent), taken: make(chan struct{}),
		audiences: map[*stream.Feed]*audience{}, batch: stream.NewBatch(delivery.BatchFrames),
	}
	s.onTime = s.timeout
	if s.raw, err = s.epoll.SyscallConn(); err == nil {
		err = s.epoll.SetReadDeadline(time.Time{}) // which only a file in Go's poller has
	}
	if err != nil {
		_ = s.epoll.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return s, nil
}

// post gives the shard a message.
func (s *shard) post(msg message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inbox = append(s.inbox, msg)
	s.rouse()
}

// call tells that an audience has something to take. The caller holds the lock of its feed.
func (s *shard) call(a *audience) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called = append(s.called, a)
	s.rouse()
}

// rouse wakes the shard's goroutine, or starts it. The caller holds mu.
func (s *shard) rouse() {
	if !s.running {
		s.running = true
		go s.run()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run works until there are no streams.
func (s *shard) run() {
	polled := make(chan struct{})
	go func() {
		defer close(polled)
		s.poll()
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		busy := s.turn()
		if busy {
			select {
			case events := <-s.events:
				s.take(events)
			default:
			}
			continue
		}
		if s.streams+s.underWay == 0 {
			s.stopPolling(polled)
			if s.stopIfIdle() {
				return
			}
			polled = make(chan struct{})
			go func() {
				defer close(polled)
				s.poll()
			}()
			continue
		}
		timer.Reset(max(s.wheel.next()-s.engine.now(), 0))
		select {
		case events := <-s.events:
			s.take(events)
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// stopPolling ends the goroutine that waits for sockets, of which there are none left, and returns when it has ended.
func (s *shard) stopPolling(polled <-chan struct{}) {
	_ = s.epoll.SetReadDeadline(time.Unix(1, 0)) // it has one: newShard
	for {
		select {
		case <-s.events:
			s.taken <- struct{}{}
		case <-polled:
			_ = s.epoll.SetReadDeadline(time.Time{}) // as above
			return
		}
	}
}

// stopIfIdle records that the shard's goroutine ends, unless there is something to do again. It tells whether it ends.
func (s *shard) stopIfIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = len(s.inbox)+len(s.called) > 0
	if !s.running {
		s.messages, s.walks, s.dues = nil, nil, nil
	}
	return !s.running
}

// poll waits for sockets in Go's poller, on the descriptor of epoll itself: a blocking wait would keep a thread, and
// with it a processor from the other goroutines until the scheduler notices.
func (s *shard) poll() {
	var buf [turnEvents]unix.EpollEvent
	for {
		var n int
		if err := s.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), buf[:], 0)
			return n != 0 // with an error, too: it was a signal
		}); err != nil {
			return // its deadline: stopPolling
		}
		if n > 0 {
			s.events <- buf[:n]
			<-s.taken
		}
	}
}

// take handles epoll's events, and has poll wait for more.
func (s *shard) take(events []unix.EpollEvent) {
	s.now = s.engine.now()
	s.dispatch(events)
	s.taken <- struct{}{}
}

// dispatch hands each event to its stream, unless the slot is another one's by now.
func (s *shard) dispatch(events []unix.EpollEvent) {
	for _, ev := range events {
		if slot := s.slots[ev.Fd]; slot.stream != nil && slot.generation == ev.Pad {
			s.happened(slot.stream, ev.Events)
		}
	}
}

// turn does a part of what there is to do, and tells whether there is more.
func (s *shard) turn() (more bool) {
	s.now, s.left, s.bytes = s.engine.now(), turnStreams/2, turnBytes/2
	s.collect()
	n := min(len(s.messages), turnMessages)
	for i, msg := range s.messages[:n] {
		s.messages[i] = message{}
		s.handle(msg)
	}
	s.messages = s.messages[n:]
	s.wheel.turn(s.now, s.onTime)
	s.walk()
	s.left, s.bytes = s.left+turnStreams/2, s.bytes+turnBytes/2 // half of a turn is for dues: catch-up and documents
	s.work()
	s.collect() // with a walk that was not finished above
	s.walk()
	return len(s.messages)+len(s.walks)+len(s.dues) > 0
}

// collect takes what others have left for the shard.
func (s *shard) collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) == 0 {
		s.messages, s.inbox = s.inbox, nil // the slice is not kept: it may once have held very many
	}
	s.walks = append(s.walks, s.called...)
	clear(s.called)
	s.called = s.called[:0]
}

func (s *shard) handle(msg message) {
	switch msg.kind {
	case added:
		s.arrive(msg.stream, msg.arrivals)
		s.add(msg.stream)
	case ended:
		s.end(msg.stream, msg.err, msg.at)
	case hasRead, attached:
		s.returned(msg.stream, msg)
	}
}

// add gives a stream its slot, and its socket to epoll, once and for all.
func (s *shard) add(c *Stream) {
	s.streams++
	if n := len(s.vacant); n > 0 {
		c.slot, s.vacant = s.vacant[n-1], s.vacant[:n-1]
	} else {
		c.slot = int32(len(s.slots))
		s.slots = append(s.slots, slot{})
	}
	s.slots[c.slot].stream = c
	c.silentAt = s.now
	if err := unix.EpollCtl(s.fd, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     c.slot, Pad: s.slots[c.slot].generation,
	}); err != nil {
		s.engine.cfg.Logger.Error("a stream could not begin", "topology", c.machine.Only(), "error", err)
		if !c.blocked { // else it has a part of something
			_, _ = write(c.fd, delivery.TurnAway(c.machine.Only(), delivery.NoPlace, delivery.CrowdedRetry)) // if it can
		}
		s.fail(c, err)
		return
	}
	c.silentAt, c.blockedAt = s.now+c.machine.Keepalive(), s.now+s.engine.cfg.WriteTimeout
	for part := range c.seats {
		s.join(c, part)
	}
	s.arm(c)
	s.later(c)
}

// later puts a stream into dues, so that work looks at it.
func (s *shard) later(c *Stream) {
	if !c.due {
		c.due = true
		s.dues = append(s.dues, c)
	}
}

// spent tells whether the turn's budget is used up.
func (s *shard) spent() bool { return s.left <= 0 || s.bytes <= 0 }

// work advances the streams in dues, as far as the turn's budget goes.
func (s *shard) work() {
	n := 0
	for ; n < len(s.dues) && !s.spent(); n++ {
		c := s.dues[n]
		s.dues[n], c.due = nil, false
		s.left--
		s.batch.Reset()
		s.advance(c)
	}
	s.dues = dropFirst(s.dues, n)
}

// walk visits the audiences of the feeds that have changed, as far as the turn's budget goes.
func (s *shard) walk() {
	n := 0
	for ; n < len(s.walks) && !s.spent(); n++ {
		a := s.walks[n]
		s.walks[n] = nil
		s.visit(a)
	}
	s.walks = dropFirst(s.walks, n)
}

// dropFirst takes the first n out of a list, whose memory is kept unless it was a long one.
func dropFirst[T any](list []*T, n int) []*T {
	if n == len(list) && n > turnStreams {
		return nil
	}
	left := copy(list, list[n:])
	clear(list[left:])
	return list[:left]
}

// visit writes what has come to the members of one audience. A walk that the turn's budget does not suffice for goes on
// in the next turn.
func (s *shard) visit(a *audience) {
	a.queued.Store(false)
	if a.unseen == 0 { // a new walk
		a.unseen, a.version = len(a.members), a.changes.Load()
	}
	s.batch.Reset()
	for a.unseen = min(a.unseen, len(a.members)); a.unseen > 0 && !s.spent(); {
		a.unseen--
		m := a.members[a.unseen]
		if c := m.stream; c.machine.Changed(m.part) && !c.due && !c.blocked {
			s.left--
			s.advance(c)
		}
		a.unseen = min(a.unseen, len(a.members)) // some may have left
	}
	s.batch.Reset()
	if len(a.members) > 0 && (a.unseen > 0 || a.version != a.changes.Load()) {
		a.queue()
	}
}

// A seat is a part's place in an audience.
type seat struct {
	audience *audience // nil: it has none
	index    int       // in members
}

// join makes a part a member of its feed's audience, if it has a feed. It comes before the part's first look at the
// feed, so that no change falls between the two.
func (s *shard) join(c *Stream, part int) {
	cursor := c.machine.Cursor(part)
	if cursor == nil {
		return
	}
	feed := cursor.Feed()
	a := s.audiences[feed]
	if a == nil {
		a = &audience{shard: s, feed: feed}
		s.audiences[feed] = a
		feed.Watch(a)
	}
	c.seats[part] = seat{a, len(a.members)}
	a.members = append(a.members, member{c, part})
}

// quit takes a part out of its audience. The last member gets its index. A walk, which comes from the end, passes over
// nobody: it has visited that member already, or will visit it there.
func (s *shard) quit(c *Stream, part int) {
	a, i := c.seats[part].audience, c.seats[part].index
	if a == nil {
		return
	}
	c.seats[part] = seat{}
	last := len(a.members) - 1
	if m := a.members[last]; i != last {
		a.members[i] = m
		m.stream.seats[m.part].index = i
	}
	a.members[last] = member{}
	a.members = a.members[:last]
	if last == 0 {
		delete(s.audiences, a.feed)
		a.feed.Unwatch(a)
	}
}
