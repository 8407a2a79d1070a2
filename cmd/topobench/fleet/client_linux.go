package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gobwas/ws"
)

// A client follows one topology. It belongs to one loop.
type client struct {
	topology int
	slot     int32 // its place in the loop
	fresh    bool  // it comes again as one that knows nothing
	fd       int
	state    clientState
	life     int32  // how many sockets it has had, by which epoll events of an older one are told apart
	out      []byte // what must still be sent
	ready    bool   // it has its document, or its missing events
	chunked  bool
	chunks   chunks
	head     []byte // of the answer, while it has not come whole
	sse      sseSplitter
	ws       wsSplitter

	id     uint64 // the newest that came; 0: none
	serial uint64 // of the newest event
	known  bool   // serial is: not so after a document, which names none and which older events may follow
	base   uint64 // the topology's newest serial when the client became ready
	lastAt int64  // when bytes came last, Unix time in ns
}

type clientState uint8

const (
	clientAway clientState = iota
	clientConnecting
	clientHead
	clientBody
)

var errEarlyEnd = errors.New("the server ended the connection")

// began forgets what belonged to the socket before.
func (c *client) began(fd int, out []byte) {
	c.fd, c.state, c.out, c.ready = fd, clientConnecting, out, false
	c.life++
	c.chunked, c.chunks = false, chunks{}
	c.head, c.sse, c.ws = nil, sseSplitter{}, wsSplitter{}
}

// read takes what came.
func (l *loop) read(c *client, p []byte, now int64) error {
	l.tally.Bytes += uint64(len(p))
	if c.state == clientHead {
		var err error
		if p, err = l.readHead(c, p); err != nil || c.state == clientHead {
			return err
		}
	}
	silence := now - c.lastAt
	c.lastAt = now
	if !c.chunked {
		return l.body(c, p, now, silence)
	}
	for {
		data, after, err := c.chunks.next(p)
		if err == nil && len(data) > 0 {
			err = l.body(c, data, now, silence)
		}
		if err != nil || len(data) == 0 {
			return err
		}
		p = after
	}
}

// readHead takes the answer's head, and gives what follows it.
func (l *loop) readHead(c *client, p []byte) (after []byte, err error) {
	if len(c.head) > 0 {
		p = append(c.head, p...)
	}
	want := "200"
	if l.fleet.webSocket {
		want = "101"
	}
	size, chunked, err := answerHead(p, want)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		c.head = bytes.Clone(p)
		return nil, nil
	}
	c.head, c.state, c.chunked = nil, clientBody, chunked
	if send := l.fleet.requests[c.topology].send; len(send) > 0 {
		c.out = send
		if err := l.write(c); err != nil {
			return nil, err
		}
	}
	if l.fleet.cfg.Spec.Snapshot == "" && l.fleet.cfg.Spec.Ready == "" {
		l.readyFromNow(c)
	}
	return p[size:], nil
}

// body takes what came of the stream itself.
func (l *loop) body(c *client, p []byte, now, silence int64) error {
	if l.fleet.webSocket {
		return l.messages(c, p, now)
	}
	for len(p) > 0 {
		var frame []byte
		if frame, p = c.sse.next(p); frame == nil {
			return nil
		}
		l.frame(c, frame, now, silence)
	}
	return nil
}

func (l *loop) messages(c *client, p []byte, now int64) error {
	for {
		op, payload, after, more, err := c.ws.next(p)
		switch {
		case err != nil || more:
			return err
		case op == ws.OpClose:
			return fmt.Errorf("%w: %q", errLast, payload)
		case op == ws.OpPing:
			if c.out, err = clientFrame(ws.OpPong, payload); err != nil {
				return err
			}
			if err := l.write(c); err != nil {
				return err
			}
		case !op.IsControl():
			l.checkReady(c, payload)
			l.events(c, payload, now)
		}
		p = after
	}
}

// frame takes one of SSE.
func (l *loop) frame(c *client, frame []byte, now, silence int64) {
	f := parseFrame(frame)
	if !f.data {
		if c.ready && len(frame) > 0 && frame[0] == ':' {
			Record(l.tally.Silence, silence)
		}
		return
	}
	if snapshot := l.fleet.cfg.Spec.Snapshot; snapshot != "" && string(f.event) == snapshot {
		l.snapshot(c, f.id)
		return
	}
	if l.fleet.cfg.Spec.Numbered {
		l.number(c, f.id)
	}
	l.checkReady(c, frame)
	l.events(c, frame, now)
	if !c.ready && c.known && c.serial >= l.fleet.cfg.Stamps.Last(c.topology) {
		l.setReady(c) // it has all that it missed
	}
}

// checkReady looks for the text by which the server says that it has taken the client.
func (l *loop) checkReady(c *client, frame []byte) {
	if ready := l.fleet.cfg.Spec.Ready; !c.ready && ready != "" && bytes.Contains(frame, []byte(ready)) {
		l.readyFromNow(c)
	}
}

// number judges the id that the server gave an event: one more than the last.
func (l *loop) number(c *client, id []byte) {
	n, err := strconv.ParseUint(string(id), 10, 64)
	switch {
	case len(id) == 0: // it is not numbered
		return
	case err != nil:
		l.brokenf(c, "id %q is no number", id)
		return
	case c.id != 0 && n != c.id+1:
		l.brokenf(c, "id %d came after %d", n, c.id)
	}
	c.id = n
}

// events judges the events of a frame by their marks, and times them.
func (l *loop) events(c *client, frame []byte, now int64) {
	for {
		m, rest, found, err := NextMark(frame)
		switch {
		case err != nil:
			l.brokenf(c, "%v", err)
			return
		case !found:
			return
		}
		if c.known && m.Serial != c.serial+1 {
			l.brokenf(c, "event %d came after %d", m.Serial, c.serial)
		}
		c.serial, c.known = m.Serial, true
		l.tally.Deliveries++
		Record(l.tally.Latency, now-l.fleet.cfg.Stamps.When(c.topology, m))
		l.delivered.Add(1)
		frame = rest
	}
}

// setReady is called once for each socket. Nothing is published while clients connect.
func (l *loop) setReady(c *client) {
	c.ready = true
	c.base = l.fleet.cfg.Stamps.Last(c.topology)
	c.lastAt = time.Now().UnixNano()
	l.connecting--
	l.ready.Add(1)
}

// snapshot takes a document: events follow it.
func (l *loop) snapshot(c *client, id []byte) {
	if c.ready {
		l.brokenf(c, "a second document came")
		return
	}
	c.id, _ = strconv.ParseUint(string(id), 10, 64) // 0 where it has none
	c.known = false
	l.setReady(c)
}

// readyFromNow is for a server without documents: the client gets whatever is published from now on.
func (l *loop) readyFromNow(c *client) {
	if c.ready {
		return
	}
	c.serial, c.known = l.fleet.cfg.Stamps.Last(c.topology), true
	l.setReady(c)
}

// isCurrent tells whether the client has all that was published in its topology.
func (l *loop) isCurrent(c *client) bool {
	last := l.fleet.cfg.Stamps.Last(c.topology)
	return c.known && c.serial == last || !c.known && c.base == last
}

func (l *loop) brokenf(c *client, format string, args ...any) {
	l.tally.brokenf("a client of %s: %s", l.fleet.cfg.Topologies[c.topology], fmt.Sprintf(format, args...))
}
