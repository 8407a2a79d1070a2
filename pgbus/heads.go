package pgbus

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// listenGrace is how long a fresh or lost LISTEN connection may take before requests are attached by the pool.
const listenGrace = 500 * time.Millisecond

// watchHeads compares the heads of attached topologies with their feeds: as a heartbeat while the bus hears of events, so that a
// notification that never came costs a delay and not an event, and as the bus itself while it does not.
func (b *Bus) watchHeads(ctx context.Context) {
	timer := time.NewTimer(b.cfg.Poll)
	defer timer.Stop()
	due := time.Now().Add(b.cfg.Poll) // of the next comparison, while the bus hears
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.polled:
		}
		soon := time.Duration(math.MaxInt64)
		if !b.stats.Listening.Load() || b.cfg.Replica != nil { // what LISTENs is not what is read
			soon = b.attachWhileDeaf(ctx)
		}
		next, cause := b.cfg.Heartbeat, stream.ReadHeartbeat
		if !b.hearing() {
			next, cause = b.cfg.Poll, stream.ReadPoll
		}
		if asked := b.compare.Swap(false); asked || cause == stream.ReadPoll || !time.Now().Before(due) {
			if err := b.compareHeads(ctx, cause); err != nil && ctx.Err() == nil {
				b.log.Warn("cannot compare heads", "error", err)
				next = max(next, wait.Backoff(try, b.cfg.Poll, 2*time.Second))
				try++
			} else {
				try = 0
			}
			due = time.Now().Add(next)
		}
		timer.Reset(min(time.Until(due), soon))
	}
}

// attachWhileDeaf attaches what waits by the pool, once a connection that may be back in a moment has had that moment. It tells when to look again.
func (b *Bus) attachWhileDeaf(ctx context.Context) (soon time.Duration) {
	if left := b.graceLeft(); left > 0 {
		return left
	}
	again := time.Nanosecond
	for again == time.Nanosecond && ctx.Err() == nil {
		again = b.attachByPool(ctx)
	}
	if again == 0 { // nobody waits
		return math.MaxInt64
	}
	return again
}

func (b *Bus) graceLeft() time.Duration {
	if b.cfg.Bus == BusPoll || b.cfg.Replica != nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return listenGrace - time.Since(b.since)
}

// compareHeads has every feed that differs from its head read up or thrown away. A feed's last seq is taken before the
// heads are read: one that is then ahead of its head holds events that the database does not, unless the WAL has just shown them.
func (b *Bus) compareHeads(ctx context.Context, cause stream.Cause) error {
	const query = `SELECT topology_id::text, seq FROM topology_heads WHERE topology_id = ANY ($1::text[]::uuid[])`
	topics := b.attached()
	ids := make([]string, len(topics))
	lasts := make([]stream.Seq, len(topics))
	ahead := make([]bool, len(topics)) // and rightly so
	for i, t := range topics {
		ids[i], lasts[i] = string(t.id), t.feed.Last()
		ahead[i] = b.unsettled.covers(t.id, lasts[i])
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := b.readSetting(ctx); err != nil {
		return err
	}
	if err := b.adviseWAL(ctx); err != nil {
		return err
	}
	b.answered()
	if len(topics) == 0 {
		return nil
	}
	rows, err := b.read().Query(ctx, query, ids)
	if err != nil {
		return fmt.Errorf("read the heads: %w", err)
	}
	heads := make(map[stream.TopologyID]stream.Seq, len(topics))
	var (
		id  stream.TopologyID
		seq stream.Seq
	)
	if _, err := pgx.ForEachRow(rows, []any{&id, &seq}, func() error { heads[id] = seq; return nil }); err != nil {
		return fmt.Errorf("read the heads: %w", err)
	}
	var behind []*topic
	for i, t := range topics {
		h, ok := heads[t.id]
		switch {
		case !ok:
			b.reset(t, "the topology has no head")
		case h < lasts[i] && ahead[i]:
		case h < lasts[i]:
			b.reset(t, fmt.Sprintf("the head is %d, behind the feed", h))
		case h > t.feed.Last():
			behind = append(behind, t)
		}
	}
	b.fillAll(behind, cause)
	return nil
}
