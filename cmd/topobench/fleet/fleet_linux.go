package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Fleet is many clients of one server. Its methods are called by one goroutine at a time.
type Fleet struct {
	cfg       Config
	server    netip.AddrPort
	webSocket bool
	requests  []request // by topology
	loops     []*loop
	window    int // of one loop
	sources   atomic.Uint64
	again     atomic.Bool // Return: a connection that ends before it is ready is made anew
}

// New makes a fleet without clients. The caller closes it.
func New(cfg Config) (f *Fleet, err error) {
	cfg.setDefaults()
	f = &Fleet{cfg: cfg, webSocket: cfg.Spec.IsWebSocket()}
	if f.server, err = cfg.Spec.address(); err != nil {
		return nil, err
	}
	for _, id := range cfg.Topologies {
		r, err := cfg.Spec.request(id)
		if err != nil {
			return nil, err
		}
		f.requests = append(f.requests, r)
	}
	if len(cfg.Sources) == 0 && f.server.Addr().Is4() && f.server.Addr().IsLoopback() {
		f.cfg.Sources = loopbackSources()
	}
	n := max(1, runtime.NumCPU()/2)
	f.window = max(1, cfg.Window/n)
	for range n {
		l, err := newLoop(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		f.loops = append(f.loops, l)
		go l.run()
	}
	return f, nil
}

// loopbackSources are addresses of this machine. Each has some 28,000 ports for one address of a server.
func loopbackSources() (sources []netip.Addr) {
	for i := range byte(16) {
		sources = append(sources, netip.AddrFrom4([4]byte{127, 0, 1, 1 + i}))
	}
	return sources
}

// source takes the next address to connect from; an invalid one leaves it to the kernel.
func (f *Fleet) source() netip.Addr {
	if len(f.cfg.Sources) == 0 {
		return netip.Addr{}
	}
	return f.cfg.Sources[f.sources.Add(1)%uint64(len(f.cfg.Sources))]
}

// requestOf is what a client sends: its topology's request, and where it resumes.
func (f *Fleet) requestOf(c *client) []byte {
	head := f.requests[c.topology].head
	out := make([]byte, 0, len(head)+48)
	out = append(out, head...)
	if f.cfg.Spec.Resume && c.id != 0 && !c.fresh {
		out = append(out, "Last-Event-ID: "...)
		out = strconv.AppendUint(out, c.id, 10)
		out = append(out, "\r\n"...)
	}
	return append(out, "\r\n"...)
}

// isFresh spreads the fresh ones over all clients.
func (f *Fleet) isFresh(n int) bool {
	return int(float64(n+1)*f.cfg.Fresh) > int(float64(n)*f.cfg.Fresh)
}

// Connect adds n clients, and returns when all are ready: client i follows topology i modulo their number. The time is
// from the first socket on.
func (f *Fleet) Connect(ctx context.Context, n int) (took time.Duration, err error) {
	if err := AllowFiles(n + 1000); err != nil {
		return 0, err
	}
	want := f.ready() + int64(n)
	have := 0
	for _, l := range f.loops {
		have += len(l.clients)
	}
	start := time.Now()
	for i, l := range f.loops {
		l.do(func() {
			for k := have + i; k < have+n; k += len(f.loops) {
				c := &client{topology: k % len(f.requests), slot: int32(len(l.clients)), fresh: f.isFresh(k)}
				l.clients = append(l.clients, c)
				l.queue = append(l.queue, c)
			}
		})
	}
	err = f.awaitReady(ctx, want)
	return time.Since(start), err
}

// Return has all clients that were cut come back at once, and returns when all are ready. A connection that ends before
// that is made anew at once, whatever `retry` the server asks for.
func (f *Fleet) Return(ctx context.Context) (took time.Duration, err error) {
	want := f.ready()
	f.again.Store(true)
	defer f.again.Store(false)
	start := time.Now()
	for _, l := range f.loops {
		var away int
		l.do(func() {
			for _, c := range l.clients {
				if c.state == clientAway {
					away++
					l.queue = append(l.queue, c)
				}
			}
		})
		want += int64(away)
	}
	err = f.awaitReady(ctx, want)
	return time.Since(start), err
}

func (f *Fleet) ready() (n int64) {
	for _, l := range f.loops {
		n += l.ready.Load()
	}
	return n
}

func (f *Fleet) awaitReady(ctx context.Context, want int64) error {
	return f.await(ctx, func() error {
		if n := f.ready(); n < want {
			return fmt.Errorf("%d clients are not ready", want-n)
		}
		return nil
	})
}

// await asks until missing is nil, a client failed or ctx ends.
func (f *Fleet) await(ctx context.Context, missing func() error) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for asked := 0; ; asked++ {
		lack := missing()
		if asked%50 == 0 || lack == nil {
			if err := f.failed(); err != nil {
				return err
			}
		}
		if lack == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(lack, context.Cause(ctx), f.failed(), f.Broken())
		}
	}
}

func (f *Fleet) failed() (err error) {
	for _, l := range f.loops {
		l.do(func() { err = errors.Join(err, l.failed) })
	}
	return err
}

// Delivered is how many events came to all clients so far.
func (f *Fleet) Delivered() (n uint64) {
	for _, l := range f.loops {
		n += l.delivered.Load()
	}
	return n
}

// Await waits until n events have come to all clients together, or more, and each client has its topology's newest.
func (f *Fleet) Await(ctx context.Context, n uint64) error {
	err := f.await(ctx, func() error {
		if got := f.Delivered(); got < n {
			return fmt.Errorf("%d of %d deliveries did not come", n-got, n)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.await(ctx, func() error { // more than n come where events follow documents
		if behind, which := f.behind(); behind > 0 {
			return fmt.Errorf("%d clients are behind: %s", behind, which)
		}
		return nil
	})
}

// behind counts the clients for which there is something to come, and describes one.
func (f *Fleet) behind() (n int, which string) {
	for _, l := range f.loops {
		l.do(func() {
			for _, c := range l.clients {
				if !l.isCurrent(c) {
					n++
					last := f.cfg.Stamps.Last(c.topology)
					which = fmt.Sprintf("of %s %d is the newest, and %d came last", f.cfg.Topologies[c.topology], last, c.serial)
				}
			}
		})
	}
	return n, which
}

// Cut resets the connections of all clients.
func (f *Fleet) Cut() {
	for _, l := range f.loops {
		l.do(func() {
			for _, c := range l.clients {
				l.hangUp(c)
			}
		})
	}
}

// LongestSilence is the longest time for which any connected client has got no byte by now.
func (f *Fleet) LongestSilence() time.Duration {
	oldest := time.Now().UnixNano()
	for _, l := range f.loops {
		l.do(func() {
			for _, c := range l.clients {
				if c.state != clientAway {
					oldest = min(oldest, c.lastAt)
				}
			}
		})
	}
	return time.Duration(time.Now().UnixNano() - oldest)
}

// Take gives what was seen since it was called last.
func (f *Fleet) Take() *Tally {
	t := NewTally()
	for _, l := range f.loops {
		l.do(func() {
			t.merge(l.tally)
			l.tally = NewTally()
		})
	}
	return t
}

// Broken tells of what clients saw that they must not see, since Take was called.
func (f *Fleet) Broken() error {
	t := NewTally()
	for _, l := range f.loops {
		l.do(func() { t.merge(l.tally) })
	}
	return t.Err()
}

// Close resets all connections.
func (f *Fleet) Close() {
	for _, l := range f.loops {
		l.stop()
	}
	f.loops = nil
}

// AllowFiles raises the limit of open files, also of processes that are started later: beyond the hard one it takes
// CAP_SYS_RESOURCE.
func AllowFiles(n int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	want := max(limit.Cur, uint64(n))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: max(limit.Max, want)}); err != nil {
		return fmt.Errorf("%d open files are needed, of %d allowed (ulimit -n): %w", n, limit.Cur, err)
	}
	return nil
}
