package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// ClientKind is how a client behaves.
type ClientKind string

// The kinds of clients.
const (
	// Steady is as an EventSource: it stays, and comes back after `retry:` with its Last-Event-ID.
	Steady ClientKind = "steady"
	// Dropping cuts its connection after a random number of bytes and resumes.
	Dropping ClientKind = "dropping"
	// Slow reads a few KB a second for a while, so that the server's ring leaves it behind, then comes again and catches
	// up.
	Slow ClientKind = "slow"
	// Arriving comes without a number, reads a little, leaves, and comes again to another topology; where the writers' end
	// finds it, it stays.
	Arriving ClientKind = "arriving"
	// Several follows some topologies on one stream, cuts it as a dropping one does, and resumes some of them with what
	// it has of each.
	Several ClientKind = "several"
)

func clientKinds() []ClientKind { return []ClientKind{Steady, Dropping, Slow, Arriving, Several} }

// A client is one reader. It belongs to one goroutine, but for what is atomic.
type client struct {
	run   *run
	n     int
	kind  ClientKind
	rng   *rand.Rand
	judge *judge
	among []*topology // which an arriving client chooses from
	all   []*judge    // of a client of several topologies; judge is the first of them

	partial bool // this connection is for some of all

	shown    atomic.Pointer[judge] // judge, for other goroutines
	retry    time.Duration         // until the next connection: the newest `retry:`, before the first as browsers do
	budget   int64                 // bytes that the next connection of a dropping client may read
	got      int64                 // events of this connection
	trickles atomic.Bool           // this connection of a slow client reads a KB at a time
}

func (c *client) name() string { return fmt.Sprint("client ", c.n) }

func (c *client) kindStats() *kindStats { return c.run.stats.kinds[c.kind] }

// violation makes one of this client's, with the faults that are under way now.
func (c *client) violation(kind Kind, t *topology, server string, seq, previous uint64, detail string) Violation {
	return Violation{
		Kind: kind, Client: c.name(), ClientKind: string(c.kind), Server: server, Topology: t.name, Seq: seq,
		Previous: previous,
		At:       c.run.since(), Fault: c.run.faults.now(), Detail: detail,
	}
}

// reads has the client read a topology from now on.
func (c *client) reads(t *topology) {
	c.judge = &judge{client: c, topology: t}
	c.shown.Store(c.judge)
}

// errCut is the client's own end of a connection.
var errCut = errors.New("cut by the client")

// follow reads until ctx ends.
func (c *client) follow(ctx context.Context) {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 5 * time.Second}
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 20 * time.Second,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok && c.trickles.Load() {
				_ = tcp.SetReadBuffer(4 << 10) // what the kernel keeps for it is no longer the server's to keep
			}
			return conn, err
		},
	}
	defer transport.CloseIdleConnections()
	c.retry = 3 * time.Second // as browsers do; the standard leaves it to them
	for ctx.Err() == nil {
		if c.kind == Arriving && !c.run.calmed.Load() {
			c.judge.close()
			c.reads(c.among[c.rng.IntN(len(c.among))])
		}
		// atomic: a dial may outlive its request
		c.trickles.Store(c.kind == Slow && !c.trickles.Load() && !c.run.calmed.Load())
		err := c.connect(ctx, &http.Client{Transport: transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
		if bad := (*tornError)(nil); errors.As(err, &bad) && ctx.Err() == nil {
			c.run.violations.add(c.violation(Torn, c.judge.topology, c.judge.server, 0, c.judge.last, bad.what))
		}
		pause(ctx, c.away())
	}
	for _, j := range c.judges() {
		j.close()
	}
}

// away is how long the client stays away between two connections.
func (c *client) away() time.Duration {
	random := func(d time.Duration) time.Duration { return time.Duration(c.rng.Int64N(int64(d))) }
	switch {
	case c.kind == Steady:
		return c.retry
	case (c.kind == Dropping || c.kind == Several) && c.rng.IntN(20) == 0:
		return random(5 * time.Second)
	case c.kind == Slow:
		return random(100 * time.Millisecond)
	}
	return 10*time.Millisecond + random(200*time.Millisecond)
}

// connect reads one answer to its end and says why it ended.
func (c *client) connect(ctx context.Context, browser *http.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.kind == Arriving {
		leave := time.AfterFunc(time.Duration(c.rng.Int64N(int64(3*time.Second))), func() {
			if !c.run.calmed.Load() {
				cancel(errCut)
			}
		})
		defer leave.Stop()
	}
	server := c.run.server(c.rng)
	graph := c.rng.IntN(2) == 0
	token, err := c.run.cfg.Token(fmt.Sprint("topocheck-", c.n))
	if err != nil {
		return err
	}
	req, err := c.request(ctx, server, graph)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-store")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := browser.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end or given up
	if res.StatusCode != http.StatusOK {
		return c.refused(ctx, res)
	}
	c.kindStats().connections.Add(1)
	if c.judge.resumed {
		c.kindStats().resumes.Add(1)
	}
	c.got = 0
	idle := time.AfterFunc(c.run.cfg.Idle, func() { c.run.stats.silent.Add(1); cancel(errCut) })
	defer idle.Stop()
	body := c.body(ctx, res.Body, idle)
	err = c.read(newFrameReader(body))
	switch {
	case c.got > 0:
		c.budget = 0
	case errors.Is(err, errCut):
		c.budget = 2*c.budget + 4<<10 // a large event must come through some time
	}
	if bad := (*tornError)(nil); errors.As(err, &bad) && !slices.Contains(res.TransferEncoding, "chunked") &&
		body.ended {
		return io.EOF // where the connection's end is the answer's, an orderly end looks like any other
	}
	return err
}

// request makes the request of a connection, which resumes where the client has got something.
func (c *client) request(ctx context.Context, server string, graph bool) (*http.Request, error) {
	if c.kind == Several {
		body, err := c.want(server, graph)
		if err != nil {
			return nil, err
		}
		return http.NewRequestWithContext(ctx, http.MethodPost, server+"/api/v1/events", bytes.NewReader(body))
	}
	address := server + "/api/v1/topologies/" + c.judge.topology.id + "/events"
	if graph {
		address += "?graph=1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err == nil && c.judge.has {
		req.Header.Set("Last-Event-ID", strconv.FormatUint(c.judge.last, 10))
	}
	c.judge.connect(server, graph)
	return req, err
}

// refused takes in an answer that is no stream. A browser would give up for good, so it is a violation, unless it is
// the balancer that says that it reaches no server.
func (c *client) refused(ctx context.Context, res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, 300))
	switch {
	case res.StatusCode == http.StatusBadGateway, res.StatusCode == http.StatusGatewayTimeout, ctx.Err() != nil:
	default:
		c.run.violations.add(c.violation(Refused, c.judge.topology, c.judge.server, 0, c.judge.last,
			fmt.Sprintf("%s instead of a stream: a browser would never come back: %s", res.Status, body)))
		c.retry = 3 * time.Second
	}
	return errors.New(res.Status)
}

// read takes frames in until the stream ends.
func (c *client) read(r *frameReader) error {
	leave := int64(1 << 62)
	if c.kind == Arriving {
		leave = 1 + c.rng.Int64N(60)
	}
	for {
		f, err := r.next()
		if err != nil {
			return err
		}
		if f.retry > 0 {
			c.retry = time.Duration(f.retry) * time.Millisecond
		}
		if len(f.event) == 0 {
			continue
		}
		j, err := c.judgeOf(f)
		if err != nil {
			return err
		}
		if j == nil {
			c.end()
			continue
		}
		if err := j.frame(f); err != nil {
			return err
		}
		j.seq.Store(j.last)
		if c.got++; c.got >= leave && !c.run.calmed.Load() {
			return errCut
		}
	}
}

// A body is what a client reads of a connection, as its kind reads.
type body struct {
	io.Reader

	client *client
	ctx    context.Context //nolint:containedctx // of the connection that it is a part of
	idle   *time.Timer
	cutAt  int64 // bytes after which the client cuts; 0: never
	read   int64
	slow   bool      // a few bytes at a time
	until  time.Time // when a slow client cuts; zero: never
	ended  bool
}

func (c *client) body(ctx context.Context, r io.Reader, idle *time.Timer) *body {
	b := &body{Reader: r, client: c, ctx: ctx, idle: idle}
	switch c.kind {
	case Dropping, Several:
		b.cutAt = max(c.budget, 1+int64(c.rng.ExpFloat64()*20_000))
		c.budget = b.cutAt
	case Slow:
		b.slow = c.trickles.Load()
		b.until = time.Now().Add(time.Second + time.Duration(c.rng.Int64N(int64(4*time.Second))))
		if c.trickles.Load() {
			b.until = time.Now().Add(5*time.Second + time.Duration(c.rng.Int64N(int64(time.Minute))))
		}
	case Steady, Arriving:
	}
	return b
}

// Read reads as much as the client wants now.
func (b *body) Read(p []byte) (int, error) {
	calm := b.client.run.calmed.Load()
	switch {
	case b.cutAt > 0 && !calm && b.read >= b.cutAt:
		return 0, errCut
	case b.cutAt > 0 && !calm:
		p = p[:min(int64(len(p)), b.cutAt-b.read)]
	case b.slow && calm, b.client.partial && calm, !b.until.IsZero() && !calm && time.Now().After(b.until):
		return 0, errCut
	case b.slow:
		p = p[:min(len(p), 1<<10)]
		b.client.trickle(b.ctx)
	}
	b.idle.Reset(b.client.run.cfg.Idle)
	n, err := b.Reader.Read(p)
	b.read += int64(n)
	b.ended = errors.Is(err, io.EOF)
	if err != nil && context.Cause(b.ctx) == errCut { //nolint:errorlint // our own
		err = errCut
	}
	return n, err
}

// trickle waits between two reads of 1 KB, so that a client reads some 10 KB a second: a batch of frames still takes
// less than a server's default --write-timeout.
func (c *client) trickle(ctx context.Context) {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-c.run.calm:
	}
}
