package pgbus

import (
	"context"
	"fmt"
)

// settingsChannel tells that a row of topology_settings changed: the bus or the epoch. It is a wake-up: whoever hears it reads the table.
const settingsChannel = "topostream.settings"

// readSetting learns what the triggers do, and how full PostgreSQL's NOTIFY queue is.
func (b *Bus) readSetting(ctx context.Context) error {
	const query = `SELECT topology_bus(), pg_notification_queue_usage()`
	var (
		bus  string
		used float64
	)
	if err := b.read().QueryRow(ctx, query).Scan(&bus, &used); err != nil {
		return fmt.Errorf("read the bus and the NOTIFY queue's usage: %w", err)
	}
	b.setSetting(bus)
	if b.cfg.Replica != nil {
		return b.watchLag(ctx) // whose NOTIFY queue is another one
	}
	return b.watchQueue(ctx, used)
}

// setSetting follows the database's bus, unless this server is forced to another.
func (b *Bus) setSetting(bus string) {
	b.mu.Lock()
	changed := b.setting != bus
	b.setting = bus
	b.mu.Unlock()
	if !changed {
		return
	}
	notice := b.Notice()
	b.stats.BusForced.Store(notice != "")
	if notice != "" {
		b.log.Warn(notice)
	} else {
		b.log.Info("the database's bus", "bus", bus)
	}
	b.rewired.Set()
	b.polled.Set()
}

// Notice says that this server is forced to another bus than the database's; empty if it is not. It works on all the same, at the pace that it then can.
func (b *Bus) Notice() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Bus == "" || b.setting == "" || b.cfg.Bus == b.setting {
		return ""
	}
	return fmt.Sprintf("bus: forced %s, the database says %s", b.cfg.Bus, b.setting)
}

func (b *Bus) walWanted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cfg.Bus == BusWAL || b.cfg.Bus == "" && (b.setting == BusWAL || b.cfg.Replica != nil)
}

// hearing tells whether events come by themselves: from the WAL, or because the triggers NOTIFY and the bus LISTENs to what it reads from.
func (b *Bus) hearing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hearingLocked()
}

func (b *Bus) hearingLocked() bool {
	return b.stats.Streaming.Load() || b.setting == BusNotify && b.stats.Listening.Load() && b.cfg.Replica == nil
}

func (b *Bus) setStreaming(on bool, why string) {
	b.mu.Lock()
	b.stats.Streaming.Store(on)
	b.walState = why
	b.mu.Unlock()
	if !on {
		b.polled.Set()
	}
}

// compareSoon has heads compared with feeds now, whatever the pace.
func (b *Bus) compareSoon() {
	b.compare.Store(true)
	b.polled.Set()
}
