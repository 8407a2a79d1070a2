// Package proxy is a TCP proxy that breaks connections as networks do: it cuts, delays and swallows, in each direction.
// It stands between clients and servers, as a balancer, and between servers and their database.
//
// Why it is not github.com/Shopify/toxiproxy (2.5.0), which is a program with an API first. Its toxic "timeout" throws
// away what comes, tells the other side of an end, and closes the connection when it is removed, where a black hole
// keeps all of that until it is healed. Its toxic "reset_peer" resets only connections that were opened after it, and
// these when something is sent. It has one upstream, and changing it closes the listener and every connection, where a
// promotion moves an address and a balancer has many. Stopping it does not wait for its goroutines.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A Target is where a connection goes, host:port, and over which path.
type Target struct {
	Addr string
	Link *Link
}

// A Proxy accepts connections on loopback and forwards each to a target.
type Proxy struct {
	pick     func() []Target
	listener net.Listener
	life     context.Context //nolint:containedctx // the proxy's own: it ends what is being dialed
	end      context.CancelFunc
	tasks    sync.WaitGroup
	mu       sync.Mutex
	conns    map[*conn]struct{}
	closed   bool
}

const dialTimeout = 2 * time.Second

// Listen opens a proxy on a free port of loopback. pick is called for each connection and gives the targets in the
// order to try them; a connection that none takes is closed.
func Listen(ctx context.Context, pick func() []Target) (*Proxy, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a proxy: %w", err)
	}
	p := &Proxy{pick: pick, listener: l, conns: map[*conn]struct{}{}}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	p.tasks.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends every connection and returns when all goroutines are gone.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	open := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		open = append(open, c)
	}
	p.mu.Unlock()
	p.end()
	_ = p.listener.Close() // it listens no more either way
	for _, c := range open {
		c.reset()
	}
	p.tasks.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of files, or who connected has gone: neither is for ever
			select {
			case <-p.life.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		p.tasks.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	for _, target := range p.pick() {
		server, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(p.life, "tcp", target.Addr)
		if err != nil {
			continue
		}
		c := &conn{link: target.Link, client: client, server: server, done: make(chan struct{})}
		if !p.track(c) {
			c.reset()
			return
		}
		c.forward()
		p.untrack(c)
		return
	}
	_ = client.Close() // nobody takes it
}

func (p *Proxy) track(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) untrack(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
