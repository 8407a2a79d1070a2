package engine

import "sync"

// A pool runs what may wait on at most so many goroutines, in the order it came. It has none while there is nothing to
// do.
type pool struct {
	most int

	mu      sync.Mutex
	running int
	queue   []func()
}

func (p *pool) do(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == p.most {
		p.queue = append(p.queue, f)
		return
	}
	p.running++
	go p.work(f)
}

func (p *pool) work(f func()) {
	for f != nil {
		f()
		f = p.next()
	}
}

// next gives what is to be done next; nil: nothing is, and the goroutine is counted no more.
func (p *pool) next() (f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.queue = nil
		p.running--
		return nil
	}
	f, p.queue[0] = p.queue[0], nil
	p.queue = p.queue[1:]
	return f
}
