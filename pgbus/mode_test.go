package pgbus

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"topostream/pgbus/setting"
	"topostream/pgbus/source"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// One failed poll after LISTEN was lost shows as much as two failed polls. One failed poll after an answer that is
// newer than the loss of LISTEN shows nothing.
func TestAServerThatListenedIsNotReadyWhenAPollFailsBehindTheEndOfLISTEN(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMode(Config{Stats: metrictest.Stats()})
		failed, connected := source.State{Detail: "refused"}, source.State{Connected: true}
		m.setListen(connected)
		time.Sleep(time.Second) // of fake time, as below
		m.setListen(failed)
		time.Sleep(time.Millisecond)
		m.databaseAnswered()
		m.setPolled(connected)
		m.setPolled(failed)
		if err := m.ready(); err != nil {
			t.Errorf("after a poll that answered, and one that failed: %v", err)
		}
		m.setListen(connected)
		m.setPolled(connected)
		time.Sleep(time.Second)
		m.setListen(failed)
		if err := m.ready(); err != nil {
			t.Errorf("LISTEN alone has ended: %v", err)
		}
		if m.setPolled(failed); m.ready() == nil {
			t.Error("it is ready, though nothing has answered since")
		}
	})
}

// A server that only polls is ready while the database answers, and not any more as soon as two polls in a row fail.
func TestAServerThatPollsIsNotReadyWhenTwoPollsInARowFail(t *testing.T) {
	t.Parallel()
	m := newMode(Config{Bus: "poll", Stats: metrictest.Stats()})
	failed, answered := source.State{Detail: "refused"}, source.State{Connected: true}
	m.databaseAnswered()
	m.setPolled(answered)
	m.setPolled(failed)
	m.setPolled(answered)
	m.setPolled(failed)
	if err := m.ready(); err != nil {
		t.Errorf("after one failure: %v", err)
	}
	m.setPolled(failed)
	if m.ready() == nil {
		t.Error("after two failures it is ready")
	}
	m.setPolled(answered)
	m.databaseAnswered() // the order of the two does not matter: each read says so
	if err := m.ready(); err != nil {
		t.Errorf("after an answer: %v", err)
	}
}

// An alert must know a server that polls because it was told to from one that has lost its LISTEN or its slot.
func TestTheBusThatIsWantedIsTheForcedOneOrElseTheDatabases(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		forced, says string
		wanted       stream.Cause
	}{
		{"", setting.Notify, stream.BusNotify},
		{"", setting.WAL, stream.BusWAL},
		{setting.WAL, setting.Notify, stream.BusWAL},
		{setting.Notify, setting.WAL, stream.BusNotify},
		{setting.Poll, setting.Notify, stream.BusPoll},
		{setting.Poll, setting.WAL, stream.BusPoll},
	} {
		stats := metrictest.Stats()
		m := newMode(Config{Bus: c.forced, Stats: stats, Logger: slog.New(slog.DiscardHandler)})
		m.set(c.says)
		for _, lost := range []source.State{{Connected: true}, {Detail: "gone"}} {
			m.setListen(lost)
			m.setWAL(lost)
			if wanted := metrictest.Chosen(stats.BusWanted); wanted != stream.Buses[c.wanted] {
				t.Errorf("--bus %q, the database says %s: %s is wanted", c.forced, c.says, wanted)
			}
		}
		if now := metrictest.Chosen(stats.Bus); now != stream.Buses[stream.BusPoll] {
			t.Errorf("--bus %q, the database says %s, all is lost: %s", c.forced, c.says, now)
		}
	}
}

// LISTEN and the WAL end together when the database restarts, each in a goroutine of its own. The pace that stays is
// that of the state that stays: a poll at the heartbeat's pace would make events late until a source is back.
func TestThePaceIsThatOfTheLastStateWhicheverSourceTellsIt(t *testing.T) {
	t.Parallel()
	m := newMode(Config{Stats: metrictest.Stats(), Logger: slog.New(slog.DiscardHandler)})
	m.set(setting.WAL)
	connected, lost := source.State{Connected: true}, source.State{Detail: "gone"}
	m.setListen(connected)
	m.setWAL(connected)
	var (
		other sync.WaitGroup
		paced atomic.Bool
	)
	m.pace = func(told bool) {
		if told { // the WAL is lost while this is said
			other.Go(func() { m.setWAL(lost) })
			for range 1000 {
				runtime.Gosched() // whoever can go on goes first
			}
		}
		paced.Store(told)
	}
	m.setListen(lost)
	other.Wait()
	if paced.Load() {
		t.Error("the poll is at the heartbeat's pace, and no source tells of events")
	}
}
