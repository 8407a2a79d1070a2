//go:build !linux

package main

import (
	"net"
	"time"
)

// noticing gives connections keepalives. Where there is no TCP_USER_TIMEOUT, they and --write-timeout find dead clients
// later.
func noticing(keepalive net.KeepAliveConfig, _ time.Duration) net.ListenConfig {
	return net.ListenConfig{KeepAliveConfig: keepalive}
}
