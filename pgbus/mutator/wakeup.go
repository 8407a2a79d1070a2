package mutator

import (
	"fmt"
	"time"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/pgbus/source/notify"
	"topostream/pgbus/source/wal"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// wakeUpChannel is NOTIFYd, on the bus notify, by whatever may make a mutation claimable, and on each bus by a worker
// that is not going to claim what it could.
const wakeUpChannel = "topology_mutations"

// walCheck are the pauses between two looks whether a claim can see what the WAL has told.
func walCheck() wait.Steps { return wait.Steps{First: time.Millisecond, Most: 250 * time.Millisecond} }

// newSources makes what wakes the worker: LISTEN, also for changes of the setting, and the WAL, where the triggers do
// not NOTIFY.
func (w *Worker) newSources() {
	conn := w.cfg.Listen.Copy()
	postgres.NameListen(conn, postgres.WorkerListens)
	without := fmt.Sprintf("the worker looks for mutations every %s", w.cfg.Poll)
	w.listener = notify.New(notify.Config{
		Conn: conn, Pool: w.cfg.Pool, Channels: []string{wakeUpChannel}, Ping: w.cfg.Ping,
		Logger: w.log, Without: without,
	})
	primary, patience := postgres.Primary(w.cfg.Listen)
	w.wal = wal.New(wal.Config{
		Conn: primary, Patience: patience, Name: "topostream mutator wal", Pool: w.cfg.Pool,
		Wanted: w.database.onWAL.Load, Changed: w.database.changed, Check: walCheck(), Only: mayMakeClaimable,
		Logger: w.log, Without: without,
	})
}

// mayMakeClaimable tells whether a mutation may be claimable after an event of this type that was not before: a new
// one, one that was given back, the next one after one that has ended, or any of a topology that has become active.
func mayMakeClaimable(kind string) bool {
	switch kind {
	case "mutation.enqueued", "mutation.requeued", "mutation.applied", "mutation.failed", "status":
		return true
	}
	return false
}

// A wakeUp is what the sources tell. It never looks at what they say: the table is the truth.
type wakeUp struct {
	source.Ignore

	worker *Worker
}

var _ source.Sink = wakeUp{}

// Work implements source.Sink.
func (s wakeUp) Work() { s.worker.wake.Set() }

// Visible implements source.Sink. The WAL has told of an event before that, and a claim may not have seen it then.
// What is told is the newest such event of a topology. It stands for those before it: each was recorded under the
// lock of the topology's head, and so is visible no later.
func (s wakeUp) Visible(source.Event) { s.worker.wake.Set() }

// Subscribed implements source.Sink. What came before is told by nobody.
func (s wakeUp) Subscribed([]stream.TopologyID, stream.Cause) { s.worker.wake.Set() }

// State implements source.Sink. A source that is lost may have had something to tell.
func (s wakeUp) State(source.State) { s.worker.wake.Set() }

// SettingChanged implements source.Sink.
func (s wakeUp) SettingChanged() { s.worker.database.mayHaveChanged.Set() }
