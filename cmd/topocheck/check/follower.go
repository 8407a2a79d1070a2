package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// followEvery is the pause between two reads of the journal when there was nothing more.
const followEvery = 50 * time.Millisecond

// followRows is how many events of each topology one read takes.
const followRows = 500

// A follower reads the journals of all topologies from the database, all the time: retention may be faster than the end
// of the run. What it reads is what everything else is compared with.
type follower struct {
	run        *run
	topologies map[string]*topology

	mu   sync.Mutex // held for a read, and while a promotion is taken in
	conn *pgx.Conn
}

// follow reads until ctx ends.
func (f *follower) follow(ctx context.Context) {
	defer f.close()
	for ctx.Err() == nil {
		more, err := f.readNext(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.run.stats.databaseErrors.Add(1)
			pause(ctx, 200*time.Millisecond)
		case !more:
			pause(ctx, followEvery)
		}
	}
}

// readNext is read under the lock. After an error it connects anew, and so to wherever a promotion has brought the
// database.
func (f *follower) readNext(ctx context.Context) (more bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if more, err = f.read(ctx); err != nil {
		f.close()
	}
	return more, err
}

// readAll reads the journals to their ends.
func (f *follower) readAll(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = f.read(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) close() {
	if f.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = f.conn.Close(ctx) // it is gone either way
		f.conn = nil
	}
}

// journalRow is one row of a read: a topology, and an event of it, if there is one after what was read.
type journalRow struct {
	id          string
	head, first uint64
	seq         *int64
	event       *string
	position    *int64 // of the mutation that it enqueues; retention may have removed it
}

func (r journalRow) mutation() int64 {
	if r.position == nil {
		return 0
	}
	return *r.position
}

// read takes in one page of each topology and judges what waited for it.
func (f *follower) read(ctx context.Context) (more bool, err error) {
	const query = `
SELECT r.id::text, h.seq, h.first, e.seq, e.event, e.position
  FROM unnest($1::text[]::uuid[], $2::bigint[]) AS r(id, after)
  JOIN topology_heads h ON h.topology_id = r.id
  LEFT JOIN LATERAL (SELECT e.seq, topology_event_json(e.topology_id, e.seq, e.type, e.payload, e.at) AS event,
           CASE WHEN e.type = 'mutation.enqueued' THEN
               (SELECT m.position FROM mutations m WHERE m.id = (e.payload ->> 'mutation_id')::uuid) END AS position
      FROM topology_events e
     WHERE e.topology_id = r.id AND e.seq > r.after AND e.seq >= h.first ORDER BY e.seq LIMIT $3) e ON true`
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if f.conn == nil {
		if f.conn, err = f.run.connect(ctx, "follower"); err != nil {
			return false, err
		}
	}
	ids, afters := make([]string, 0, len(f.topologies)), make([]int64, 0, len(f.topologies))
	for id, t := range f.topologies {
		ids, afters = append(ids, id), append(afters, int64(t.at()))
	}
	began := f.run.since()
	rows, err := f.conn.Query(ctx, query, ids, afters, followRows)
	if err != nil {
		return false, fmt.Errorf("read the journal: %w", err)
	}
	pages := map[string][]journalRow{}
	var r journalRow
	_, err = pgx.ForEachRow(rows, []any{&r.id, &r.head, &r.first, &r.seq, &r.event, &r.position}, func() error {
		pages[r.id] = append(pages[r.id], r)
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("read the journal: %w", err)
	}
	for id, page := range pages {
		again, err := f.take(ctx, f.topologies[id], page, began)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// at is where the topology's journal is read to.
func (t *topology) at() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.position
}

// take takes a page of one topology in, of a read that began at began.
func (f *follower) take(ctx context.Context, t *topology, page []journalRow, began time.Duration) (more bool,
	err error) {
	head, first := page[0].head, page[0].first
	t.head.Store(head)
	position := t.at()
	switch {
	case epochOf(head) > epochOf(position):
		return true, f.newEpoch(ctx, t, head)
	case head < position:
		t.mu.Lock()
		t.problem(head, fmt.Sprintf("the head is %d, but %d was read: the journal went back within an epoch", head,
			position))
		t.position = head
		t.mu.Unlock()
		return false, nil
	case first > position+1: // retention was faster
		return true, f.resync(ctx, t)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.first, t.asOf = first, began
	for _, r := range page {
		if r.seq == nil {
			if head != t.position {
				t.problem(t.position+1, fmt.Sprintf("the head is %d, but the journal holds nothing after %d", head,
					t.position))
				t.position = head
			}
			break
		}
		seq := uint64(*r.seq)
		if seq != t.position+1 {
			t.problem(seq, fmt.Sprintf("the journal has a gap: %d follows %d", seq, t.position))
		}
		t.fold(seq, []byte(*r.event), r.mutation(), true)
	}
	t.judgeWaiting(false)
	return t.position < head, nil
}

// An oldRow is an event of an older epoch.
type oldRow struct {
	Seq      uint64
	Event    string
	Position *int64
}

// newEpoch follows a topology into a new epoch, whose history begins with what is left of the older ones.
func (f *follower) newEpoch(ctx context.Context, t *topology, head uint64) error {
	before, base := t.at(), epochBase(epochOf(head))
	left, err := f.olderEpochs(ctx, t, before, base)
	if err != nil {
		return err
	}
	// What is left goes on from what was read: it begins with the newest event of that, or with the first of the epoch.
	continues := len(left) > 0 && (left[0].Seq == before || before == epochBase(epochOf(before)) &&
		left[0].Seq == before+1)
	if len(left) == 0 && before != epochBase(epochOf(before)) {
		if left, err = f.olderEpochs(ctx, t, 0, base); err != nil {
			return err
		}
	}
	if !t.follow(left, before, head, continues) {
		return f.resync(ctx, t)
	}
	return nil
}

// follow has a topology go on in a new epoch, with what is left of the older ones. It tells whether its state at the
// beginning of the new one is known: where retention was faster, it is not.
func (t *topology) follow(left []oldRow, before, head uint64, continues bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ledger.newEpoch(t.run.since())
	switch {
	case continues:
		for _, r := range left {
			if r.Seq > before {
				t.foldOld(r, true)
			}
		}
	case len(left) == 0, left[len(left)-1].Seq > before: // retention takes the oldest first
		return false
	case !t.takenBack(left, epochOf(head)):
		return false
	}
	base := epochBase(epochOf(head))
	t.eras = append(t.eras, era{t.position, t.state.log})
	t.position, t.first = base, base+1
	t.bases[epochOf(head)] = t.state.digest
	return true
}

// olderEpochs reads what the journal holds from one seq to another.
func (f *follower) olderEpochs(ctx context.Context, t *topology, from, to uint64) ([]oldRow, error) {
	const query = `
SELECT e.seq, topology_event_json(e.topology_id, e.seq, e.type, e.payload, e.at),
       CASE WHEN e.type = 'mutation.enqueued' THEN
           (SELECT m.position FROM mutations m WHERE m.id = (e.payload ->> 'mutation_id')::uuid) END
  FROM topology_events e WHERE e.topology_id = $1::text::uuid AND e.seq BETWEEN $2 AND $3 ORDER BY e.seq`
	rows, err := f.conn.Query(ctx, query, t.id, int64(from), int64(to))
	if err != nil {
		return nil, fmt.Errorf("read the older epochs: %w", err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowToStructByPos[oldRow])
	if err != nil {
		return nil, fmt.Errorf("read the older epochs: %w", err)
	}
	return left, nil
}

// foldOld takes an event of an older epoch in. It is called under t.mu.
func (t *topology) foldOld(r oldRow, match bool) {
	if r.Seq != t.position+1 && t.position != 0 && r.Seq != epochBase(epochOf(r.Seq))+1 {
		t.problem(r.Seq, fmt.Sprintf("the older epochs have a gap: %d follows %d", r.Seq, t.position))
	}
	t.fold(r.Seq, []byte(r.Event), journalRow{position: r.Position}.mutation(), match)
}

// takenBack goes back to the end of what is left, which lacks the newest of what was read, though nobody told of a
// promotion. It tells whether the state there is known. It is called under t.mu.
func (t *topology) takenBack(left []oldRow, epoch uint64) bool {
	before, end := t.position, left[len(left)-1].Seq
	switch {
	case t.run.cfg.MayLose:
		t.run.stats.lostByFailover.Add(before - end)
	default:
		t.problem(before, fmt.Sprintf("epoch %d begins without the events %d to %d, which were committed", epoch, end+1,
			before))
	}
	if sameEpoch(end, before) {
		records := t.epochs[epochOf(before)]
		n := min(end-epochBase(epochOf(before)), uint64(len(records)))
		t.epochs[epochOf(before)] = records[:n:n]
	}
	if left[0].Seq != t.origin {
		return false
	}
	t.replaceState(newState(t.run.hash), 0)
	for _, r := range left {
		t.foldOld(r, false)
	}
	return true
}

// resync takes the state from the tables where the journal does not reach back far enough to be replayed.
func (f *follower) resync(ctx context.Context, t *topology) error {
	s, head, first, err := f.run.readState(ctx, f.conn, t.id)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run.stats.resyncs.Add(1)
	t.replaceState(s, head)
	t.first = first
	t.putState(head)
	t.ledger.excuse()
	return nil
}

// putState keeps the state at a seq whose event was not read.
func (t *topology) putState(seq uint64) {
	if seq == epochBase(epochOf(seq)) {
		t.bases[epochOf(seq)] = t.state.digest
		return
	}
	t.put(seq, record{digest: t.state.digest, known: true})
}

// readState reads a topology's state from its tables.
func (r *run) readState(ctx context.Context, conn *pgx.Conn, id string) (s *state, head, first uint64, err error) {
	const (
		topologyRow = `SELECT t.status, t.reason, t.version, h.seq, h.first, '{' || topology_graph_json(t.id) || '}'
  FROM topologies t JOIN topology_heads h ON h.topology_id = t.id WHERE t.id = $1::text::uuid`
		flights = `
SELECT id::text, position, op, payload::text, state FROM mutations
 WHERE topology_id = $1::text::uuid AND state IN ('pending', 'applying')`
	)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read a topology: %w", err)
	}
	defer func() { err = errors.Join(err, tx.Rollback(ctx)) }() // it only reads
	s = newState(r.hash)
	var (
		status, graph string
		reason        *string
		x             snapshot
	)
	if err := tx.QueryRow(ctx, topologyRow, id).Scan(&status, &reason, &s.version, &head, &first, &graph); err != nil {
		return nil, 0, 0, fmt.Errorf("read a topology: %w", err)
	}
	s.seq = head
	s.setStatus(status, reason)
	if err := json.Unmarshal([]byte(strings.ToValidUTF8(graph, "\uFFFD")), &x); err != nil {
		return nil, 0, 0, fmt.Errorf("read a topology's graph: %w", err)
	}
	if err := s.setRows(x.LANs, x.Deckies, x.Edges); err != nil {
		return nil, 0, 0, err
	}
	rows, err := tx.Query(ctx, flights, id)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read the mutations in flight: %w", err)
	}
	var (
		mutation, payload string
		m                 flight
	)
	_, err = pgx.ForEachRow(rows, []any{&mutation, &m.position, &m.op, &payload, &m.state}, func() error {
		s.setMutation(mutation, &flight{position: m.position, op: m.op, payload: compact([]byte(payload)), state: m.state})
		return nil
	})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read the mutations in flight: %w", err)
	}
	return s, head, first, nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
