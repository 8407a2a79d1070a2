package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
)

// A digest stands for a topology's state at one seq: what a snapshot shows. Sets are sums of their rows' hashes, so
// that an event costs what it changes and not the size of the set.
type digest struct {
	status   uint64 // of status and reason
	version  int64
	inFlight uint64 // of the mutations in flight
	graph    uint64 // of LANs, deckies and edges
}

// state is a topology's state, replayed from its journal.
type state struct {
	digest

	seed      maphash.Seed
	mutations map[string]*flight // in flight
	rows      map[string]uint64  // of the graph: table and id → hash
}

type flight struct {
	op      string
	payload []byte // compacted
	state   string
	hash    uint64
}

func newState(seed maphash.Seed) *state {
	return &state{seed: seed, mutations: map[string]*flight{}, rows: map[string]uint64{}}
}

// An event as the encoder makes it.
type event struct {
	Type      string          `json:"type"`
	Seq       uint64          `json:"seq"`
	Journaled bool            `json:"journaled"`
	Payload   json.RawMessage `json:"payload"`
}

type mutationRow struct {
	ID         string          `json:"id"`
	TopologyID string          `json:"topology_id"`
	Op         string          `json:"op"`
	Payload    json.RawMessage `json:"payload"`
	State      string          `json:"state"`
}

// A snapshot as the interface describes it.
type snapshot struct {
	TopologyID string            `json:"topology_id"`
	Status     string            `json:"status"`
	Reason     *string           `json:"reason"`
	Version    int64             `json:"version"`
	Seq        uint64            `json:"seq"`
	InFlight   []mutationRow     `json:"in_flight"`
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
		Version int64           `json:"version"`
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
		s.setMutation(p.ID, &flight{op: p.Op, payload: compact(p.Payload), state: "pending"})
	case "mutation.applying":
		s.setMutation(p.ID, &flight{op: m.op, payload: m.payload, state: "applying"})
	case "mutation.requeued":
		s.setMutation(p.ID, &flight{op: m.op, payload: m.payload, state: "pending"})
	case "mutation.failed":
		s.setMutation(p.ID, nil)
	case "mutation.applied":
		s.setMutation(p.ID, nil)
		s.version++
		if p.Version != s.version {
			before := s.version - 1
			s.version = p.Version
			return fmt.Errorf("mutation.applied of %s has version %d after %d", p.ID, p.Version, before)
		}
		return s.merge(p.Result)
	}
	return nil
}

// setMutation puts a mutation in flight into the state, or takes it out.
func (s *state) setMutation(id string, m *flight) {
	if old := s.mutations[id]; old != nil {
		s.inFlight -= old.hash
		delete(s.mutations, id)
	}
	if m != nil {
		m.hash = flightHash(s.seed, id, m.op, m.state, m.payload)
		s.inFlight += m.hash
		s.mutations[id] = m
	}
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

// merge takes the result of an applied mutation into the graph.
func (s *state) merge(result []byte) error {
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
		return fmt.Errorf("the result of mutation.applied is %q", short(result))
	}
	for _, x := range r.Removed {
		s.setRow(x.Table+" "+x.ID, 0)
	}
	return s.setRows(r.LANs, r.Deckies, r.Edges)
}

func (s *state) setRows(lans, deckies, edges []json.RawMessage) error {
	return eachRow(lans, deckies, edges, func(key string,
		canonical []byte) {
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

// digestOf is the digest of what a snapshot shows.
func digestOf(seed maphash.Seed, x snapshot) (digest, error) {
	d := digest{status: statusHash(seed, x.Status, x.Reason), version: x.Version}
	for _, m := range x.InFlight {
		d.inFlight += flightHash(seed, m.ID, m.Op, m.State, compact(m.Payload))
	}
	err := eachRow(x.LANs, x.Deckies, x.Edges,
		func(_ string, canonical []byte) { d.graph += maphash.Bytes(seed, canonical) })
	return d, err
}

// compact gives JSON without spaces between its tokens.
func compact(raw []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return raw
	}
	return b.Bytes()
}

// difference says what of a snapshot is not as the journal has it.
func (d digest) difference(snapshot digest, graph bool) string {
	var parts []string
	for _, p := range []struct {
		name   string
		differ bool
	}{
		{"status or reason", d.status != snapshot.status},
		{fmt.Sprintf("version (%d, not %d)", snapshot.version, d.version), d.version != snapshot.version},
		{"mutations in flight", d.inFlight != snapshot.inFlight},
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
