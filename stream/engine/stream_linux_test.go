package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

func TestAStreamIsTheHeadTheOpeningAndThenWhatTheFeedHas(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	r.append(10)
	p := r.open(options{})
	r.append(10)
	p.until("id: 2")
	p.stream.End(delivery.ErrDraining, time.Time{})
	p.until("event: unavailable")
	for p.lines.Scan() { // to its end
	}
	p.awaitEnd()
	if p.lines.Err() != nil || metrictest.Value(r.stats.Frames) != 2 {
		t.Errorf("%v, %d frames", p.lines.Err(), metrictest.Value(r.stats.Frames))
	}
}

// The finalizer of a net.Conn that was only forgotten closes a number that another socket may have by then.
func TestTheSocketIsTheEnginesOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	client, server := r.accept()
	p := &peer{TCPConn: client, tb: t, ended: make(chan struct{})}
	raw, err := server.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var its int
	if err := raw.Control(func(fd uintptr) {
		its = int(fd)
		err = unix.SetsockoptInt(its, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1234)
	}); err != nil {
		t.Fatal(err)
	}
	c, err := r.Carry(server, Handover{Machine: r.machine(options{})}, p)
	if err != nil {
		t.Fatal(err)
	}
	defer p.awaitEnd()
	defer func() { _ = client.Close() }() // so that it ends
	if _, err := server.Write(nil); !errors.Is(err, net.ErrClosed) || c.fd == its {
		t.Errorf("the net.Conn is open, as %d, the stream has %d: %v", its, c.fd, err)
	}
	flags, _ := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0)
	closed, _ := unix.FcntlInt(uintptr(c.fd), unix.F_GETFD, 0)
	if flags&unix.O_NONBLOCK == 0 || closed&unix.FD_CLOEXEC == 0 {
		t.Errorf("it may block, or a child may have it: %x %x", flags, closed)
	}
	size, _ := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	timeout, _ := unix.GetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	if size > 2*sendBuffer || timeout != 1234 {
		t.Errorf("SO_SNDBUF %d, TCP_USER_TIMEOUT %d", size, timeout)
	}
}

func TestAConnectionThatIsNoTCPIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	one, other := net.Pipe()
	defer func() { _, _ = one.Close(), other.Close() }() // in memory
	if _, err := r.Carry(one, Handover{Machine: r.machine(options{})}, nil); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// A thread that waits in epoll_wait keeps its processor until the scheduler takes it away.
func TestAnIdleShardBlocksNoThread(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	p := r.open(options{})
	p.until("retry: ")
	var epoll uintptr
	if err := r.shards[0].raw.Control(func(fd uintptr) { epoll = fd }); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		call, err := os.ReadFile("/proc/self/task/" + task.Name() + "/syscall") // proc(5)
		if err != nil {
			continue // it has ended, or this machine does not tell
		}
		var number int
		var first uint64
		if _, err := fmt.Sscanf(string(call), "%d 0x%x", &number, &first); err == nil && first == uint64(epoll) &&
			(number == unix.SYS_EPOLL_PWAIT || number == unix.SYS_EPOLL_WAIT) {
			t.Errorf("thread %s waits: %s", task.Name(), call)
		}
	}
	r.lives(p)
}

func TestWhoHangsUpHalfHasGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	for _, first := range []string{"", "a request that nobody wants"} {
		p := r.open(options{})
		p.until("retry: ")
		if _, err := p.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		if err := p.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.awaitEnd()
	}
}

func TestWhatNobodyWantsIsDiscardedUpToABound(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	for unread, more := range map[int]int{0: unwanted, unwanted: 0, unwanted / 2: unwanted / 2} {
		p := r.open(options{unread: unread, after: r.seq})
		if _, err := p.Write(make([]byte, more)); err != nil {
			t.Fatal(err)
		}
		r.lives(p)
		if _, err := p.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		p.awaitEnd()
	}
}

// stalled opens a stream that nobody reads, and fills its socket.
func (r *rig) stalled(o options) *peer {
	r.tb.Helper()
	client, server := r.accept()
	_ = client.SetReadBuffer(4096) // a small window
	p := &peer{TCPConn: client, tb: r.tb, ended: make(chan struct{})}
	c, err := r.Carry(server, Handover{Machine: r.machine(o), Expires: expiry(o.life)}, p)
	if err != nil {
		r.tb.Fatal(err)
	}
	p.stream = c
	return p
}

func expiry(life time.Duration) time.Time {
	if life == 0 {
		return time.Time{}
	}
	return time.Now().Add(life)
}

func TestAClientThatDoesNotReadIsEndedAndCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{WriteTimeout: time.Second}, stream.FeedConfig{})
	stuck, p := r.stalled(options{}), r.open(options{})
	for range 64 {
		r.append(64 << 10)
		p.until(fmt.Sprint("id: ", r.seq))
	}
	stuck.awaitEnd()
	r.lives(p)
	if !errors.Is(stuck.why, delivery.ErrSlow) {
		t.Errorf("it ended because %v", stuck.why)
	}
}

// If each write began the write timeout anew, a client that takes a byte now and then would never be ended.
func TestAClientThatTakesALittleNowAndThenIsEnded(t *testing.T) {
	t.Parallel()
	for _, little := range []int{1, 64 << 10} {
		r := newRig(t, Config{WriteTimeout: 2 * time.Second}, stream.FeedConfig{})
		p := r.stalled(options{})
		// With a small one the kernel waits between two packets of the loopback device, which are large.
		if err := p.SetReadBuffer(1 << 20); err != nil {
			t.Fatal(err)
		}
		r.append(64 << 20)
		again := time.NewTicker(10 * time.Millisecond) // a slow line
		defer again.Stop()
		buf, late := make([]byte, little), time.After(patience)
		for ended := false; !ended; {
			select {
			case <-again.C:
				_, _ = p.Read(buf) // it may have ended
			case <-p.ended:
				ended = true
			case <-late:
				t.Fatal("the stream is still there")
			}
		}
		if !errors.Is(p.why, delivery.ErrSlow) {
			t.Errorf("it ended because %v", p.why)
		}
	}
}

func TestWhatIsBlockedEndsWithTheTokenOrWithItsPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{WriteTimeout: time.Hour}, stream.FeedConfig{})
	for range 16 {
		r.append(1 << 20)
	}
	r.stalled(options{life: 100 * time.Millisecond}).awaitEnd()
	p := r.stalled(options{})
	p.stream.End(delivery.ErrReplaced, time.Now().Add(50*time.Millisecond))
	p.awaitEnd()
}

func TestASilentStreamGetsKeepalivesAndTheEndOfItsToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	const keepalive = 20 * time.Millisecond
	lasting, ending := r.open(options{keepalive: keepalive}), r.open(options{keepalive: keepalive, life: 5 * keepalive})
	lasting.until("retry: ")
	for range 3 {
		lasting.until(": keepalive")
	}
	ending.until("event: token_expired")
	ending.awaitEnd()
}

func TestManyWhoHangUpAtOnceAreGoneAndTheirDescriptorsToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, stream.FeedConfig{})
	const n = 300
	peers := make([]*peer, n)
	for i := range peers {
		peers[i] = r.open(options{})
	}
	for _, p := range peers {
		p.until("retry: ")
	}
	var closing sync.WaitGroup
	for i, p := range peers {
		closing.Go(func() {
			if i%2 == 0 {
				_ = p.SetLinger(0) // a reset
			}
			_ = p.Close()
		})
	}
	closing.Wait()
	for _, p := range peers {
		p.awaitEnd()
	}
	late := r.open(options{})
	r.lives(late)
	if n := len(r.shards[0].slots); n > 301 {
		t.Errorf("%d slots for 301 streams", n)
	}
}

func TestAnIdleClientHasNoGoroutineAndNoBuffer(t *testing.T) { //nolint:paralleltest // it counts goroutines
	r := newRig(t, Config{}, stream.FeedConfig{})
	first := r.open(options{})
	first.until("retry: ")
	before := runtime.NumGoroutine()
	peers := make([]*peer, 100)
	for i := range peers {
		peers[i] = r.open(options{})
		peers[i].until("retry: ")
	}
	r.append(10)
	for _, p := range peers {
		p.until("id: 1")
	}
	if n := runtime.NumGoroutine(); n > before+10 {
		t.Errorf("%d goroutines, %d before 100 clients", n, before)
	}
}

// A client behind the ring waits for the journal; the others of its shard do not.
func TestAReadOfTheJournalIsNotOnTheShard(t *testing.T) {
	t.Parallel()
	event := func(seq stream.Seq) stream.Frame {
		return sse.Encoder{}.Event(stream.Event{Seq: seq, Type: "x", JSON: "{}"})
	}
	journal := waitingJournal{make(chan struct{}, 2), make(chan struct{}), []stream.Frame{event(1), event(2)}}
	r := newRig(t, Config{}, stream.FeedConfig{Base: 2, Journal: journal})
	behind := r.open(options{})
	<-journal.asked
	p := r.open(options{after: 2})
	r.lives(p)
	close(journal.may)
	for seq := range 3 {
		behind.until(fmt.Sprint("id: ", seq+1))
	}
	// Who goes away while it is read takes nothing with it.
	journal.may = make(chan struct{})
	gone := newRig(t, Config{}, stream.FeedConfig{Base: 2, Journal: journal}).open(options{})
	<-journal.asked
	_ = gone.Close()
	gone.awaitEnd()
}

// Were it put off, a topology whose events never pause would keep its journal from being read for ever.
func TestWhoWaitsForTheJournalIsNotPutOffByTheFeedsChanges(t *testing.T) {
	t.Parallel()
	journal := waitingJournal{asked: make(chan struct{}, 1)}
	b := newBench(t, stream.FeedConfig{Base: 2, Journal: journal}, 1)
	<-journal.asked
	c := b.slots[0].stream
	before := c.silentAt
	b.append(10)
	for b.turn() {
	}
	if c.silentAt != before {
		t.Errorf("it was put off from %v to %v", before, c.silentAt)
	}
}

func TestAnotherAttachIsNotOnTheShard(t *testing.T) {
	t.Parallel()
	var next *stream.Feed
	asked, may := make(chan stream.AttachRequest, 2), make(chan struct{})
	attach := func(ctx context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
		asked <- req
		select {
		case <-may:
			return &stream.Subscription{Cursor: next.Cursor(req.After), Close: func() {}}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r := newRig(t, Config{Attach: attach}, stream.FeedConfig{})
	p, gone := r.open(options{}), r.open(options{})
	r.append(1)
	p.until("id: 1")
	gone.until("id: 1")
	old := r.feed
	next = stream.NewFeed(stream.FeedConfig{Base: 1})
	r.feed = next
	old.Close(stream.ErrBehind)
	for range 2 {
		if req := <-asked; !req.Resume || req.After != 1 {
			t.Errorf("%+v", req)
		}
	}
	other := r.open(options{after: 1})
	r.lives(other)
	_ = gone.Close()
	gone.awaitEnd()
	close(may)
	p.until("id: 2")
	r.lives(p)
}

func TestAFrameThatIsPartlyWrittenStaysInTheAccount(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	r := newRig(t, Config{WriteTimeout: time.Hour}, stream.FeedConfig{MaxEvents: 1, MaxBytes: 64 << 20})
	p, q := r.stalled(options{}), r.stalled(options{})
	r.append(size)
	free := r.open(options{})
	free.until("id: 1")
	r.append(10)
	free.until("id: 2")
	if n := metrictest.Value(r.stats.FeedBytes); n < size || n > size+size/2 {
		t.Errorf("two sockets have a part of a frame of %d bytes, and %d are accounted", size, n)
	}
	for _, p := range []*peer{p, q} {
		_ = p.Close()
		p.awaitEnd()
	}
	if n := metrictest.Value(r.stats.FeedBytes); n > size/2 {
		t.Errorf("they are gone, and %d bytes are accounted", n)
	}
}

func TestAllThatWaitsForAClientIsOneWrite(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream.FeedConfig{}, 3)
	var all strings.Builder
	for range 10 {
		b.append(10)
		fmt.Fprintf(&all, "event: x\nid: %d\ndata: xxxxxxxxxx\n\n", b.seq)
	}
	want := all.String()
	for b.turn() {
	}
	for _, fd := range b.peers {
		if got := record(t, fd); got != want {
			t.Errorf("%q", got)
		}
		if got := record(t, fd); got != "" {
			t.Errorf("a second write: %q", got)
		}
	}
}

func TestWhatWasToldOfASocketBeforeIsNotTakenForTheNextOne(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream.FeedConfig{}, 1)
	old := b.slots[0]
	b.fail(old.stream, errGone)
	c := b.join(unix.SOCK_SEQPACKET)
	for b.turn() {
	}
	if c.slot != 0 {
		t.Fatalf("it has the slot %d: the test shows nothing", c.slot)
	}
	b.dispatch([]unix.EpollEvent{{Events: unix.EPOLLHUP, Fd: 0, Pad: old.generation}})
	if c.phase != open {
		t.Error("it ended with what was told of another socket")
	}
	b.dispatch([]unix.EpollEvent{{Events: unix.EPOLLHUP, Fd: 0, Pad: b.slots[0].generation}})
	if c.phase != gone {
		t.Error("it did not end with its own")
	}
}

// Between two parts of a long walk the shard handles new streams, ended ones, and sockets that have room again.
func TestATurnHasABudgetAndEverybodyIsVisitedInTheEnd(t *testing.T) {
	t.Parallel()
	const n = turnStreams + 100
	b := newBench(t, stream.FeedConfig{}, n)
	got := func() (written int) {
		for _, fd := range b.peers {
			if strings.Contains(record(t, fd), "id: ") {
				written++
			}
		}
		return written
	}
	b.append(10)
	more := b.turn()
	// The client that the first half ended with takes a place of the second half, too.
	if written := got(); !more && len(b.called) == 0 || written > turnStreams || written < turnStreams-1 {
		t.Errorf("%d got something in the first turn, which says that there is more: %v", written, more)
	}
	b.append(10) // in the midst of the walk
	for more = true; more; more = b.turn() || len(b.called) > 0 {
		continue
	}
	if written := got(); written != n {
		t.Errorf("%d of %d got the rest", written, n)
	}
}

func TestAnEventCostsNoAllocationForAClient(t *testing.T) { //nolint:paralleltest // it counts allocations
	b := newBench(t, stream.FeedConfig{}, 100)
	var buf [4096]byte
	event := sse.Encoder{}.Event(stream.Event{Seq: 1, Type: "x", JSON: "{}"})
	once := func() {
		b.feed.Append(event)
		event.Seq++
		for b.turn() {
		}
		for _, fd := range b.peers {
			if n, err := unix.Read(fd, buf[:]); n <= 0 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	for range stream.DefaultMaxEvents { // until the ring has its full size
		once()
	}
	if allocs := testing.AllocsPerRun(200, once); allocs != 0 {
		t.Errorf("%v allocations an event", allocs)
	}
}

func TestASocketThatIsClosedFailsItsStreamAlone(t *testing.T) {
	t.Parallel()
	if _, err := write(-1, []byte("x")); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
	var discarded int
	if err := discard(-1, make([]byte, 1), &discarded); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
}

// Catch-up and documents leave half of each turn to new events.
func TestCatchUpOfOneTopologyDoesNotKeepAnothersEventWaiting(t *testing.T) {
	t.Parallel()
	b := newBench(t, stream.FeedConfig{}, 1)
	quiet := b.slots[0].stream
	busy := make([]*Stream, turnStreams)
	for i := range busy {
		busy[i] = b.join(unix.SOCK_SEQPACKET)
	}
	for b.turn() {
	}
	for _, fd := range b.peers {
		record(t, fd)
	}
	for turn := range 3 { // each has something late to say in each turn, as in a long catch-up
		for _, c := range busy {
			c.machine.Tick()
			b.later(c)
		}
		if turn == 0 {
			b.append(1)
		}
		b.turn()
		if strings.Contains(record(t, b.peers[quiet.slot]), "id: ") {
			if turn > 1 {
				t.Errorf("it came in turn %d", turn)
			}
			return
		}
	}
	t.Error("it did not come in three turns")
}
