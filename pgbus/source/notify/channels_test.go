package notify

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"topostream/stream"
)

// drawIDs draws a few of few topologies, so that they meet often.
func drawIDs(t *rapid.T) []stream.TopologyID {
	few := rapid.SampledFrom([]stream.TopologyID{"a", "b", "c", "d"})
	return rapid.SliceOfNDistinct(few, 0, 3, rapid.ID).Draw(t, "ids")
}

// A channelModel says in two sets what channels says: what is wanted, and what the connection LISTENs to.
type channelModel struct {
	c         channels
	wanted    map[stream.TopologyID]bool
	listening map[stream.TopologyID]bool
}

func (m *channelModel) connect(t *rapid.T) {
	on := rapid.Bool().Draw(t, "on")
	m.c.setConnected(on)
	if !on {
		clear(m.listening)
	}
	if m.c.isConnected() != on || m.c.isGivenUp() {
		t.Fatalf("connected: %v, given up: %v", m.c.isConnected(), m.c.isGivenUp())
	}
}

func (m *channelModel) want(t *rapid.T) {
	ids := drawIDs(t)
	m.c.want(ids)
	for _, id := range ids {
		m.wanted[id] = true
	}
}

func (m *channelModel) forget(t *rapid.T) {
	ids := drawIDs(t)
	m.c.forget(ids)
	for _, id := range ids {
		delete(m.wanted, id)
	}
}

// transact is a transaction that LISTENs to what is missing or asked for, UNLISTENs the rest, and commits or does not.
func (m *channelModel) transact(t *rapid.T) {
	attached := drawIDs(t)
	unlisten := m.c.takeUnwanted(attached)
	for _, id := range unlisten {
		if m.wanted[id] || !m.listening[id] || slices.Contains(attached, id) {
			t.Fatalf("UNLISTEN %s", id)
		}
	}
	m.want(t) // somebody else, meanwhile
	if rapid.Bool().Draw(t, "fails") {
		m.c.giveBack(unlisten)
		return
	}
	m.c.listened(attached)
	for _, id := range attached {
		m.wanted[id], m.listening[id] = true, true
	}
	for _, id := range unlisten { // one that is wanted again is missing now
		delete(m.listening, id)
	}
}

// listenAgain LISTENs to what is missing; meanwhile some of it may have been forgotten.
func (m *channelModel) listenAgain(t *rapid.T) {
	n := rapid.IntRange(0, 3).Draw(t, "n")
	missing := m.c.missing(n)
	all := 0
	for id := range m.wanted {
		if !m.listening[id] {
			all++
		}
	}
	for _, id := range missing {
		if !m.wanted[id] || m.listening[id] {
			t.Fatalf("%s is not missing", id)
		}
	}
	if len(missing) != min(n, all) {
		t.Fatalf("%d are missing, want %d of %d", len(missing), n, all)
	}
	m.forget(t)
	still := m.c.confirm(missing)
	for _, id := range missing {
		m.listening[id] = true
		if slices.Contains(still, id) != m.wanted[id] {
			t.Fatalf("%s is still wanted: %v", id, m.wanted[id])
		}
	}
	if len(still) > len(missing) {
		t.Fatalf("%v of %v", still, missing)
	}
}

func (m *channelModel) check(t *rapid.T) {
	if n := m.c.subscribed(); n != len(m.listening) {
		t.Fatalf("%d channels, want %d", n, len(m.listening))
	}
	for id := range m.listening {
		_, unwanted := m.c.unwanted[id]
		if unwanted == m.wanted[id] || m.wanted[id] && m.c.wanted[id] != subscribed {
			t.Fatalf("%s: wanted %v, to be UNLISTENed %v", id, m.wanted[id], unwanted)
		}
	}
	if len(m.c.wanted) != len(m.wanted) {
		t.Fatalf("%v are wanted, want %v", m.c.wanted, m.wanted)
	}
}

func TestEachChannelIsListenedToOnceWhileItIsWantedAndGivenUpOnceAfterwards(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &channelModel{
			c: newChannels(), wanted: map[stream.TopologyID]bool{}, listening: map[stream.TopologyID]bool{},
		}
		t.Repeat(map[string]func(*rapid.T){
			"connect": m.connect, "want": m.want, "forget": m.forget, "transact": m.transact,
			"listen again": m.listenAgain, "": m.check,
		})
	})
}

func TestATaskIsForAConnectionThatIsFree(t *testing.T) {
	t.Parallel()
	c := newChannels()
	tasks := make(chan *attachTask, 1)
	if c.submit(tasks, &attachTask{}) || len(tasks) != 0 {
		t.Error("a task for no connection")
	}
	c.setConnected(true)
	if !c.submit(tasks, &attachTask{}) || len(tasks) != 1 {
		t.Error("no task for a connection that is free")
	}
	if c.submit(tasks, &attachTask{}) {
		t.Error("a second task at a time")
	}
}

func TestAConnectionIsGivenUpFromWhenItIsAcceptedAndOnlyItself(t *testing.T) {
	t.Parallel()
	c := newChannels()
	c.giveUp()
	if c.accept(); c.isGivenUp() {
		t.Error("a connection was given up before it was there")
	}
	c.giveUp()
	if c.setConnected(true); !c.isGivenUp() {
		t.Error("the connection was not given up while it was made")
	}
	c.setConnected(false)
	if c.accept(); c.isGivenUp() {
		t.Error("the next one is given up")
	}
	c.setConnected(true)
	if c.giveUp(); !c.isGivenUp() {
		t.Error("the connection was not given up")
	}
}

func TestAChannelIsQuotedSoThatItsNameCannotEnd(t *testing.T) {
	t.Parallel()
	if got := quoted(`x"; DROP TABLE y`); got != `"topology.x""; DROP TABLE y"` {
		t.Error(got)
	}
}
