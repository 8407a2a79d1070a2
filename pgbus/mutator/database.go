package mutator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"topostream/pgbus/setting"
	"topostream/pgbus/wait"
)

// A database is what the worker knows of the database that it works on.
type database struct {
	onWAL          atomic.Bool // its bus is wal: the triggers do not NOTIFY
	changed        wait.Signal // onWAL has changed
	mayHaveChanged wait.Signal // the facts are to be read
}

func newDatabase() database {
	return database{changed: wait.NewSignal(), mayHaveChanged: wait.NewSignal()}
}

// facts are what is read of the database.
type facts struct {
	bus    string
	server time.Time // when the server started, by which it is told from others
}

// watchDatabase reads the facts at start, when LISTEN tells of a change, and at the poll's pace.
func (w *Worker) watchDatabase(ctx context.Context) {
	var known facts
	timer := time.NewTimer(0)
	defer timer.Stop()
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-w.database.mayHaveChanged:
		case <-timer.C:
		}
		found, err := w.readFacts(ctx)
		if err != nil {
			w.log.Debug("cannot read the database's bus; asking again", "error", err)
			timer.Reset(min(wait.Backoff(try, 100*time.Millisecond, 5*time.Second), w.cfg.Poll))
			try++
			continue
		}
		w.adopt(known, found)
		known, try = found, 0
		timer.Reset(w.cfg.Poll)
	}
}

func (w *Worker) readFacts(ctx context.Context) (f facts, _ error) {
	const query = `SELECT topology_bus(), pg_postmaster_start_time()`
	ctx, cancel := context.WithTimeout(ctx, w.cfg.LockTimeout)
	defer cancel()
	if err := w.cfg.Pool.QueryRow(ctx, query).Scan(&f.bus, &f.server); err != nil {
		return f, fmt.Errorf("read the bus: %w", err)
	}
	return f, nil
}

// adopt does what a change of the facts asks for. Through a pooler the pool may lead to another server from one
// statement to the next, as after a promotion, while no connection ends: the sources would stay with an old primary,
// which still lives and has nothing new to tell. So they connect anew.
func (w *Worker) adopt(known, found facts) {
	if found.bus != known.bus {
		w.log.Info("the database's bus", "bus", found.bus)
		w.database.onWAL.Store(found.bus == setting.WAL)
		w.database.changed.Set()
	}
	if known.bus != "" && !found.server.Equal(known.server) {
		w.log.Info("the pool leads to another server than before, or it was restarted: connecting anew")
		w.listener.Reconnect()
		w.wal.Reconnect()
	}
}
