package pgbus

import (
	"testing"

	"topostream/pgbus/source"
	"topostream/stream/metrics/metrictest"
)

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
