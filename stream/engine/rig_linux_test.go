package engine

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

const patience = 30 * time.Second

// A rig is an engine with one shard, and a feed.
type rig struct {
	*Engine

	tb       testing.TB
	stats    *stream.Stats
	memory   *stream.Memory
	feed     *stream.Feed
	listener *net.TCPListener
	seq      stream.Seq

	mu  sync.Mutex
	all []stream.Frame // the journal
}

// Page implements stream.JournalReader.
func (r *rig) Page(_ context.Context, _ stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if int(after) >= len(r.all) {
		return nil, stream.ErrReset
	}
	return r.all[after:min(int(after)+4, len(r.all))], nil
}

func newRig(tb testing.TB, cfg Config, feed stream.FeedConfig) *rig {
	tb.Helper()
	r := &rig{tb: tb, stats: metrictest.Stats()}
	cfg.Stats = r.stats
	e, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	e.shards = e.shards[:1] // what one stream does must not cost the others
	r.Engine = e
	r.memory = stream.NewMemory(64<<20, r.stats)
	feed.Memory = r.memory
	if feed.Journal == nil {
		feed.Journal = r
	}
	r.feed, r.seq = stream.NewFeed(feed), feed.Base
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r.listener = l.(*net.TCPListener) //nolint:forcetypeassert // it listens to TCP
	tb.Cleanup(func() { _ = l.Close() })
	return r
}

// append appends an event with a payload of so many bytes.
func (r *rig) append(size int) {
	r.seq++
	fr := sse.Encoder{}.Event(stream.Event{Seq: r.seq, Type: "x", JSON: strings.Repeat("x", size)})
	r.mu.Lock()
	r.all = append(r.all, fr)
	r.mu.Unlock()
	r.feed.Append(fr)
}

// A peer is the client of a stream.
type peer struct {
	*net.TCPConn

	tb     testing.TB
	stream *Stream
	lines  *bufio.Scanner
	ended  chan struct{}
	why    error // valid when ended is closed
}

// Ended implements Owner.
func (p *peer) Ended(a delivery.Account) {
	p.why = a.Why
	close(p.ended)
}

// options of a stream; the zero value is one that lives for ever, and gets all that the feed has.
type options struct {
	unread    int
	life      time.Duration
	keepalive time.Duration
	after     stream.Seq
	close     func() // of its first subscription; nil: nobody wants to know
}

func (r *rig) machine(o options) delivery.Machine {
	if o.keepalive == 0 {
		o.keepalive = time.Hour
	}
	if o.close == nil {
		o.close = func() {}
	}
	sub := &stream.Subscription{Cursor: r.feed.Cursor(o.after), Close: o.close}
	return delivery.New(stream.AttachRequest{Topology: "t"}, sub, 2500, o.keepalive)
}

// accept gives both ends of a connection.
func (r *rig) accept() (client, server *net.TCPConn) {
	r.tb.Helper()
	c, err := net.Dial("tcp", r.listener.Addr().String())
	if err != nil {
		r.tb.Fatal(err)
	}
	server, err = r.listener.AcceptTCP()
	if err != nil {
		r.tb.Fatal(err)
	}
	client = c.(*net.TCPConn) //nolint:forcetypeassert // it was dialed so
	r.tb.Cleanup(func() { _ = client.Close() })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		r.tb.Fatal(err)
	}
	return client, server
}

// open begins a stream.
func (r *rig) open(o options) *peer {
	r.tb.Helper()
	client, server := r.accept()
	p := &peer{TCPConn: client, tb: r.tb, ended: make(chan struct{}), lines: bufio.NewScanner(client)}
	p.lines.Buffer(nil, 64<<20)
	var expires time.Time
	if o.life > 0 {
		expires = time.Now().Add(o.life)
	}
	c, err := r.Carry(server, Handover{
		Unread: o.unread, Head: []byte("HEAD\n"), Expires: expires, Machine: r.machine(o),
	}, p)
	if err != nil {
		r.tb.Fatal(err)
	}
	p.stream = c
	r.tb.Cleanup(func() {
		_ = client.Close()
		p.awaitEnd()
	})
	return p
}

// until reads lines until one begins so.
func (p *peer) until(prefix string) {
	p.tb.Helper()
	for p.lines.Scan() {
		if strings.HasPrefix(p.lines.Text(), prefix) {
			return
		}
	}
	p.tb.Fatalf("the stream ended before %q: %v", prefix, p.lines.Err())
}

func (p *peer) awaitEnd() {
	p.tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.tb.Error("the stream is still there")
	}
}

// lives fails if the stream has ended: it must still get an event.
func (r *rig) lives(p *peer) {
	r.tb.Helper()
	r.append(1)
	p.until(fmt.Sprint("id: ", r.seq))
}

// A bench is a shard that works only when it is told to, with sockets whose records are writes.
type bench struct {
	*rig
	*shard

	peers []int
}

func newBench(tb testing.TB, feed stream.FeedConfig, n int) *bench {
	tb.Helper()
	r := newRig(tb, Config{}, feed)
	b := &bench{rig: r, shard: r.shards[0]}
	b.running = true // so that nobody begins it
	for range n {
		b.join(unix.SOCK_SEQPACKET)
	}
	for b.turn() {
	}
	for _, fd := range b.peers {
		record(tb, fd) // the opening
	}
	tb.Cleanup(func() {
		for _, s := range b.slots {
			if s.stream != nil {
				b.fail(s.stream, errGone)
			}
		}
		for _, fd := range b.peers {
			_ = unix.Close(fd)
		}
	})
	return b
}

func (b *bench) join(kind int) *Stream {
	b.tb.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.peers = append(b.peers, pair[1])
	c := &Stream{
		shard: b.shard, fd: pair[0], machine: b.machine(options{}), owner: nobody{}, seats: make([]seat, 1),
		retryAt: never, expires: never, cutAt: never,
	}
	b.post(message{kind: added, stream: c})
	return c
}

type nobody struct{}

func (nobody) Ended(delivery.Account) {}

// record gives what one write wrote; empty: nothing was written.
func record(tb testing.TB, fd int) string {
	tb.Helper()
	var buf [64 << 10]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil && err != unix.EAGAIN {
		tb.Fatal(err)
	}
	return string(buf[:max(n, 0)])
}

// waitingJournal gives its frames when it may.
type waitingJournal struct {
	asked chan struct{}
	may   chan struct{}
	page  []stream.Frame
}

func (j waitingJournal) Page(ctx context.Context, _ stream.TopologyID, _ stream.Seq) ([]stream.Frame, error) {
	j.asked <- struct{}{}
	select {
	case <-j.may:
		return j.page, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
