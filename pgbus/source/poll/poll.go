// Package poll is the source that asks: it compares the heads of attached topologies with what their feeds have. It
// is the bus where nothing else works, and the net beneath the other two.
package poll

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// patience is how long one comparison may take.
const patience = 5 * time.Second

// A Position is where a topology's feed is.
type Position struct {
	Topology stream.TopologyID
	Last     stream.Seq
	InDoubt  bool // the WAL has told of Last, and the database may not show it yet
}

// Config is what New needs.
type Config struct {
	// Positions gives the feeds to compare. It is called before the database is asked: a feed that is then ahead of its
	// head holds events that the database does not, unless they are in doubt.
	Positions func() []Position
	Reader    *journal.Reader
	Logger    *slog.Logger
}

// A Poller is the source. Make it with New, run it with Run; the other methods may be called by any goroutine.
type Poller struct {
	cfg  Config
	wake wait.Signal

	mu   sync.Mutex
	pace time.Duration // between two comparisons
	next time.Time     // when the next one is due
}

var _ source.Source = (*Poller)(nil)

// New makes a poller that compares at pace; nothing runs before Run.
func New(cfg Config, pace time.Duration) *Poller {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Poller{cfg: cfg, wake: wait.NewSignal(), pace: pace, next: time.Now().Add(pace)}
}

// SetPace changes the time between two comparisons; a shorter one counts from now.
func (p *Poller) SetPace(pace time.Duration) {
	p.mu.Lock()
	p.pace = pace
	if soon := time.Now().Add(pace); soon.Before(p.next) {
		p.next = soon
	}
	p.mu.Unlock()
	p.wake.Set()
}

// Soon has heads compared now, by statements that begin after this call.
func (p *Poller) Soon() {
	p.mu.Lock()
	p.next = time.Now()
	p.mu.Unlock()
	p.wake.Set()
}

// Run implements source.Source. It is connected while the database answers.
func (p *Poller) Run(ctx context.Context, sink source.Sink) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for try := 0; ; {
		timer.Reset(p.untilNext())
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			continue
		case <-timer.C:
		}
		p.begin()
		err := p.compare(ctx, sink)
		switch {
		case err == nil:
			try = 0
			sink.State(source.State{Connected: true})
		case ctx.Err() == nil:
			p.cfg.Logger.Warn("cannot compare heads; trying again", "error", err)
			sink.State(source.State{Detail: err.Error()})
			p.delay(wait.Backoff(try, p.currentPace(), 2*time.Second))
			try++
		}
	}
}

func (p *Poller) untilNext() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.next)
}

func (p *Poller) currentPace() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pace
}

// begin makes the next comparison due one pace from now. Whoever calls Soon from now on gets another one.
func (p *Poller) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = time.Now().Add(p.pace)
}

// delay puts the next comparison off after one that failed.
func (p *Poller) delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if later := time.Now().Add(d); later.After(p.next) {
		p.next = later
	}
}

// compare tells of every feed that differs from its head.
func (p *Poller) compare(ctx context.Context, sink source.Sink) error {
	positions := p.cfg.Positions()
	ids := make([]stream.TopologyID, len(positions))
	for i, at := range positions {
		ids[i] = at.Topology
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	heads, err := p.cfg.Reader.Heads(ctx, ids)
	if err != nil {
		return err
	}
	for _, at := range positions {
		h, ok := heads[at.Topology]
		switch {
		case !ok:
			sink.Contradicted(at.Topology, at.Last, "the topology has no head")
		case h.Seq > at.Last:
			sink.Event(source.Event{Topology: at.Topology, Seq: h.Seq})
		case h.Seq < at.Last && !at.InDoubt:
			sink.Contradicted(at.Topology, at.Last, fmt.Sprintf("the head is %d, behind the feed", h.Seq))
		}
	}
	return nil
}
