package pgbus

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/wait"
	"topostream/stream"
)

const (
	attachBatch = 200                   // topologies in one attach transaction
	attachGap   = 20 * time.Millisecond // between the beginnings of two that are not full
	prefill     = 512                   // events below the head that a catch-up may fetch for those who resume
)

// A head is a topology's row in topology_heads.
type head struct{ seq, first stream.Seq }

type deletedTopology struct{ head head }

// A waiter is one request that waits for its topology to be attached.
type waiter struct {
	req       stream.AttachRequest
	done      chan result // one place: the attaching goroutine never waits for it
	abandoned bool        // under Bus.mu
}

type result struct {
	topic   *topic // with the waiter counted as a client
	deleted *deletedTopology
	err     error
}

// A pendingAttach is a topology that some requests wait for.
type pendingAttach struct {
	waiters   []*waiter
	underWay  bool
	tries     int
	notBefore time.Time
}

func (p *pendingAttach) finish(r result) {
	for _, w := range p.waiters {
		if w.abandoned {
			continue
		}
		if r.topic != nil {
			r.topic.clients++
		}
		w.done <- r
	}
}

// enqueue is called under b.mu.
func (b *Bus) enqueue(req stream.AttachRequest) *waiter {
	w := &waiter{req: req, done: make(chan result, 1)}
	p := b.pending[req.Topology]
	if p == nil {
		p = &pendingAttach{}
		b.pending[req.Topology] = p
	}
	p.waiters = append(p.waiters, w)
	return w
}

// takePending gives the topologies to attach now, and when to look again for those whose last try failed (0: no such).
func (b *Bus) takePending() (ids []stream.TopologyID, again time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	room := attachBatch
	for id, p := range b.pending {
		live := p.waiters[:0]
		for _, w := range p.waiters {
			if !w.abandoned {
				live = append(live, w)
			}
		}
		p.waiters = live
		switch {
		case p.underWay:
		case len(live) == 0:
			delete(b.pending, id)
		case p.notBefore.After(now):
			if wait := p.notBefore.Sub(now); again == 0 || wait < again {
				again = wait
			}
		case len(ids) >= min(room, p.batch()):
			again = time.Nanosecond
		default:
			room = min(room, p.batch())
			p.underWay = true
			ids = append(ids, id)
		}
	}
	return ids, again
}

// batch is how many topologies may share a transaction with this one. A batch that failed is tried again in smaller ones, so that one
// topology whose snapshot takes too long does not keep the others out.
func (p *pendingAttach) batch() int { return max(attachBatch>>(2*min(p.tries, 4)), 1) }

// unwanted has the channel given up if it is listened to. It is called under b.mu.
func (b *Bus) unwanted(id stream.TopologyID, listening bool) {
	if listening {
		b.unlisten[id] = struct{}{}
	}
}

// takeUnlisten gives the channels that are no longer wanted.
func (b *Bus) takeUnlisten(except []stream.TopologyID) []stream.TopologyID {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range except {
		delete(b.unlisten, id)
	}
	ids := make([]stream.TopologyID, 0, len(b.unlisten))
	for id := range b.unlisten {
		if b.topics[id] == nil {
			ids = append(ids, id)
		}
		delete(b.unlisten, id)
	}
	return ids
}

// attachFailed lets the waiters wait for another try.
func (b *Bus) attachFailed(ids []stream.TopologyID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		if p := b.pending[id]; p != nil {
			p.underWay = false
			p.notBefore = time.Now().Add(wait.Backoff(p.tries, 250*time.Millisecond, time.Second))
			p.tries++
		}
	}
}

// listenAndSnapshot LISTENs to the channels of ids and takes their snapshots in one transaction. Commit has returned when it
// returns, so a catch-up that begins afterwards sees every commit whose notification was missed.
func listenAndSnapshot(ctx context.Context, conn *pgx.Conn, listen, unlisten []stream.TopologyID) ([]snapshotRow, error) {
	var sql strings.Builder
	sql.WriteString(beginSnapshot)
	for _, id := range unlisten {
		sql.WriteString("UNLISTEN " + channel(id) + ";")
	}
	for _, id := range listen {
		sql.WriteString("LISTEN " + channel(id) + ";")
	}
	if _, err := conn.Exec(ctx, sql.String()); err != nil {
		return nil, rollback(ctx, conn, fmt.Errorf("LISTEN: %w", err))
	}
	rows, err := selectSnapshots(ctx, conn, listen, false)
	if err != nil {
		return nil, rollback(ctx, conn, err)
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return nil, rollback(ctx, conn, fmt.Errorf("commit the attach: %w", err))
	}
	return rows, nil
}

func rollback(ctx context.Context, conn *pgx.Conn, cause error) error {
	if conn.IsClosed() {
		return cause
	}
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		return fmt.Errorf("%w (and the rollback: %w)", cause, err)
	}
	return cause
}

// channel is the quoted name of a topology's channel.
func channel(id stream.TopologyID) string { return pgx.Identifier{"topology." + string(id)}.Sanitize() }

// attachDone makes topics of the snapshots, wakes the waiters and has the catch-up done. listening tells whether the
// transaction LISTENed.
func (b *Bus) attachDone(ids []stream.TopologyID, rows []snapshotRow, listening bool) {
	b.stats.AttachTransactions.Add(1)
	found := make(map[stream.TopologyID]snapshotRow, len(rows))
	for _, r := range rows {
		found[r.id] = r
	}
	var attached []*topic
	b.mu.Lock()
	for _, id := range ids {
		p := b.pending[id]
		if p == nil { // the bus was closed
			continue
		}
		delete(b.pending, id)
		r, ok := found[id]
		switch {
		case !ok:
			b.unwanted(id, listening)
			p.finish(result{err: stream.ErrNotFound})
		case r.snapshot == "":
			b.unwanted(id, listening)
			p.finish(result{deleted: &deletedTopology{r.head}})
		default:
			t := &topic{id: id, feed: b.newFeed(id, lowest(p.waiters, r.head), r.head.seq), attachedAt: r.head.seq, listening: listening, idle: time.Now()}
			t.feed.SetDocument(b.encode(r))
			b.topics[id] = t
			attached = append(attached, t)
			p.finish(result{topic: t})
		}
	}
	b.mu.Unlock()
	b.fillAll(attached, stream.ReadCatchUp)
}

// lowest is where the feed of a fresh attach begins: at the head, or, so that those who resume need no query of their own,
// at the lowest number that waits, at most prefill events below.
func lowest(waiters []*waiter, h head) stream.Seq {
	base := h.seq
	floor := max(h.first, 1) - 1
	if h.seq > floor+prefill {
		floor = h.seq - prefill
	}
	for _, w := range waiters {
		if w.req.Resume && w.req.After >= floor && w.req.After < base {
			base = w.req.After
		}
	}
	return base
}

const beginSnapshot = `BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '2s';`

// A snapshotRow is one row of topology_snapshots.
type snapshotRow struct {
	id       stream.TopologyID
	head     head
	snapshot string // JSON; empty: the topology is deleted
}

func (b *Bus) encode(r snapshotRow) *stream.Snapshot {
	return stream.NewSnapshot(r.head.seq, b.cfg.Encoder.Snapshot(r.head.seq, []byte(r.snapshot)), nil)
}

func selectSnapshots(ctx context.Context, conn *pgx.Conn, ids []stream.TopologyID, graph bool) ([]snapshotRow, error) {
	const query = `SELECT topology_id::text, seq, first, coalesce(snapshot, '') FROM topology_snapshots($1::text[]::uuid[], $2)`
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	rows, err := conn.Query(ctx, query, texts, graph)
	if err != nil {
		return nil, fmt.Errorf("read snapshots: %w", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r snapshotRow, err error) {
		err = row.Scan(&r.id, &r.head.seq, &r.head.first, &r.snapshot)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read snapshots: %w", err)
	}
	return out, nil
}

// readSnapshot takes one snapshot on the pool.
func (b *Bus) readSnapshot(ctx context.Context, id stream.TopologyID, graph bool) (*stream.Snapshot, error) {
	rows, err := b.poolSnapshots(ctx, []stream.TopologyID{id}, graph)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	case len(rows) == 0 || rows[0].snapshot == "":
		return nil, stream.ErrNotFound
	}
	b.stats.SnapshotReads.Add(1)
	return b.encode(rows[0]), nil
}

func (b *Bus) poolSnapshots(ctx context.Context, ids []stream.TopologyID, graph bool) ([]snapshotRow, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := b.read().Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("take a connection of the pool: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, beginSnapshot); err != nil {
		return nil, rollback(ctx, conn.Conn(), err)
	}
	rows, err := selectSnapshots(ctx, conn.Conn(), ids, graph)
	if err != nil {
		return nil, rollback(ctx, conn.Conn(), err)
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return nil, rollback(ctx, conn.Conn(), err)
	}
	return rows, nil
}

// attachByPool attaches what waits while nothing LISTENs to what is read.
func (b *Bus) attachByPool(ctx context.Context) (again time.Duration) {
	ids, again := b.takePending()
	if len(ids) == 0 {
		return again
	}
	rows, err := b.poolSnapshots(ctx, ids, false)
	if err != nil {
		b.attachFailed(ids)
		b.log.Warn("attach failed; trying again", "topologies", len(ids), "error", err)
		return 250 * time.Millisecond
	}
	b.attachDone(ids, rows, false)
	b.wait.interrupt() // the listener may be up by now
	return time.Nanosecond
}
