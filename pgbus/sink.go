package pgbus

import (
	"strings"
	"time"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/pgbus/source/poll"
	"topostream/stream"
)

// A sink is what the sources tell of events. Each source has one of its own, whose cause labels the journal reads that
// its events lead to.
type sink struct {
	*Bus

	cause stream.Cause
}

type (
	// notifySink is told by LISTEN.
	notifySink struct{ sink }
	// rawSink is told by LISTEN where streams are read from a standby: the triggers' own notifications would be ahead of
	// it.
	rawSink struct{ notifySink }
	// walSink is told by the WAL.
	walSink struct{ sink }
	// pollSink is told by the poll.
	pollSink struct{ sink }
)

var (
	_ source.Sink = notifySink{}
	_ source.Sink = rawSink{}
	_ source.Sink = walSink{}
	_ source.Sink = pollSink{}
)

func (b *Bus) notifySink() source.Sink {
	s := notifySink{sink{b, stream.ReadHole}}
	if b.cfg.Replica != nil {
		return rawSink{s}
	}
	return s
}

// Event implements source.Sink.
func (s sink) Event(e source.Event) {
	a := s.registry.find(e.Topology)
	if a == nil {
		return
	}
	if e.JSON != nil {
		if json, ok := e.JSON(); ok {
			s.append(a, s.cfg.Encoder.Event(stream.Event{Seq: e.Seq, Type: e.Type, JSON: json}))
			return
		}
	}
	if e.Seq > a.feed.Last() {
		s.backfillOne(a, s.cause)
	}
}

// listed tells whether an event may have changed a row of the list: an emit or an edit by hand does not.
func listed(e source.Event) bool {
	return e.Type == stream.TypeDeleted || e.Type == "status" || strings.HasPrefix(e.Type, "mutation.")
}

// Event implements source.Sink.
func (s walSink) Event(e source.Event) {
	if listed(e) {
		s.list.Touch(e.Topology)
	}
	s.sink.Event(e)
}

// Visible implements source.Sink: what was read before may not have been the newest.
func (s walSink) Visible(e source.Event) {
	s.list.Touch(e.Topology)
	s.sink.Visible(e)
}

// Event implements source.Sink.
func (s pollSink) Event(e source.Event) {
	if s.sources.mode.told() {
		s.cause = stream.ReadHeartbeat
	}
	s.sink.Event(e)
}

// Event implements source.Sink: it is ignored.
func (rawSink) Event(source.Event) {}

// Visible implements source.Sink: it has the event read where the feed does not have it.
func (s sink) Visible(e source.Event) {
	if a := s.registry.find(e.Topology); a != nil && a.feed.Last() < e.Seq {
		s.backfillOne(a, stream.ReadHole)
	}
}

// Subscribed implements source.Sink.
func (s sink) Subscribed(topologies []stream.TopologyID, why stream.Cause) {
	if topologies == nil {
		s.backfillAll(s.registry.all(), why)
		return
	}
	var attachments []*attachment
	for _, id := range topologies {
		if a := s.registry.find(id); a != nil {
			attachments = append(attachments, a)
		}
	}
	s.backfillAll(attachments, why)
}

// Subscribed implements source.Sink. Where streams are read from a standby, nothing of theirs comes by LISTEN.
func (rawSink) Subscribed([]stream.TopologyID, stream.Cause) {}

// Raw implements source.Sink.
func (s sink) Raw(topology stream.TopologyID, text string) {
	if a := s.registry.find(topology); a != nil {
		a.feed.AppendRaw(s.cfg.Encoder.Raw(topology, text, time.Now()))
	}
}

// Listed implements source.Sink.
func (s sink) Listed(topology stream.TopologyID) { s.list.Touch(topology) }

// Work implements source.Sink: mutations are the worker's.
func (s sink) Work() {}

// SettingChanged implements source.Sink.
func (s sink) SettingChanged() {
	s.watch.again.Set()
	s.sources.poller.Soon() // which reads the epoch with the heads
}

// Contradicted implements source.Sink.
func (s sink) Contradicted(topology stream.TopologyID, last stream.Seq, why string) {
	if a := s.registry.find(topology); a != nil && a.feed.Last() >= last {
		s.reset(a, stream.ErrReset, why)
	}
}

// State implements source.Sink.
func (s notifySink) State(state source.State) {
	s.sources.mode.setListen(state)
	s.attaches.Set()
	s.list.Look() // for what changed while nothing told of it
}

// State implements source.Sink.
func (s walSink) State(state source.State) {
	s.sources.mode.setWAL(state)
	s.list.Look() // as above
	if !state.Connected {
		s.sources.poller.Soon() // what the stream had still to tell
	}
}

// State implements source.Sink.
func (s pollSink) State(state source.State) { s.sources.mode.setPolled(state) }

// positions gives the feeds for the poll to compare.
func (b *Bus) positions() []poll.Position {
	attachments := b.registry.all()
	at := make([]poll.Position, len(attachments))
	for i, a := range attachments {
		last := a.feed.Last()
		at[i] = poll.Position{Topology: a.id, Last: last, InDoubt: b.inDoubt(a.id, last)}
	}
	return at
}

// inDoubt tells whether the event n is in doubt: the WAL has told of it, and the database may not show it yet.
func (b *Bus) inDoubt(id stream.TopologyID, n stream.Seq) bool {
	return b.sources.wal != nil && b.sources.wal.InDoubt(id, n)
}

// forget lets go of the channel and the pages of a topology that is attached no more. It is called under the registry's
// lock.
func (b *Bus) forget(id stream.TopologyID) {
	if b.sources.listener != nil {
		b.sources.listener.Forget(id)
	}
	b.pages.forget(id)
}

// historyChanged ends all feeds of a history before h, which a read has just shown, and has the sources connect anew:
// their connections may lead to an old primary, which still lives and has nothing new to tell.
func (b *Bus) historyChanged(h postgres.History) {
	n := b.registry.endOlder(h)
	b.log.Warn("the database has a new history, by a failover, a restore or migrate new-epoch: clients get snapshots of "+
		"it", "epoch", h.Epoch, "feeds", n)
	b.list.ReadAnew()
	if b.sources.listener != nil {
		b.sources.listener.Reconnect()
		b.sources.wal.Reconnect()
	}
}

// endIfOther ends an attachment if it is of another history than h, which a read of its topology has shown.
func (b *Bus) endIfOther(a *attachment, h postgres.History) {
	if h.Epoch != a.history.Epoch || h.ID != a.history.ID {
		b.reset(a, stream.ErrReset, "the database has another history")
	}
}
