package proxy

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Backend is a server behind a Balancer.
type Backend struct {
	Link *Link // between balancer and server

	addr atomic.Pointer[string]
	up   atomic.Bool
}

// NewBackend makes a backend that is nowhere yet.
func NewBackend() *Backend { return &Backend{Link: NewLink()} }

// Moved says where the server listens now, host:port; empty for nowhere.
func (b *Backend) Moved(addr string) {
	b.up.Store(false)
	b.addr.Store(&addr)
}

// Addr is where the server listens, empty for nowhere.
func (b *Backend) Addr() string {
	if a := b.addr.Load(); a != nil {
		return *a
	}
	return ""
}

// A Balancer forwards each connection to a random backend. It asks each for /readyz and leaves out those that do not
// say yes; when none does, it tries them all, as clients should get the reason from a server.
type Balancer struct {
	*Proxy

	client *http.Client
	life   context.Context //nolint:containedctx // the balancer's own: it ends the checks
	stop   context.CancelFunc
	checks sync.WaitGroup

	members  sync.Mutex
	backends map[*Backend]context.CancelFunc // which ends its checks
}

const (
	checkEvery   = 300 * time.Millisecond
	checkTimeout = time.Second
)

// Balance opens a balancer on a free port of loopback.
func Balance(ctx context.Context, backends ...*Backend) (*Balancer, error) {
	b := &Balancer{
		client:   &http.Client{Timeout: checkTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
		backends: map[*Backend]context.CancelFunc{},
	}
	b.life, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	p, err := Listen(ctx, b.pick)
	if err != nil {
		b.stop()
		return nil, err
	}
	b.Proxy = p
	for _, backend := range backends {
		b.Add(backend)
	}
	return b, nil
}

// Add puts one more backend behind it.
func (b *Balancer) Add(backend *Backend) {
	ctx, end := context.WithCancel(b.life)
	b.members.Lock()
	defer b.members.Unlock()
	b.backends[backend] = end
	b.checks.Go(func() { b.watch(ctx, backend) })
}

// Remove leads nobody to a backend any more. Connections that it has go on.
func (b *Balancer) Remove(backend *Backend) {
	b.members.Lock()
	defer b.members.Unlock()
	if end := b.backends[backend]; end != nil {
		end()
		delete(b.backends, backend)
	}
}

// Close ends the checks and every connection.
func (b *Balancer) Close() {
	b.stop()
	b.checks.Wait()
	b.Proxy.Close()
}

// Up is the number of backends that are not left out.
func (b *Balancer) Up() int {
	n := 0
	for _, backend := range b.all() {
		if backend.up.Load() {
			n++
		}
	}
	return n
}

func (b *Balancer) all() []*Backend {
	b.members.Lock()
	defer b.members.Unlock()
	return slices.Collect(maps.Keys(b.backends))
}

func (b *Balancer) pick() []Target {
	all := b.all()
	// Not in turn: clients that come in a row would be parted by it, kind by kind.
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var up, down []Target
	for _, backend := range all {
		addr := backend.Addr()
		switch t := (Target{addr, backend.Link}); {
		case addr == "":
		case backend.up.Load():
			up = append(up, t)
		default:
			down = append(down, t)
		}
	}
	return append(up, down...)
}

func (b *Balancer) watch(ctx context.Context, backend *Backend) {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		addr := backend.Addr()
		up := addr != "" && !backend.Link.Stalled() && b.ready(ctx, addr)
		if backend.Addr() == addr {
			backend.up.Store(up)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (b *Balancer) ready(ctx context.Context, addr string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := b.client.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close() // its status is all
	return res.StatusCode == http.StatusOK
}
