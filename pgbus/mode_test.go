package pgbus

import (
	"testing"
	"testing/synctest"
	"time"

	"topostream/pgbus/source"
	"topostream/stream/metrics/metrictest"
)

// The end of LISTEN and a poll that fails behind it are as good as two polls; a poll that fails before is none of them.
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
