package check

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// epochBits is where a seq's epoch begins: seq = epoch·2³² + n.
const epochBits = 32

func epochOf(seq uint64) uint64  { return seq >> epochBits }
func epochBase(e uint64) uint64  { return e << epochBits }
func sameEpoch(a, b uint64) bool { return epochOf(a) == epochOf(b) }

// A record is what is kept of one event of the journal.
type record struct {
	digest

	data  uint64        // hash of the encoder's bytes; 0: not known
	at    time.Duration // when its writer's COMMIT returned; 0: not known
	known bool          // it was read; false where retention was faster, and then nothing is compared with it
}

// A topology is one of the run's own, with the history that its journal tells. It is read by one goroutine (follower)
// and asked by all.
type topology struct {
	run  *run
	id   string
	name string

	backlog bool // it is one of those with a backlog

	waiting atomic.Int64  // mutations in flight
	head    atomic.Uint64 // newest that was read

	mu           sync.Mutex
	ledger       ledger
	state        *state
	origin       uint64        // seq of its first event
	position     uint64        // newest seq read
	first        uint64        // oldest seq that the journal holds
	asOf         time.Duration // when the read began that told first
	epochs       map[uint64][]record
	bases        map[uint64]digest // what an epoch began with
	forks        []*fork           // promotions
	eras         []era             // by upto
	observations []observation     // that wait for the journal to be read so far
	snapshots    []taken
	resets       []reset
}

// An observation is one delivery.
type observation struct {
	client *client
	server string
	seq    uint64
	hash   uint64
	at     time.Duration
}

// taken is a snapshot that a client got.
type taken struct {
	client *client
	server string
	seq    uint64
	digest digest
	rows   []shown // in flight, where it does not show all of them
	graph  bool
	at     time.Duration
	fault  string
	raw    string // its beginning
}

// A reset is a snapshot that a client got though it asked for what follows a number.
type reset struct {
	client   *client
	server   string
	from, to uint64
	// the client asked to resume, and this is the answer; else it came later on the stream, as when the server throws a
	// feed of an older epoch away
	asked bool
	at    time.Duration
	fault string
}

func newTopology(r *run, id, name string, head uint64) *topology {
	t := &topology{
		run: r, id: id, name: name, ledger: newLedger(), state: newState(r.hash), position: epochBase(epochOf(head)),
		first:  epochBase(epochOf(head)) + 1,
		origin: epochBase(epochOf(head)) + 1, epochs: map[uint64][]record{}, bases: map[uint64]digest{},
	}
	t.head.Store(head)
	return t
}

// record gives what is known of a seq. It is called under t.mu.
func (t *topology) record(seq uint64) *record { return recordIn(t.epochs, t.bases, seq) }

func recordIn(epochs map[uint64][]record, bases map[uint64]digest, seq uint64) *record {
	records := epochs[epochOf(seq)]
	n := seq - epochBase(epochOf(seq))
	if base, ok := bases[epochOf(seq)]; ok && n == 0 {
		return &record{digest: base}
	}
	if n == 0 || n > uint64(len(records)) || !records[n-1].known {
		return nil
	}
	return &records[n-1]
}

// fold takes the next event of the journal in. position is that of the mutation that it enqueues, 0 where that is not
// known; match says whether the event is new, and not replayed. It is called under t.mu.
func (t *topology) fold(seq uint64, encoded []byte, position int64, match bool) {
	e := event{position: position}
	if err := json.Unmarshal(encoded, &e); err != nil || e.Seq != seq || !e.Journaled {
		t.problem(seq, fmt.Sprintf("the encoder made %q", short(encoded)))
	}
	t.state.seq = seq
	err := t.state.apply(e)
	t.waiting.Store(int64(len(t.state.mutations)))
	t.position = seq
	if !match {
		return
	}
	if err != nil {
		t.problem(seq, err.Error())
	}
	r := record{digest: t.state.digest, data: maphash.Bytes(t.run.hash, encoded), known: true}
	if m, ok := tagOf(e); ok {
		var problem string
		if r.at, problem = t.ledger.find(m, seq); problem != "" {
			t.problem(seq, problem)
		}
	}
	t.put(seq, r)
	t.run.stats.events.Add(1)
}

// put keeps a record. What lies between the last one and it was not read.
func (t *topology) put(seq uint64, r record) {
	e, n := epochOf(seq), seq-epochBase(epochOf(seq))
	for uint64(len(t.epochs[e])) < n {
		t.epochs[e] = append(t.epochs[e], record{})
	}
	t.epochs[e][n-1] = r
}

func (t *topology) problem(seq uint64, detail string) {
	t.run.violations.add(Violation{Kind: Journal, Topology: t.name, Seq: seq, At: t.run.since(),
		Fault: t.run.faults.now(), Detail: detail})
}

// tagOf finds the tag of one of our writers in an event.
func tagOf(e event) (tag, bool) {
	var p struct {
		Tag     tag     `json:"m"`
		Reason  *string `json:"reason"`
		Payload struct {
			X float64 `json:"x"`
		} `json:"payload"`
	}
	switch {
	case e.Type == "status":
		if json.Unmarshal(e.Payload, &p) != nil || p.Reason == nil {
			return 0, false
		}
		number, ok := strings.CutPrefix(*p.Reason, reasonPrefix)
		n, err := strconv.ParseUint(number, 10, 64)
		return tag(n), ok && err == nil
	case e.Type == "mutation.enqueued":
		err := json.Unmarshal(e.Payload, &p)
		return tag(p.Payload.X), err == nil && p.Payload.X >= 1<<tagWriter
	case strings.HasPrefix(e.Type, emitPrefix):
		err := json.Unmarshal(e.Payload, &p)
		return p.Tag, err == nil && p.Tag != 0
	}
	return 0, false
}

// How tags stand in events.
const (
	reasonPrefix = "topocheck "
	emitPrefix   = "topocheck."
)

// decide tells the ledger what became of a tag, and when that was asked for and known.
func (t *topology) decide(m tag, o outcome, sent, at time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seq, problem := t.ledger.decide(m, o, sent, at)
	if problem != "" {
		t.problem(seq, problem)
	}
	if r := t.record(seq); r != nil && o == committed {
		r.at = at
	}
}

func (t *topology) begin(m tag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ledger.begin(m)
}

// maxObservations is how many deliveries may wait for the journal to be read; more are not compared, and the report
// says how many.
const maxObservations = 1 << 18

func (t *topology) observe(o observation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.observations) >= maxObservations {
		t.run.stats.unchecked.Add(1)
		return
	}
	t.observations = append(t.observations, o)
}

func (t *topology) takeSnapshot(s taken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.snapshots = append(t.snapshots, s)
}

func (t *topology) takeReset(r reset) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resets = append(t.resets, r)
}

// judgeWaiting judges what waited for the journal to be read up to where it is now. It is called under t.mu. last says
// that there will be no more.
func (t *topology) judgeWaiting(last bool) {
	t.observations = keep(t.observations, func(o observation) bool { return !t.judgeObservation(o, last) })
	t.snapshots = keep(t.snapshots, func(s taken) bool { return !t.judgeSnapshot(s, last) })
	t.resets = keep(t.resets, func(r reset) bool { return !t.judgeReset(r, last) })
}

// keep is slices.DeleteFunc the other way round, which lets go of a large array when it has emptied.
func keep[T any](all []T, stays func(T) bool) []T {
	if len(all) == 0 {
		return all
	}
	kept := all[:0]
	for _, x := range all {
		if stays(x) {
			kept = append(kept, x)
		}
	}
	clear(all[len(kept):])
	if len(kept) == 0 && cap(kept) > 4096 {
		return nil
	}
	return kept
}

// reached tells whether the journal is known up to seq, or will never be.
func (t *topology) reached(seq uint64) bool { return seq <= t.position }

func (t *topology) judgeObservation(o observation, last bool) (done bool) {
	if r := t.lostRecord(o.seq, func(r *record, _ *fork) bool { return r.data == o.hash }); r != nil {
		t.run.stats.lostHistory.Add(1)
		t.pause(r, o)
		return true
	}
	blame := func(kind Kind, detail string) {
		t.blame(o.client, kind, o.server, o.seq, 0, o.at, t.run.faults.now(), detail)
	}
	r := t.record(o.seq)
	switch {
	case t.ambiguous(o.seq):
		blame(Spliced, splicedDetail)
		return true
	case r == nil && !t.reached(o.seq) && !last:
		return false
	case r == nil && !t.reached(o.seq), r == nil && t.gone(o.seq):
		if !t.run.cfg.MayLose || sameEpoch(o.seq, t.position) {
			blame(Altered, "the journal holds no such event: it was never committed, or was taken back")
		}
		return true
	case r == nil, r.data == 0:
		t.run.stats.unchecked.Add(1)
		return true
	case r.data != o.hash:
		blame(Altered, "the event's bytes are not those that the journal has")
	}
	t.pause(r, o)
	return true
}

// splicedDetail says what a number of two histories is to a client.
const splicedDetail = "after a promotion this number stands for two events, of which one is lost: " +
	"whoever has that one cannot tell, so what is under it now must not be delivered"

// pause takes in how long a steady client waited.
func (t *topology) pause(r *record, o observation) {
	if r.at != 0 && o.client.kind == Steady {
		t.run.faults.pause(r.at, o.at)
	}
}

// blame reports what a client got at some time before now.
func (t *topology) blame(c *client, kind Kind, server string, seq, previous uint64, at time.Duration, fault,
	detail string) {
	t.run.violations.add(Violation{
		Kind: kind, Client: c.name(), ClientKind: string(c.kind), Server: server, Topology: t.name, Seq: seq,
		Previous: previous, At: at, Fault: fault, Detail: detail,
	})
}

// gone tells whether an older epoch ended below seq.
func (t *topology) gone(seq uint64) bool {
	return !sameEpoch(seq, t.position) && seq-epochBase(epochOf(seq)) > uint64(len(t.epochs[epochOf(seq)]))
}

func (t *topology) judgeSnapshot(s taken, last bool) (done bool) {
	if t.lostRecord(s.seq, func(r *record, f *fork) bool { return s.difference(r, f.log) == "" }) != nil {
		t.checked(s)
		return true
	}
	blame := func(kind Kind, detail string) {
		t.blame(s.client, kind, s.server, s.seq, 0, s.at, s.fault, detail)
	}
	r := t.record(s.seq)
	switch {
	case t.ambiguous(s.seq):
		blame(Spliced, splicedDetail)
		return true
	case r == nil && !t.reached(s.seq) && !last:
		return false
	case r == nil && (!t.reached(s.seq) || t.gone(s.seq)):
		if !t.run.cfg.MayLose || sameEpoch(s.seq, t.position) {
			blame(WrongSnapshot, "the journal holds no such seq")
		}
		return true
	case r == nil:
		t.run.stats.unchecked.Add(1)
		return true
	}
	if difference := s.difference(r, t.logAt(s.seq)); difference != "" {
		blame(WrongSnapshot, "not as the journal, replayed to its seq: "+difference+" in "+s.raw)
	}
	t.checked(s)
	return true
}

// difference says what of a snapshot is not as a record and a log have it; empty if nothing.
func (s taken) difference(r *record, log *flightLog) string {
	all := s.rows == nil
	difference := r.difference(s.digest, all, s.graph)
	if !all && difference == "" {
		difference = log.prefix(s.seq, s.rows)
	}
	return difference
}

// checked counts a snapshot that was compared.
func (t *topology) checked(s taken) {
	s.client.kindStats().snapshots.Add(1)
	if s.graph {
		t.run.stats.graphs.Add(1)
	}
	if t.backlog {
		t.run.stats.backlogs.Add(1)
	}
	if s.rows != nil {
		t.run.stats.prefixes.Add(1)
	}
}

// judgeReset judges a snapshot in place of events. The journal's first seq only rises within an epoch: if it is at or
// below what was asked for in a read that began later, the journal held it then.
func (t *topology) judgeReset(r reset, last bool) (done bool) {
	if (!t.reached(r.to) || t.asOf <= r.at) && !last {
		return false
	}
	switch {
	case epochOf(r.to) > epochOf(r.from):
		t.run.stats.epochs.Add(1)
	case epochOf(r.to) < epochOf(r.from):
		t.blame(r.client, WrongSnapshot, r.server, r.to, r.from, r.at, r.fault, "a snapshot of an older epoch")
	case r.to < r.from:
		t.blame(r.client, WrongSnapshot, r.server, r.to, r.from, r.at, r.fault,
			"the snapshot is older than what the client has")
	case sameEpoch(t.position, r.from) && t.first > r.from+1:
		t.run.stats.pruned.Add(1)
	case r.to == r.from && !r.asked: // needless, but it takes nothing away
	case r.to == r.from && sameEpoch(t.position, r.from):
		t.blame(r.client, WrongSnapshot, r.server, r.to, r.from, r.at, r.fault,
			"a snapshot came though the client was at the head and its number was good")
	case sameEpoch(t.position, r.from):
		t.run.violations.add(Violation{
			Kind: Lost, Count: r.to - r.from, Client: r.client.name(), ClientKind: string(r.client.kind),
			Server: r.server, Topology: t.name,
			Seq: r.to, Previous: r.from, At: r.at, Fault: r.fault,
			Detail: "a snapshot took the place of events that the journal held",
		})
	default: // a new epoch has come meanwhile, and what the old one's journal held then is not known
		t.run.stats.unchecked.Add(1)
	}
	return true
}
