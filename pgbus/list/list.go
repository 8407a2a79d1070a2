// Package list keeps the list of topologies while somebody follows it: a state stream. Wake-ups say which rows may
// have changed; one goroutine reads those together, at most every 200 ms, and appends what has changed to a feed that
// all clients share. Only it reads, one read after another, so that no row goes back to an older state.
package list

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Config is what New needs. Zero durations take the documented defaults.
type Config struct {
	Reader  *journal.Reader
	Encoder stream.Encoder
	Memory  *stream.Memory
	Stats   *stream.Stats
	Logger  *slog.Logger
	// Blind is asked where no row is found: an error says that there may be some, which cannot be seen. Nil: there are
	// none.
	Blind func(context.Context) error

	Pace       time.Duration // between two reads, at least: 200 ms
	Sweep      time.Duration // between two sweeps for what no wake-up told: 10 s, until SetSweep
	Linger     time.Duration // after the last client has gone: 60 s
	AttachWait time.Duration // after which a client gets ErrUnavailable: 5 s
}

// batch is how many rows are read by their ids at most; where more are wanted, all rows are read.
const batch = 500

// A List is the list. Make it with New, run it with Run; the other methods may be called by any goroutine.
type List struct {
	cfg    Config
	wake   wait.Signal
	making chan struct{} // a semaphore of one: held by the client that makes the document of all rows

	mu      sync.Mutex
	closed  bool
	clients int           // those who follow it, and those who wait for the first read
	left    time.Time     // when the last client went
	now     *state        // nil: it is not kept, because nobody has followed it for a while
	kept    chan struct{} // closed, and made anew, when the list begins to be kept
	failure error         // why it could not be read
	wanted  wanted
	read    time.Time     // when the last read began
	sweep   time.Duration // between two sweeps
	swept   time.Time     // when the last sweep, or read of all rows, began
}

// wanted is what is to be read.
type wanted struct {
	ids   map[stream.TopologyID]struct{}
	all   bool // every row
	sweep bool // the rows whose version is another one than that of the last read
}

// New makes a list; nothing runs before Run.
func New(cfg Config) *List {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&cfg.Pace, 200 * time.Millisecond},
		{&cfg.Sweep, 10 * time.Second},
		{&cfg.Linger, time.Minute},
		{&cfg.AttachWait, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Stats == nil {
		cfg.Stats = stream.NoStats()
	}
	return &List{
		cfg: cfg, wake: wait.NewSignal(), making: make(chan struct{}, 1), kept: make(chan struct{}), sweep: cfg.Sweep,
		wanted: wanted{ids: map[stream.TopologyID]struct{}{}},
	}
}

// Touch says that a topology's row may have changed.
func (l *List) Touch(id stream.TopologyID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == 0 && l.now == nil {
		return
	}
	l.wanted.ids[id] = struct{}{}
	l.wake.Set()
}

// Look has the list swept soon: rows may have changed without a wake-up.
func (l *List) Look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted.sweep = true
	l.wake.Set()
}

// ReadAnew has all rows read: the database has another history, of which versions say nothing.
func (l *List) ReadAnew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted.all = true
	l.wake.Set()
}

// SetSweep changes the time between two sweeps, in which the versions of all rows are compared.
func (l *List) SetSweep(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep = d
	l.wake.Set()
}

// Run reads until ctx ends. Clients then see stream.ErrClosed.
func (l *List) Run(ctx context.Context) {
	defer l.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		w, next := l.next(time.Now())
		timer.Reset(next)
		if w == nil {
			continue
		}
		if err := l.refresh(ctx, *w); err != nil {
			if ctx.Err() != nil {
				return
			}
			l.cfg.Logger.Warn("cannot read the list; trying again", "error", err)
			l.putBack(*w, err)
			timer.Reset(wait.Backoff(try, l.cfg.Pace, 2*time.Second))
			try++
			continue
		}
		try = 0
		timer.Reset(0) // there may be more
	}
}

// idle is how long Run waits where nothing is to be read.
const idle = time.Hour

// next gives what is to be read now, or nil, and after how long it is to be called again if nothing wakes Run before.
func (l *List) next(now time.Time) (*wanted, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == 0 {
		if l.now == nil {
			return nil, idle
		}
		if lingers := l.left.Add(l.cfg.Linger).Sub(now); lingers > 0 {
			return nil, lingers
		}
		l.dropLocked(stream.ErrClosed)
		return nil, idle
	}
	due := l.swept.Add(l.sweep).Sub(now)
	if l.now == nil {
		l.wanted.all = true
	}
	if due <= 0 {
		l.wanted.sweep = true
	}
	if !l.wanted.all && !l.wanted.sweep && len(l.wanted.ids) == 0 {
		return nil, due
	}
	if pause := l.read.Add(l.cfg.Pace).Sub(now); pause > 0 {
		return nil, pause
	}
	l.read = now
	return l.takeLocked(now), idle
}

func (l *List) takeLocked(now time.Time) *wanted {
	w := l.wanted
	w.all = w.all || len(w.ids) > batch // one statement for all is less than many for most
	if w.all || w.sweep {
		l.swept = now
	}
	l.wanted = wanted{ids: map[stream.TopologyID]struct{}{}}
	return &w
}

// putBack has what could not be read wanted again.
func (l *List) putBack(w wanted, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = why
	l.wanted.all = l.wanted.all || w.all
	l.wanted.sweep = l.wanted.sweep || w.sweep
	for id := range w.ids {
		l.wanted.ids[id] = struct{}{}
	}
}

// refresh reads what is wanted, and tells the clients.
func (l *List) refresh(ctx context.Context, w wanted) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	if w.all {
		rows, err := l.readRows(ctx, nil)
		if err == nil {
			l.setAll(rows)
		}
		return err
	}
	if w.sweep {
		l.cfg.Stats.ListReads.Inc()
		versions, err := l.cfg.Reader.RowVersions(ctx)
		if err != nil {
			return err
		}
		l.wantChanged(versions) // they are read by the next refresh
	}
	if len(w.ids) == 0 {
		return nil
	}
	ids := slices.Collect(maps.Keys(w.ids))
	rows, err := l.readRows(ctx, ids)
	if err == nil {
		l.set(ids, rows)
	}
	return err
}

// readRows reads rows; all for nil.
func (l *List) readRows(ctx context.Context, ids []stream.TopologyID) ([]journal.ListRow, error) {
	l.cfg.Stats.ListReads.Inc()
	rows, err := l.cfg.Reader.List(ctx, ids)
	if err == nil && len(rows) == 0 && l.cfg.Blind != nil {
		err = l.cfg.Blind(ctx)
	}
	return rows, err
}

// Attach gives the list as the filter shows it, and what follows. Its errors are those of [stream.Bus].
func (l *List) Attach(ctx context.Context, filter *stream.ListFilter) (*stream.Subscription, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, l.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	sub := &stream.Subscription{Close: sync.OnceFunc(l.leave)}
	l.enter()
	err := l.awaitKept(waiting)
	if err == nil {
		sub.Snapshot, sub.Cursor, err = l.document(waiting, filter)
	}
	if err != nil {
		sub.Close()
		return nil, err
	}
	l.cfg.Stats.Attaches.Inc()
	return sub, nil
}

func (l *List) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients++
	l.wake.Set()
}

func (l *List) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients--; l.clients == 0 {
		l.left = time.Now()
		l.wake.Set()
	}
}

// awaitKept waits until the list is kept.
func (l *List) awaitKept(ctx context.Context) error {
	for {
		l.mu.Lock()
		kept, changed, closed := l.now != nil, l.kept, l.closed
		l.mu.Unlock()
		switch {
		case closed:
			return stream.ErrClosed
		case kept:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l.unavailable(context.Cause(ctx))
		}
	}
}

// unavailable is cause, with why the list could not be read.
func (l *List) unavailable(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(cause, stream.ErrUnavailable) && l.failure != nil {
		return errors.Join(cause, l.failure)
	}
	return cause
}

func (l *List) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.dropLocked(stream.ErrClosed)
	close(l.kept)
	l.kept = make(chan struct{})
}

// dropLocked forgets the list.
func (l *List) dropLocked(why error) {
	if l.now != nil {
		l.now.feed.Close(why)
		l.now.hold.Release()
		l.now = nil
	}
	l.failure = nil
	clear(l.wanted.ids)
	l.wanted.all, l.wanted.sweep = false, false
}
