package main

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noticing gives a listening socket what its connections notice dead clients by: keepalives, and TCP_USER_TIMEOUT. They
// inherit it (tcp(7); sk_clone_lock copies it), which costs a connection none of the system calls that Go would make.
func noticing(keepalive net.KeepAliveConfig, timeout time.Duration) net.ListenConfig {
	options := []struct {
		name                 string
		level, option, value int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepalive.Idle.Seconds())},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepalive.Interval.Seconds())},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepalive.Count},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds())},
	}
	return net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			for _, o := range options {
				if err = unix.SetsockoptInt(int(fd), o.level, o.option, o.value); err != nil {
					err = fmt.Errorf("%s: %w", o.name, err)
					return
				}
			}
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
}
