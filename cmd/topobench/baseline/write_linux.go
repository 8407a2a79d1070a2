package baseline

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// A writer is [Write]. One goroutine does everything: it reads requests and events, and writes.
type writer struct {
	epoll, listener int
	answer          []byte
	clients         []*peer // by descriptor; nil: there is none
	buffer          []byte
	in              *input
	frames          uint64
}

type peer struct {
	request []byte // what of it has come; nil once it is answered
	out     []byte // what the socket did not take
}

// inputReady stands for the input where an epoll event has a client's descriptor.
const inputReady = -1

func serveWrite(document []byte, in io.Reader, out io.Writer) error {
	w := &writer{answer: append([]byte(head), document...), buffer: make([]byte, 16<<10)}
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer func() { _ = unix.Close(w.epoll) }() // it is open
	defer w.closeAll()
	addr, err := w.listen()
	if err != nil {
		return err
	}
	if w.in, err = newInput(in); err != nil {
		return err
	}
	defer w.in.close()
	if err := w.watch(w.in.fd, inputReady, unix.EPOLLIN); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, addr); err != nil {
		return err
	}
	return w.loop()
}

func (w *writer) listen() (addr string, err error) {
	w.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(w.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(w.listener, 4096); err != nil { // the kernel bounds it by net.core.somaxconn, as net/http's
		return "", fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(w.listener)
	if err != nil {
		return "", fmt.Errorf("getsockname: %w", err)
	}
	v4, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("%T is no address of IPv4", name)
	}
	return fmt.Sprintf("127.0.0.1:%d", v4.Port), w.watch(w.listener, int32(w.listener), unix.EPOLLIN)
}

func (w *writer) watch(fd int, name int32, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: name}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (w *writer) closeAll() {
	for fd, c := range w.clients {
		if c != nil {
			_ = unix.Close(fd) // it is open
		}
	}
	if w.listener > 0 {
		_ = unix.Close(w.listener) // it is open
	}
}

func (w *writer) loop() error {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for _, e := range events[:max(0, n)] {
			switch e.Fd {
			case inputReady:
				if err := w.in.lines(w.broadcast); err != nil {
					return ended(err)
				}
			case int32(w.listener):
				if err := w.accept(); err != nil {
					return err
				}
			default:
				w.event(int(e.Fd), e.Events)
			}
		}
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (w *writer) accept() error {
	for {
		fd, _, err := unix.Accept4(w.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // a socket of TCP has it
		w.clients = append(w.clients, make([]*peer, max(0, fd+1-len(w.clients)))...)
		w.clients[fd] = &peer{request: []byte{}}
		const all = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
		if err := w.watch(fd, int32(fd), all); err != nil {
			return err
		}
	}
}

func (w *writer) event(fd int, events uint32) {
	c := w.clients[fd]
	if c == nil {
		return
	}
	gone := false
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		gone = w.read(fd, c)
	}
	if !gone && len(c.out) > 0 {
		rest := c.out
		c.out = nil
		gone = w.send(fd, c, rest)
	}
	if gone {
		_ = unix.Close(fd) // it is open
		w.clients[fd] = nil
	}
}

// read takes a request, and notices an end.
func (w *writer) read(fd int, c *peer) (gone bool) {
	for {
		n, err := unix.Read(fd, w.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return true
		}
		if c.request == nil {
			continue
		}
		c.request = append(c.request, w.buffer[:n]...)
		if bytes.HasSuffix(c.request, []byte("\r\n\r\n")) {
			c.request = nil
			if w.send(fd, c, w.answer) {
				return true
			}
		}
	}
}

// send writes once, and keeps what the socket did not take until it is ready.
func (w *writer) send(fd int, c *peer, b []byte) (gone bool) {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return false
	}
	n, err := unix.Write(fd, b)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return true
	}
	c.out = append(c.out, b[max(0, n):]...)
	return false
}

func (w *writer) broadcast(payload []byte) {
	w.frames++
	frame := AppendFrame(nil, w.frames, payload)
	for fd, c := range w.clients {
		if c != nil && c.request == nil {
			_ = w.send(fd, c, frame) // its end is an event of its own
		}
	}
}
