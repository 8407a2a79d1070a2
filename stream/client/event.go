package client

import (
	"encoding/json"

	"topostream/stream"
)

// TypeSnapshot is the type of the event that a stream begins with, unless it is resumed.
const TypeSnapshot = "snapshot"

// typeUnavailable is the type of the event by which a server ends a connection, or one topology's part of it.
const typeUnavailable = "unavailable"

// An Event is one frame of a stream.
type Event struct {
	// Topology is whose it is. Empty where FollowAll gives what the server says about the whole connection, and for what
	// is said of the list.
	Topology stream.TopologyID
	// Type is the event's name: snapshot, status, graph, mutation.applied, deleted, any that was given to topology_emit
	// or typed in a raw NOTIFY, and unavailable or token_expired before the server ends a connection.
	Type string
	// Seq is the event's number: one more than that of the journaled event before. A snapshot's is that of the last event
	// that it holds. 0 for what is not journaled.
	Seq stream.Seq
	// Journaled: it survives everything and comes exactly once. What is not came by a raw NOTIFY or is said by the server
	// about this connection, and whoever is not connected misses it. False for a snapshot.
	Journaled bool
	// Time is when it was recorded, as the server wrote it: RFC 3339 with six digits, UTC. Empty for a snapshot.
	Time string
	// Payload is the event's own JSON; a snapshot's is the whole document,
	// {"topology_id","status","reason","version","seq","in_flight","in_flight_total"} and, where the request asked for the
	// graph, "lans", "deckies" and "edges".
	Payload json.RawMessage
	// Data is the frame's data as it came, JSON: {"topic","type","ts","seq","journaled","payload"}, or a snapshot's
	// document.
	Data string

	// Gap tells of a snapshot whether something lies between it and Previous, the number that came before; 0: none did.
	// Either way a snapshot takes the place of all that the caller knew.
	Gap      Gap
	Previous stream.Seq

	// List is what an event of the list says (TypeList, TypeTopology, TypeRemoved); nil for all others.
	List *ListChange
}

// A Gap is what lies between a snapshot and what came before it.
type Gap int

// The gaps. None of them breaks the promise.
const (
	NoGap      Gap = iota // nothing: it begins the stream, or is of the number that came before
	Skipped               // events Previous+1 to Seq: the journal did not hold them any more
	NewHistory            // the database has another history (a failover, a restored backup): the epochs differ
	NotResumed            // the server could not resume behind Request.After, which is Previous
)

// content is what the client reads of a frame's data.
type content struct {
	TopologyID string          `json:"topology_id"` // of a snapshot
	Topic      string          `json:"topic"`       // topology.<id>.<type>
	Type       string          `json:"type"`
	TS         string          `json:"ts"`
	Seq        stream.Seq      `json:"seq"`
	Journaled  bool            `json:"journaled"`
	Payload    json.RawMessage `json:"payload"`
}
