// Package source defines how a server or a worker is told of new events. There are three ways behind one interface:
// notify (LISTEN), wal (logical replication) and poll. A source tells what happened since it is connected; what came
// before is in the journal, and whoever is told reads it there.
package source

import (
	"context"

	"topostream/stream"
)

// An Event is what a source knows of one row of the journal.
type Event struct {
	Topology stream.TopologyID
	Seq      stream.Seq
	Type     string // empty where only the number is known
	XID      uint32 // wal: the lower half of the transaction's number; 0 from the others
	// JSON gives the encoder's JSON; false, or a nil function: it must be read from the journal.
	JSON func() (string, bool)
}

// A Source tells a Sink of what commits.
//
// Order: the events of one topology are told in the order of their seqs, each at most once for each connection. Between
// topologies there is no order. A poll tells the newest seq alone.
//
// What may be missed: whatever commits while the source is not connected, and, for a topology, before Sink.Subscribed
// named it. From then on nothing is missed, with one exception: while PostgreSQL's NOTIFY queue is too full, the
// triggers do not use it. The poll is the net for that. What is told is a claim: the journal decides.
//
// Loss of the connection: the source says so by Sink.State and reconnects for ever, with capped backoff that begins
// anew after each success. When it is back it calls Sink.Subscribed, and whoever is told reads what it missed.
type Source interface {
	// Run tells sink until ctx ends. It owns its connection and its goroutines, and has ended them when it returns.
	Run(ctx context.Context, sink Sink)
}

// A Sink is what a source tells of events. Its methods return at once. Several sources, and several goroutines of one,
// may call them; but of each source only one goroutine calls those about the events of a topology.
type Sink interface {
	// Event tells that the topology has an event. From wal it may not be visible yet: then Visible follows.
	Event(e Event)
	// Visible tells that a statement that begins now sees an event of wal that Event told of: the newest of its topology.
	Visible(e Event)
	// Subscribed tells that from now on all events of these topologies are told (nil: of all topologies). What has
	// committed before is to be read from the journal, by a read that begins now.
	Subscribed(topologies []stream.TopologyID, why stream.Cause)
	// Raw tells of a NOTIFY that is not the triggers' own.
	Raw(topology stream.TopologyID, text string)
	// Listed tells that a topology's row in the list may have changed.
	Listed(topology stream.TopologyID)
	// Work tells that there may be a mutation to claim.
	Work()
	// SettingChanged tells that topology_settings may have changed: the bus or the epoch.
	SettingChanged()
	// Contradicted tells that a topology's feed, whose newest event was last, is ahead of its head in the database, or
	// that there is no head.
	Contradicted(topology stream.TopologyID, last stream.Seq, why string)
	// State tells whether the source is connected.
	State(s State)
}

// A State says whether a source is connected.
type State struct {
	Connected bool
	Detail    string // why not, for people
}

// Ignore is a Sink that ignores everything, to be embedded in one that ignores some of it.
type Ignore struct{}

var _ Sink = Ignore{}

// Event implements Sink.
func (Ignore) Event(Event) {}

// Visible implements Sink.
func (Ignore) Visible(Event) {}

// Subscribed implements Sink.
func (Ignore) Subscribed([]stream.TopologyID, stream.Cause) {}

// Raw implements Sink.
func (Ignore) Raw(stream.TopologyID, string) {}

// Listed implements Sink.
func (Ignore) Listed(stream.TopologyID) {}

// Work implements Sink.
func (Ignore) Work() {}

// SettingChanged implements Sink.
func (Ignore) SettingChanged() {}

// Contradicted implements Sink.
func (Ignore) Contradicted(stream.TopologyID, stream.Seq, string) {}

// State implements Sink.
func (Ignore) State(State) {}
