package main

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout gives TCP_USER_TIMEOUT to a listening socket, of which accepted ones inherit it (tcp(7);
// inet_csk_clone_lock copies it).
func userTimeout(d time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
		}); controlErr != nil {
			err = controlErr
		}
		if err != nil {
			return fmt.Errorf("TCP_USER_TIMEOUT: %w", err)
		}
		return nil
	}
}
