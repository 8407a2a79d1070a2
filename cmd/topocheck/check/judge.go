package check

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"
)

// A judge holds what one client got of one topology against the promise, across all its connections.
type judge struct {
	client   *client
	topology *topology

	seq  atomic.Uint64 // last, for others
	has  bool          // last came from a server
	last uint64        // newest seq
	gaps []gap         // what was passed over: it may still come, too late

	// Of this connection.
	server  string
	resumed bool // it was asked to go on after last
	graph   bool // its snapshots hold the graph
	begun   bool // something journaled or a snapshot came
	ended   bool // the server has said that it ends the stream
}

// A gap is a run of seqs that did not come where they should have.
type gap struct {
	from, to  uint64
	violation Violation
}

// maxGaps is how many gaps a client waits for; the older ones are then lost.
const maxGaps = 64

// connect begins a connection.
func (j *judge) connect(server string, graph bool) {
	j.server, j.graph, j.resumed, j.begun, j.ended = server, graph, j.has, false, false
}

// frame judges one frame that holds an event. Its error ends the connection: what follows cannot be trusted.
func (j *judge) frame(f *frame) error {
	if j.ended {
		return torn("event %q came after the end of the stream", f.event)
	}
	now := j.client.run.since()
	if string(f.event) == "snapshot" {
		return j.snapshot(f, now)
	}
	var e struct {
		Type      string `json:"type"`
		Seq       uint64 `json:"seq"`
		Journaled bool   `json:"journaled"`
	}
	if err := json.Unmarshal(f.data, &e); err != nil {
		return torn("the data of event %q is no JSON: %s: %q", f.event, err, short(f.data))
	}
	switch {
	case e.Type != string(f.event):
		return torn("event %q holds one of type %q", f.event, e.Type)
	case !e.Journaled && f.hasID:
		return torn("event %q is not journaled, but has the id %d", f.event, f.id)
	case !e.Journaled:
		j.client.kindStats().unjournaled.Add(1)
		j.ended = e.Type == "unavailable" || e.Type == "token_expired"
		return nil
	case f.id != e.Seq:
		return torn("the event with id %d holds seq %d", f.id, e.Seq)
	}
	j.journaled(e.Seq)
	j.client.kindStats().deliveries.Add(1)
	j.topology.observe(observation{client: j.client, server: j.server, seq: e.Seq,
		hash: maphash.Bytes(j.client.run.hash, f.data), at: now})
	return nil
}

// journaled judges the place of an event: it must be the next one.
func (j *judge) journaled(seq uint64) {
	switch {
	case j.has && seq == j.last+1:
	case !j.has:
		j.report(Reordered, seq, "an event came before the snapshot")
	case !sameEpoch(seq, j.last):
		j.report(Reordered, seq, "an event of another epoch came without a snapshot")
	case seq <= j.last && j.late(seq):
		j.report(Reordered, seq, "the event came after a later one")
		return
	case seq <= j.last:
		j.report(Doubled, seq, "the client had it already")
		return
	default:
		j.open(seq)
	}
	j.has, j.last, j.begun = true, seq, true
}

// open notes that the seqs between last and seq were passed over.
func (j *judge) open(seq uint64) {
	v := j.client.violation(Lost, j.topology, j.server, seq, j.last, "the events between the two did not come")
	j.gaps = append(j.gaps, gap{from: j.last + 1, to: seq - 1, violation: v})
	if len(j.gaps) > maxGaps {
		j.lose(j.gaps[0])
		j.gaps = j.gaps[1:]
	}
}

// late tells whether seq is one that was passed over, and strikes it out.
func (j *judge) late(seq uint64) bool {
	for i, g := range j.gaps {
		if seq < g.from || seq > g.to {
			continue
		}
		var left []gap
		if seq > g.from {
			left = append(left, gap{from: g.from, to: seq - 1, violation: g.violation})
		}
		if seq < g.to {
			left = append(left, gap{from: seq + 1, to: g.to, violation: g.violation})
		}
		j.gaps = append(j.gaps[:i:i], append(left, j.gaps[i+1:]...)...)
		return true
	}
	return false
}

func (j *judge) lose(g gap) {
	g.violation.Count = g.to - g.from + 1
	j.client.run.violations.add(g.violation)
}

// close says that nothing more comes: what was passed over is lost.
func (j *judge) close() {
	for _, g := range j.gaps {
		j.lose(g)
	}
	j.gaps = nil
}

func (j *judge) snapshot(f *frame, now time.Duration) error {
	var s snapshot
	if err := json.Unmarshal(f.data, &s); err != nil {
		return torn("a snapshot is no JSON: %s: %q", err, short(f.data))
	}
	if f.id != s.Seq {
		return torn("the snapshot with id %d has seq %d", f.id, s.Seq)
	}
	fault := j.client.run.faults.now()
	if s.TopologyID != j.topology.id || j.graph && (s.LANs == nil || s.Deckies == nil || s.Edges == nil) {
		j.report(WrongSnapshot, s.Seq, "it is of another topology, or holds no graph: "+string(short(f.data)))
		return nil
	}
	if j.has && (j.resumed || j.begun) {
		j.client.run.stats.resets.Add(1)
		j.topology.takeReset(reset{client: j.client, server: j.server, from: j.last, to: s.Seq, asked: j.resumed &&
			!j.begun, at: now, fault: fault})
	}
	d, rows, err := digestOf(j.client.run.hash, s)
	problem := s.malformed()
	if err != nil {
		problem = err.Error()
	}
	if problem != "" {
		j.report(WrongSnapshot, s.Seq, problem)
	} else {
		j.topology.takeSnapshot(taken{
			client: j.client, server: j.server, seq: s.Seq, digest: d, rows: rows, graph: j.graph, at: now, fault: fault,
			raw: fmt.Sprintf("%.300s", f.data),
		})
	}
	j.has, j.last, j.begun = true, s.Seq, true
	return nil
}

func (j *judge) report(kind Kind, seq uint64, detail string) {
	j.client.run.violations.add(j.client.violation(kind, j.topology, j.server, seq, j.last, detail))
}
