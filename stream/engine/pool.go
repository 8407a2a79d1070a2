package engine

import (
	"sync"

	"topostream/stream"
)

// A pool runs calls that may wait, for each topology on a bounded number of goroutines and in the order they came:
// calls of one topology that wait hold up no other one. It has no goroutine while there is nothing to do.
type pool struct {
	most int // goroutines of one topology

	mu    sync.Mutex
	lines map[stream.TopologyID]*line
}

// A line is what is to be called for one topology.
type line struct {
	running int // goroutines
	queue   []func()
}

func newPool(most int) pool { return pool{most: most, lines: map[stream.TopologyID]*line{}} }

func (p *pool) do(id stream.TopologyID, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[id]
	if l == nil {
		l = &line{}
		p.lines[id] = l
	}
	if l.running == p.most {
		l.queue = append(l.queue, f)
		return
	}
	l.running++
	go p.work(id, l, f)
}

func (p *pool) work(id stream.TopologyID, l *line, f func()) {
	for f != nil {
		f()
		f = p.next(id, l)
	}
}

// next gives what is to be done next; nil: nothing is, and the goroutine is counted no more.
func (p *pool) next(id stream.TopologyID, l *line) (f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(l.queue) == 0 {
		l.queue = nil
		if l.running--; l.running == 0 {
			delete(p.lines, id)
		}
		return nil
	}
	f, l.queue[0] = l.queue[0], nil
	l.queue = l.queue[1:]
	return f
}
