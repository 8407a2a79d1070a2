package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
)

// A digest stands for a topology's state at one seq: what a snapshot shows. Sets are sums of their rows' hashes, so
// that an event costs what it changes and not the size of the set.
type digest struct {
	status   uint64 // of status and reason
	version  int64
	inFlight uint64 // of the mutations in flight
	flights  int    // their number
	graph    uint64 // of LANs, deckies and edges
}

// state is a topology's state, replayed from its journal.
type state struct {
	digest

	seed      maphash.Seed
	seq       uint64             // of the event that is taken in, or of the tables that it was read from
	mutations map[string]*flight // in flight
	log       *flightLog         // of all that were
	rows      map[string]uint64  // of the graph: table and id → hash
}

type flight struct {
	position int64 // 0: not known
	op       string
	payload  []byte // compacted
	state    string
	hash     uint64
}

func newState(seed maphash.Seed) *state {
	return &state{seed: seed, mutations: map[string]*flight{}, log: newFlightLog(), rows: map[string]uint64{}}
}

// An event as the encoder makes it.
type event struct {
	Type      string          `json:"type"`
	Seq       uint64          `json:"seq"`
	Journaled bool            `json:"journaled"`
	Payload   json.RawMessage `json:"payload"`

	position int64 // of the mutation that it enqueues, from the table; 0: not known
}

type mutationRow struct {
	ID          string          `json:"id"`
	Position    *int64          `json:"position"`
	TopologyID  string          `json:"topology_id"`
	Op          string          `json:"op"`
	Payload     json.RawMessage `json:"payload"`
	State       string          `json:"state"`
	RequestedBy json.RawMessage `json:"requested_by"` // nil: it is not there
}

// A snapshot as the interface describes it. In the form of the first version it holds all mutations in flight; in the
// bounded form, which has in_flight_total, the first ones by position.
type snapshot struct {
	TopologyID string            `json:"topology_id"`
	Status     string            `json:"status"`
	Reason     *string           `json:"reason"`
	Version    int64             `json:"version"`
	Seq        uint64            `json:"seq"`
	InFlight   []mutationRow     `json:"in_flight"`
	Total      *int              `json:"in_flight_total"`
	LANs       []json.RawMessage `json:"lans"`
	Deckies    []json.RawMessage `json:"deckies"`
	Edges      []json.RawMessage `json:"edges"`
}

// apply takes an event into the state. Its error is a history that cannot be: a journal that lacks an event, or holds
// one twice.
func (s *state) apply(e event) error {
	switch e.Type {
	case "status":
		return s.applyStatus(e.Payload)
	case "graph":
		return s.merge(e.Type, e.Payload)
	case "mutation.enqueued", "mutation.applying", "mutation.requeued", "mutation.failed", "mutation.applied":
		return s.applyMutation(e)
	}
	return nil
}

func (s *state) applyStatus(payload []byte) error {
	var p struct {
		State  string  `json:"state"`
		Reason *string `json:"reason"`
	}
	if err := json.Unmarshal(payload, &p); err != nil || p.State == "" {
		return fmt.Errorf("the payload of a status event is %q", short(payload))
	}
	s.setStatus(p.State, p.Reason)
	return nil
}

func (s *state) setStatus(status string, reason *string) {
	s.status = statusHash(s.seed, status, reason)
}

func statusHash(seed maphash.Seed, status string, reason *string) uint64 {
	if reason == nil {
		return maphash.String(seed, status)
	}
	return maphash.String(seed, status+"\x00"+*reason)
}

// legalFrom says in which state a mutation must be for each event of it.
var legalFrom = map[string]string{ //nolint:gochecknoglobals // a table
	"mutation.enqueued": "", "mutation.applying": "pending", "mutation.requeued": "applying",
	"mutation.failed": "applying", "mutation.applied": "applying",
}

func (s *state) applyMutation(e event) error {
	var p struct {
		ID      string          `json:"mutation_id"`
		Op      string          `json:"op"`
		Payload json.RawMessage `json:"payload"`
		Version *int64          `json:"version"`
		Result  json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(e.Payload, &p); err != nil || p.ID == "" {
		return fmt.Errorf("the payload of %s is %q", e.Type, short(e.Payload))
	}
	m, was := s.mutations[p.ID], ""
	if m != nil {
		was = m.state
	}
	if was != legalFrom[e.Type] {
		return fmt.Errorf("%s of mutation %s, which is %q: it must be %q", e.Type, p.ID, was, legalFrom[e.Type])
	}
	switch e.Type {
	case "mutation.enqueued":
		s.setMutation(p.ID, &flight{position: e.position, op: p.Op, payload: compact(p.Payload), state: "pending"})
	case "mutation.applying":
		s.setMutation(p.ID, m.in("applying"))
	case "mutation.requeued":
		s.setMutation(p.ID, m.in("pending"))
	case "mutation.failed":
		s.setMutation(p.ID, nil)
		if p.Version != nil { // the first version's rises with applied ones alone, and this event does not hold it
			return s.raise(e.Type, p.ID, *p.Version)
		}
	case "mutation.applied":
		s.setMutation(p.ID, nil)
		if p.Version == nil {
			return fmt.Errorf("mutation.applied of %s has no version", p.ID)
		}
		return errors.Join(s.raise(e.Type, p.ID, *p.Version), s.merge(e.Type, p.Result))
	}
	return nil
}

// raise takes in the version that a mutation's end made.
func (s *state) raise(what, id string, version int64) error {
	before := s.version
	s.version = version
	if version != before+1 {
		return fmt.Errorf("%s of %s has version %d after %d", what, id, version, before)
	}
	return nil
}

// in is the mutation in another state.
func (m *flight) in(state string) *flight {
	return &flight{position: m.position, op: m.op, payload: m.payload, state: state}
}

// setMutation puts a mutation in flight into the state, or takes it out.
func (s *state) setMutation(id string, m *flight) {
	if old := s.mutations[id]; old != nil {
		s.inFlight -= old.hash
		s.flights--
		delete(s.mutations, id)
	}
	if m != nil {
		m.hash = flightHash(s.seed, id, m.op, m.state, m.payload)
		s.inFlight += m.hash
		s.flights++
		s.mutations[id] = m
	}
	s.log.note(s.seq, id, m)
}

func flightHash(seed maphash.Seed, id, op, state string, payload []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range []string{id, op, state} {
		_, _ = h.WriteString(part + "\x00") // never fails
	}
	_, _ = h.Write(payload) // never fails
	return h.Sum64()
}

// merge takes what changed into the graph: the result of an applied mutation, or the payload of a graph event.
func (s *state) merge(what string, result []byte) error {
	var r struct {
		LANs    []json.RawMessage `json:"lans"`
		Deckies []json.RawMessage `json:"deckies"`
		Edges   []json.RawMessage `json:"edges"`
		Removed []struct {
			Table string `json:"table"`
			ID    string `json:"id"`
		} `json:"removed"`
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return fmt.Errorf("what %s changed is %q", what, short(result))
	}
	for _, x := range r.Removed {
		s.setRow(x.Table+" "+x.ID, 0)
	}
	return s.setRows(r.LANs, r.Deckies, r.Edges)
}

func (s *state) setRows(lans, deckies, edges []json.RawMessage) error {
	return eachRow(lans, deckies, edges, func(key string, canonical []byte) {
		s.setRow(key, maphash.Bytes(s.seed, canonical))
	})
}

func (s *state) setRow(key string, hash uint64) {
	s.graph += hash - s.rows[key]
	if hash == 0 {
		delete(s.rows, key)
		return
	}
	s.rows[key] = hash
}

// eachRow gives each row of a graph with its key and in one form: the same row is text of json in one place and of
// jsonb in another.
func eachRow(lans, deckies, edges []json.RawMessage, f func(key string, canonical []byte)) error {
	for table, rows := range map[string][]json.RawMessage{"lans": lans, "deckies": deckies, "edges": edges} {
		for _, raw := range rows {
			var row map[string]any
			if err := json.Unmarshal(raw, &row); err != nil {
				return fmt.Errorf("%q is no row of %s", short(raw), table)
			}
			id, _ := row["id"].(string)
			if table == "deckies" {
				id, _ = row["uuid"].(string)
			}
			canonical, err := json.Marshal(row)
			if err != nil || id == "" {
				return fmt.Errorf("%q is no row of %s", short(raw), table)
			}
			f(table+" "+id, canonical)
		}
	}
	return nil
}

// digestOf is the digest of what a snapshot shows. Where it does not show all mutations in flight, it also gives those
// that it does.
func digestOf(seed maphash.Seed, x snapshot) (digest, []shown, error) {
	d := digest{status: statusHash(seed, x.Status, x.Reason), version: x.Version, flights: len(x.InFlight)}
	if x.Total != nil {
		d.flights = *x.Total
	}
	rows := make([]shown, 0, len(x.InFlight))
	for _, m := range x.InFlight {
		r := shown{id: m.ID}
		payload := compact(m.Payload)
		r.hash, r.size = flightHash(seed, m.ID, m.Op, m.State, payload), len(payload)
		if m.Position != nil {
			r.position = *m.Position
		}
		d.inFlight += r.hash
		rows = append(rows, r)
	}
	if d.flights == len(rows) {
		rows = nil
	}
	err := eachRow(x.LANs, x.Deckies, x.Edges,
		func(_ string, canonical []byte) { d.graph += maphash.Bytes(seed, canonical) })
	return d, rows, err
}

// malformed says what of the form of in_flight is wrong; empty if nothing.
func (x snapshot) malformed() string {
	var last int64
	bytes := 0
	for i, m := range x.InFlight {
		switch {
		case x.Total != nil && (m.Position == nil || m.RequestedBy == nil):
			return fmt.Sprintf("in_flight[%d] has no position or no requested_by", i)
		case m.Position != nil && *m.Position <= last:
			return fmt.Sprintf("in_flight[%d] has position %d after %d", i, *m.Position, last)
		case m.Position != nil:
			last = *m.Position
		}
		bytes += len(compact(m.Payload))
	}
	switch n := len(x.InFlight); {
	case x.Total == nil:
		return ""
	case *x.Total < n:
		return fmt.Sprintf("in_flight_total is %d, and in_flight holds %d", *x.Total, n)
	case n > mostShown || bytes > mostShownBytes:
		return fmt.Sprintf("in_flight holds %d mutations and %d bytes of payloads", n, bytes)
	}
	return ""
}

// compact gives JSON without spaces between its tokens.
func compact(raw []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

// difference says what of a snapshot is not as the journal has it. all says that it shows all mutations in flight.
func (d digest) difference(snapshot digest, all, graph bool) string {
	var parts []string
	for _, p := range []struct {
		name   string
		differ bool
	}{
		{"status or reason", d.status != snapshot.status},
		{fmt.Sprintf("version (%d, not %d)", snapshot.version, d.version), d.version != snapshot.version},
		{"mutations in flight", all && d.inFlight != snapshot.inFlight},
		{fmt.Sprintf("number in flight (%d, not %d)", snapshot.flights, d.flights), d.flights != snapshot.flights},
		{"LANs, deckies or edges", graph && d.graph != snapshot.graph},
	} {
		if p.differ {
			parts = append(parts, p.name)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprint(parts)
}
