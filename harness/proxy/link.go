package proxy

import (
	"net"
	"sync"
	"time"
)

// Direction is one of a connection's two.
type Direction int

// Up is from who connected to whom it was connected; Down is back.
const (
	Up Direction = iota
	Down
	directions
)

// A Link is a network path that connections share; what is done to it is done to all of them, and to those that come
// later. The zero value is not ready: use NewLink. Its methods are safe for concurrent use.
type Link struct {
	mu      sync.Mutex
	delay   [directions]time.Duration
	stalled [directions]bool
	changed chan struct{} // closed at each change
	conns   map[*conn]struct{}
}

// NewLink makes a path on which everything passes.
func NewLink() *Link {
	return &Link{changed: make(chan struct{}), conns: map[*conn]struct{}{}}
}

// Delay holds what passes in a direction back for d, chunk by chunk, so that it makes the path slow, too.
func (l *Link) Delay(dir Direction, d time.Duration) {
	l.change(func() { l.delay[dir] = d })
}

// Stall lets nothing pass in a direction, and no end of a connection either: a black hole. Neither side is told. What
// was sent meanwhile passes after Heal.
func (l *Link) Stall(dir Direction) {
	l.change(func() { l.stalled[dir] = true })
}

// Heal undoes Delay and Stall.
func (l *Link) Heal() {
	l.change(func() { l.delay, l.stalled = [directions]time.Duration{}, [directions]bool{} })
}

// Cut resets every connection that is open now, on both sides, and gives their number.
func (l *Link) Cut() int {
	l.mu.Lock()
	conns := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
	return len(conns)
}

// Open is the number of open connections.
func (l *Link) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Stalled tells whether nothing passes in some direction.
func (l *Link) Stalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled[Up] || l.stalled[Down]
}

func (l *Link) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// pass returns when a chunk may pass, or false when done is closed.
func (l *Link) pass(dir Direction, done <-chan struct{}) bool {
	for {
		l.mu.Lock()
		stalled, delay, changed := l.stalled[dir], l.delay[dir], l.changed
		l.mu.Unlock()
		var due <-chan time.Time
		switch {
		case stalled: // until it changes
		case delay == 0:
			return true
		default:
			due = time.After(delay)
		}
		select {
		case <-due:
			return true
		case <-changed:
		case <-done:
			return false
		}
	}
}

func (l *Link) add(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
}

func (l *Link) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// A conn is one proxied connection.
type conn struct {
	link         *Link
	client       net.Conn
	server       net.Conn
	done         chan struct{}
	once         sync.Once
	forwardGroup sync.WaitGroup
}

// forward copies both ways until one side ends.
func (c *conn) forward() {
	c.link.add(c)
	defer c.link.remove(c)
	c.forwardGroup.Go(func() { c.pump(Up, c.server, c.client) })
	c.forwardGroup.Go(func() { c.pump(Down, c.client, c.server) })
	c.forwardGroup.Wait()
}

const chunk = 32 << 10

func (c *conn) pump(dir Direction, to, from net.Conn) {
	defer c.close()
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if !c.link.pass(dir, c.done) { // an end is told as late as what went before it
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *conn) close() {
	c.once.Do(func() {
		close(c.done)
		_ = c.client.Close() // what it had to say was said
		_ = c.server.Close()
	})
}

// reset ends both sides by RST, as a machine that went away and came back does.
func (c *conn) reset() {
	for _, side := range []net.Conn{c.client, c.server} {
		if tcp, ok := side.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // it may have ended
		}
	}
	c.close()
}
