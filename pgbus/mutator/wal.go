package mutator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source/wal"
	"topostream/pgbus/wait"
)

// On the bus `wal` the triggers do not NOTIFY: the worker reads what wakes it from the WAL, as a server does, with a
// slot of its own.

// settingsChannel tells that the database's bus may have changed. It is a wake-up: whoever hears it asks.
const settingsChannel = "topostream.settings"

const busWAL = "wal"

// readBus asks what the triggers do.
func (w *Worker) readBus(ctx context.Context) error {
	const query = `SELECT topology_bus()`
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	var bus string
	if err := w.cfg.Pool.QueryRow(ctx, query).Scan(&bus); err != nil {
		return fmt.Errorf("read the bus: %w", err)
	}
	if before := w.bus.Swap(&bus); before == nil || *before != bus {
		w.rewired.Set()
	}
	return nil
}

func (w *Worker) onWAL() bool {
	bus := w.bus.Load()
	return bus != nil && *bus == busWAL
}

// readWAL wakes the worker on the bus `wal`. It reconnects for ever; while no stream is there, the worker goes by the
// poll.
func (w *Worker) readWAL(ctx context.Context) {
	for try := 0; ctx.Err() == nil; try++ {
		if !w.onWAL() {
			select {
			case <-w.rewired:
			case <-ctx.Done():
			}
			try = -1
			continue
		}
		start := time.Now()
		err := w.streamWAL(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if time.Since(start) > 30*time.Second {
			try = 0
		}
		w.wake.Set()
		w.log.Warn("the WAL cannot be read; working at the poll's pace until it can (topostream bus status says what it takes)", "poll", w.cfg.Poll, "error", err)
		wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, 5*time.Second))
	}
}

// streamWAL is the life of one replication connection. It returns nil when the bus has been another one for as long
// as the poll takes: what began before the change does not NOTIFY.
func (w *Worker) streamWAL(ctx context.Context) error {
	conn, publication, err := w.connectWAL(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.Open(ctx, publication, false)
	if err != nil {
		return err
	}
	w.log.Info("reading mutations from the WAL")
	w.wake.Set() // for what came before
	s := streamed{seen: wait.NewSignal()}
	var checks sync.WaitGroup
	defer checks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	checks.Go(func() { w.wakeWhenSeen(ctx, &s) })
	last := time.Now()
	return stream.Run(ctx, s.add, func() bool {
		if w.onWAL() {
			last = time.Now()
		}
		return time.Since(last) < w.cfg.Poll
	})
}

func (w *Worker) connectWAL(ctx context.Context) (_ *wal.Conn, publication string, _ error) {
	const query = `SELECT topology_publication()`
	qctx, done := context.WithTimeout(ctx, listenTimeout)
	defer done()
	if err := w.cfg.Pool.QueryRow(qctx, query).Scan(&publication); err != nil {
		return nil, "", fmt.Errorf("find the publication: %w", err)
	}
	cfg, patience := postgres.Primary(w.cfg.Listen)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := wal.Connect(ctx, cfg, "topostream mutator wal")
	return conn, publication, err
}

// streamed are the transactions that may have brought work. The WAL may tell of one before a claim can see it.
type streamed struct {
	mu   sync.Mutex
	xids []uint32
	seen wait.Signal // there are some
}

// add takes what may make a mutation claimable: a new one, one that was given back or has ended, or a topology's new
// status.
func (s *streamed) add(e wal.Row) {
	switch string(e.Type) {
	case "mutation.enqueued", "mutation.requeued", "mutation.applied", "mutation.failed", "status":
	default:
		return
	}
	s.mu.Lock()
	if n := len(s.xids); n == 0 || s.xids[n-1] != e.XID {
		s.xids = append(s.xids, e.XID)
	}
	s.mu.Unlock()
	s.seen.Set()
}

// settle forgets the transactions that v sees, and tells whether there were some and whether some are left.
func (s *streamed) settle(v wal.Visibility) (some, left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.xids[:0]
	for _, xid := range s.xids {
		if !v.Sees(xid) {
			kept = append(kept, xid)
		}
	}
	some = len(kept) < len(s.xids)
	s.xids = kept
	return some, len(kept) > 0
}

// wakeWhenSeen wakes a loop once a claim can see what was streamed.
func (w *Worker) wakeWhenSeen(ctx context.Context, s *streamed) {
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.seen:
		}
		v, err := wal.ReadVisibility(ctx, w.cfg.Pool)
		some, left := false, true
		if err == nil {
			some, left = s.settle(v)
		}
		if some {
			w.wake.Set()
			try = 0
		}
		if left {
			if !wait.Pause(ctx, wait.Backoff(try, time.Millisecond, 250*time.Millisecond)) {
				return
			}
			try++
			s.seen.Set()
		}
	}
}
