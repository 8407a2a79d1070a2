package proxy

import (
	"context"
	"math/rand/v2"
	"net/http"
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
// say yes; when none does, it tries them all, as clients should hear the reason from a server.
type Balancer struct {
	*Proxy

	backends []*Backend
	client   *http.Client
	stop     context.CancelFunc
	checks   sync.WaitGroup
}

const (
	checkEvery   = 300 * time.Millisecond
	checkTimeout = time.Second
)

// Balance opens a balancer on a free port of loopback.
func Balance(ctx context.Context, backends ...*Backend) (*Balancer, error) {
	b := &Balancer{backends: backends, client: &http.Client{Timeout: checkTimeout,
		Transport: &http.Transport{DisableKeepAlives: true}}}
	p, err := Listen(ctx, b.pick)
	if err != nil {
		return nil, err
	}
	b.Proxy = p
	ctx, b.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, backend := range backends {
		b.checks.Go(func() { b.watch(ctx, backend) })
	}
	return b, nil
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
	for _, backend := range b.backends {
		if backend.up.Load() {
			n++
		}
	}
	return n
}

func (b *Balancer) pick() []Target {
	start := rand.IntN(len(b.backends)) // not in turn: clients that come in a row would be parted by it, kind by kind
	var up, down []Target
	for i := range b.backends {
		backend := b.backends[(start+i)%len(b.backends)]
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
