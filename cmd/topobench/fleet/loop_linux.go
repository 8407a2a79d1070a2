package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A loop owns some clients: everything of theirs is done by its one goroutine.
type loop struct {
	fleet  *Fleet
	epoll  int
	wake   int // an eventfd: there are tasks
	done   chan struct{}
	buffer []byte

	clients    []*client
	queue      []*client // that wait to be connected
	connecting int       // clients that have a socket and are not ready
	tally      *Tally
	failed     error // the first client that could not be connected, and why

	ready     atomic.Int64  // clients that became ready, in all
	delivered atomic.Uint64 // events that came, in all

	mu      sync.Mutex
	tasks   []func()
	stopped bool
}

func newLoop(f *Fleet) (l *loop, err error) {
	l = &loop{fleet: f, tally: NewTally(), buffer: make([]byte, readSize), done: make(chan struct{})}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(l.epoll))
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: isWake}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &event); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(l.wake), unix.Close(l.epoll))
	}
	return l, nil
}

const (
	isWake   = -1 // in an epoll event, where else a client's slot is
	readSize = 64 << 10
)

// do has the loop run a task, and returns when it has.
func (l *loop) do(task func()) {
	ran := make(chan struct{})
	l.mu.Lock()
	if l.stopped {
		l.mu.Unlock()
		return
	}
	l.tasks = append(l.tasks, func() {
		task()
		close(ran)
	})
	l.mu.Unlock()
	_, _ = unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it is full only where a wake is due
	<-ran
}

// run waits for sockets and tasks until stop.
func (l *loop) run() {
	runtime.LockOSThread() // it waits in the kernel; the thread ends with it
	defer close(l.done)
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprint("epoll_wait: ", err)) // a wrong descriptor
		}
		for _, e := range events[:max(0, n)] {
			if e.Fd == isWake {
				continue
			}
			if c := l.clients[e.Fd]; c.state != clientAway && c.life == e.Pad {
				l.event(c, e.Events)
			}
		}
		if l.runTasks() {
			return
		}
		l.connectSome()
	}
}

// runTasks tells whether the loop was stopped.
func (l *loop) runTasks() (stopped bool) {
	var count [8]byte
	if _, err := unix.Read(l.wake, count[:]); err != nil { // EAGAIN: nobody woke it
		return false
	}
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, task := range tasks {
		task()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// stop ends the loop and closes its sockets.
func (l *loop) stop() {
	l.do(func() {
		for _, c := range l.clients {
			l.hangUp(c)
		}
		l.mu.Lock()
		l.stopped = true
		l.mu.Unlock()
	})
	<-l.done
	_, _ = unix.Close(l.wake), unix.Close(l.epoll) // they are open
}

// event does what a socket is ready for.
func (l *loop) event(c *client, events uint32) {
	err := l.write(c)
	if err == nil && events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		err = l.readAll(c)
	}
	if err != nil {
		l.lost(c, err)
	}
}

// write sends what c has to send.
func (l *loop) write(c *client) error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("write: %w", err)
		}
		c.out = c.out[n:]
		if c.state == clientConnecting {
			c.state = clientHead
		}
	}
	return nil
}

// readAll reads until the socket is empty: epoll is edge-triggered, and a short read says so.
func (l *loop) readAll(c *client) error {
	for c.state != clientAway {
		n, err := unix.Read(c.fd, l.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errEarlyEnd
		}
		if err := l.read(c, l.buffer[:n], time.Now().UnixNano()); err != nil {
			return err
		}
	}
	return nil
}

// connectSome connects clients that wait, as many at once as the fleet wants.
func (l *loop) connectSome() {
	for len(l.queue) > 0 && l.connecting < l.fleet.window {
		c := l.queue[0]
		l.queue = l.queue[1:]
		l.connecting++
		if err := l.connect(c); err != nil {
			l.lost(c, err)
		}
	}
}

func (l *loop) connect(c *client) error {
	f := l.fleet
	fd, err := openSocket(f.source(), f.server)
	if err != nil {
		return err
	}
	c.began(fd, f.requestOf(c))
	event := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: c.slot, Pad: c.life,
	}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return l.write(c)
}

// openSocket begins to connect.
func openSocket(source netip.Addr, server netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if server.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd) // it is open
		}
	}()
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // a socket of TCP has it
	if source.IsValid() {
		// The port is chosen when the server's address is known, so that each source has all of them for each server.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return 0, fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
			return 0, fmt.Errorf("bind to %s: %w", source, err)
		}
	}
	if err := unix.Connect(fd, sockaddr(server)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// hangUp closes a client's socket by a reset, which leaves no port in TIME_WAIT.
func (l *loop) hangUp(c *client) {
	if c.state == clientAway {
		return
	}
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // it is a socket
	_ = unix.Close(c.fd)                                                                     // it is open
	c.state, c.out = clientAway, nil
	if !c.ready {
		l.connecting--
	}
}

// lost deals with a connection that the server or the network ended, or that could not be made.
func (l *loop) lost(c *client, err error) {
	wasReady := c.ready && c.state != clientAway
	if c.state == clientAway { // it had no socket
		l.connecting--
	}
	l.hangUp(c)
	var answer answerError
	switch {
	case wasReady:
		l.brokenf(c, "%v", err)
	case l.fleet.again.Load() && (!errors.As(err, &answer) || !answer.final):
		l.tally.Again++
		l.queue = append(l.queue, c)
	case l.failed == nil:
		l.failed = fmt.Errorf("a client of %s: %w", l.fleet.cfg.Topologies[c.topology], err)
	}
}
