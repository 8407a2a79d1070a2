package mutator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// held are the topologies that somebody else held for too long, or where a claim fails for another reason, and until
// when they are left alone.
type held struct {
	mu    sync.Mutex
	until map[stream.TopologyID]time.Time
}

func (h *held) add(id stream.TopologyID, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until == nil {
		h.until = map[stream.TopologyID]time.Time{}
	}
	h.until[id] = time.Now().Add(d)
}

// list gives those that are to be left alone now.
func (h *held) list() []stream.TopologyID {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := []stream.TopologyID{}
	for id, until := range h.until {
		if time.Now().After(until) {
			delete(h.until, id)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// leaveAlone has the claims pass a topology by for about as long as the poll takes.
func (w *Worker) leaveAlone(id stream.TopologyID) {
	w.held.add(id, wait.Backoff(0, w.cfg.Poll, w.cfg.Poll))
}

// leaveToHolder leaves a topology alone that somebody else holds, and says who.
func (w *Worker) leaveToHolder(id stream.TopologyID, timeout *postgres.LockTimeoutError) {
	w.log.Warn("somebody holds a topology or its rows; going on with others",
		"topology", id, "blocked_by", timeout.By, "waited", w.cfg.LockTimeout, "error", timeout.Err)
	w.leaveAlone(id)
}

// nameHolder waits for a topology that the claims skip, so that the log names who holds it.
func (w *Worker) nameHolder(ctx context.Context, id stream.TopologyID) {
	err := w.transact(ctx, func(ctx context.Context, tx pgx.Tx) error { return lockTopology(ctx, tx, id) })
	if timeout, ok := errors.AsType[*postgres.LockTimeoutError](err); ok {
		w.leaveToHolder(id, timeout)
	}
}
