package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports of private clusters. They are below the ephemeral range (32768 and up on Linux, 49152 on macOS): on loopback
// a client that keeps calling connect(2) on a closed ephemeral port is in time given that very port as its own end,
// is connected to itself, and PostgreSQL cannot come back on it after a restart. Another program's outgoing
// connection can take such a port, too.
const (
	firstPort = 20000
	lastPort  = 29999
	portTries = 10
)

// errPortTaken: PostgreSQL ended at its start because another program listens on its port.
var errPortTaken = errors.New("its port is taken by another program")

// FreePort is a port of loopback that nobody listens on at the moment, for a program that cannot be asked for its own.
func FreePort(ctx context.Context) (int, error) {
	var last error
	for range 100 {
		port := firstPort + rand.N(lastPort-firstPort+1)
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close() // nobody has connected
			return port, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}

// startOnFreePort starts PostgreSQL on a port that pick gives, and on another when somebody was faster.
func (c *Cluster) startOnFreePort(ctx context.Context, pick func(context.Context) (int, error)) error {
	var err error
	for range portTries {
		if c.cfg.Port, err = pick(ctx); err != nil {
			return err
		}
		if err = c.start(ctx); !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}
