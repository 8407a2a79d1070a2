package pgbus

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

// A sharedLog is read while the bus writes it.
type sharedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *sharedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *sharedLog) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func TestMoreChannelsThanNotifyServesWellBringTheAdviceToSwitchOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 4)
	old := pgtest.Scan[int](t, conn, `SELECT current_setting('server_version_num')::int`) < 190000
	var log sharedLog
	b := startBus(t, db, func(c *Config) {
		c.Heartbeat, c.ManyChannels, c.Logger = 20*time.Millisecond, 2, slog.New(slog.NewTextHandler(&log, nil))
	})
	attach := func(ids []stream.TopologyID) {
		for _, id := range ids {
			sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
			must(t, err)
			t.Cleanup(sub.Close)
		}
	}
	pgtest.Eventually(t, "the database's bus", func() bool { return log.count("bus=notify") == 1 })
	const advice = "many topologies are attached"
	attach(ids[:2])
	must(t, b.adviseWAL(t.Context()))
	if n := log.count(advice); n != 0 {
		t.Errorf("advised %d times with as many channels as are fine", n)
	}
	must(t, setting.Set(t.Context(), conn, setting.WAL))
	pgtest.Eventually(t, "bus wal", func() bool { return log.count("bus=wal") == 1 })
	attach(ids[2:])
	must(t, b.adviseWAL(t.Context()))
	if n := log.count(advice); n != 0 {
		t.Errorf("advised %d times on wal", n)
	}
	must(t, setting.Set(t.Context(), conn, setting.Notify))
	pgtest.Eventually(t, "the heartbeat that looks, and then says it", func() bool {
		return b.watch.advised.Load() && (!old || log.count(advice) > 0)
	})
	must(t, b.adviseWAL(t.Context()))
	if n := log.count(advice); old && n != 1 || !old && n != 0 {
		t.Errorf("advised %d times; a list is walked: %t", n, old)
	}
}
