package pgbus

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"topostream/pgbus/setting"
	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

const (
	// listenGrace is how long a fresh or lost LISTEN connection may take before requests are attached by the pool.
	listenGrace = 500 * time.Millisecond
	// answerFresh is how long an answer of the database shows that it is there.
	answerFresh = 3 * time.Second
)

// errAway is what anybody may read: what exactly fails names hosts and users, and is in the log.
var errAway = errors.New("bus: the database does not answer; the log says why")

// A mode knows which source tells of events now.
type mode struct {
	forced  string // Config.Bus
	replica bool
	pace    func(told bool) // called by setPace when events begin or cease to come by themselves
	pacing  sync.Mutex      // held while pace is called, so that the last call knows the last state
	changed wait.Signal     // the WAL may be wanted now, or not any more
	stats   *stream.Stats
	log     *slog.Logger

	mu       sync.Mutex
	setting  string // topology_settings.bus; empty: not known yet
	listen   source.State
	wal      source.State
	lost     time.Time // when LISTEN ceased to be connected
	answered time.Time // when the database answered last

	pollFailures int // in a row
}

func newMode(cfg Config) *mode {
	m := &mode{
		forced: cfg.Bus, replica: cfg.Replica != nil, changed: wait.NewSignal(), stats: cfg.Stats, log: cfg.Logger,
		listen: source.State{Detail: "starting"}, lost: time.Now(), pace: func(bool) {},
	}
	if cfg.Bus == setting.Poll {
		m.listen.Detail = "polling, as asked"
	}
	m.stats.BusWanted.Choose(m.wantedLocked())
	return m
}

// set follows the database's bus, unless this server is forced to another.
func (m *mode) set(bus string) {
	m.mu.Lock()
	before, known := m.setting, m.setting != ""
	m.setting = bus
	m.stats.BusWanted.Choose(m.wantedLocked())
	m.stats.Bus.Choose(m.busLocked())
	m.mu.Unlock()
	if known && before == bus {
		return
	}
	notice := m.notice()
	m.stats.BusForced.Set(stream.Flag(notice != ""))
	if notice != "" {
		m.log.Warn(notice)
	} else {
		m.log.Info("the database's bus", "bus", bus)
	}
	m.changed.Set()
	m.setPace()
}

func (m *mode) setListen(s source.State) {
	m.mu.Lock()
	if m.listen.Connected && !s.Connected {
		m.lost = time.Now()
	}
	m.listen = s
	m.stats.Listening.Set(stream.Flag(s.Connected))
	if s.Connected {
		m.answered = time.Now()
	}
	m.stats.Bus.Choose(m.busLocked())
	m.mu.Unlock()
	m.setPace()
}

func (m *mode) setWAL(s source.State) {
	m.mu.Lock()
	m.wal = s
	m.stats.Streaming.Set(stream.Flag(s.Connected))
	m.stats.Bus.Choose(m.busLocked())
	m.mu.Unlock()
	m.setPace()
}

func (m *mode) setPace() {
	m.pacing.Lock()
	defer m.pacing.Unlock()
	m.pace(m.told())
}

// databaseAnswered records that the database is there.
func (m *mode) databaseAnswered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answered = time.Now()
}

// setPolled records whether the poll reached the database. Two failures in a row tell more than what answered before,
// and one does if LISTEN was lost since; one alone may be no more than a pool that was busy.
func (m *mode) setPolled(s source.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.Connected {
		m.pollFailures = 0
		return
	}
	if m.pollFailures++; m.pollFailures > 1 || m.lost.After(m.answered) {
		m.answered = time.Time{}
	}
}

// listenGrace is what is left of the time that a LISTEN connection has to come back before requests are attached
// without it.
func (m *mode) listenGrace() time.Duration {
	if m.forced == setting.Poll || m.replica {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listen.Connected {
		return 0
	}
	return max(listenGrace-time.Since(m.lost), 0)
}

func (m *mode) walWanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wantedLocked() == stream.BusWAL
}

// wantedLocked is how events should come. While the database's bus is not known it is taken for what it is at first.
func (m *mode) wantedLocked() stream.Cause {
	switch {
	case m.forced == setting.Poll:
		return stream.BusPoll
	case m.forced == setting.WAL, m.forced == "" && (m.setting == setting.WAL || m.replica):
		return stream.BusWAL
	}
	return stream.BusNotify
}

// told tells whether events come by themselves: from the WAL, or because the triggers NOTIFY and the server LISTENs
// to what it reads from.
func (m *mode) told() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.toldLocked()
}

func (m *mode) toldLocked() bool {
	return m.wal.Connected || m.setting == setting.Notify && m.listen.Connected && !m.replica
}

// busLocked is how events come.
func (m *mode) busLocked() stream.Cause {
	switch {
	case m.wal.Connected:
		return stream.BusWAL
	case m.toldLocked():
		return stream.BusNotify
	}
	return stream.BusPoll
}

// ready returns nil while events can reach clients.
func (m *mode) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.toldLocked() || m.listen.Connected || time.Since(m.answered) < answerFresh {
		return nil
	}
	return errAway
}

// notice says that this server is forced to another bus than the database's; empty if it is not.
func (m *mode) notice() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forced == "" || m.setting == "" || m.forced == m.setting {
		return ""
	}
	return fmt.Sprintf("bus: forced %s, the database says %s", m.forced, m.setting)
}

// String says for people how events come.
func (m *mode) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.wal.Connected:
		return setting.WAL
	case m.toldLocked():
		return setting.Notify
	case m.listen.Connected:
		return setting.Poll + ": " + m.wal.Detail
	}
	return setting.Poll + ": " + m.listen.Detail
}
