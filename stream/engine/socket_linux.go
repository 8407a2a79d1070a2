package engine

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// sendBuffer bounds what the kernel holds for a client that does not read. Linux counts its own costs, too, and so
	// doubles it (socket(7)).
	sendBuffer = 128 << 10
	// unwanted is how many bytes a client may send behind its request.
	unwanted = 64 << 10
)

// duplicate gives a second descriptor of conn's socket, which Go's poller does not know and which does not block, as
// the first does not. The caller still closes the net.Conn: else its finalizer closes the first number later, when
// another file may have it. (net.TCPConn.File would make both descriptors block.)
func duplicate(conn net.Conn) (fd int, err error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, fmt.Errorf("%w: it is a %T", ErrUnsupported, conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := raw.Control(func(its uintptr) {
		fd, err = unix.FcntlInt(its, unix.F_DUPFD_CLOEXEC, 0)
	}); controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, fmt.Errorf("F_DUPFD_CLOEXEC: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("SO_SNDBUF: %w", err)
	}
	return fd, nil
}

// write gives how many bytes the socket took. Fewer than all, without an error, mean that it is full.
func write(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EAGAIN):
			return 0, nil
		case !errors.Is(err, syscall.EINTR):
			return 0, err
		}
	}
}

// discard reads what a client sends after its request. An error says that it sends no more, or too much.
func discard(fd int, scratch []byte, discarded *int) error {
	for {
		n, err := unix.Read(fd, scratch)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case err != nil:
			return err
		case n == 0:
			return errGone
		default:
			if *discarded += n; *discarded > unwanted {
				return errUnwanted
			}
		}
	}
}
