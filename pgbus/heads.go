package pgbus

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// listenGrace is how long a fresh or lost LISTEN connection may take before requests are attached by the pool.
const listenGrace = 500 * time.Millisecond

// watchHeads compares the heads of attached topologies with their feeds: as a heartbeat while the bus listens, so that a
// notification that never came costs a delay and not an event, and as the bus itself while it does not.
func (b *Bus) watchHeads(ctx context.Context) {
	timer := time.NewTimer(b.cfg.Poll)
	defer timer.Stop()
	for try := 0; ; {
		woken := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.polled:
			woken = true
		}
		listening := b.stats.Listening.Load()
		next := b.cfg.Heartbeat
		cause := stream.ReadHeartbeat
		if !listening {
			next, cause = b.cfg.Poll, stream.ReadPoll
			if wait := b.graceLeft(); wait > 0 {
				next = wait
			} else {
				for again := time.Nanosecond; again == time.Nanosecond && ctx.Err() == nil; {
					again = b.attachByPool(ctx)
				}
			}
		}
		if !woken || !listening {
			if err := b.compareHeads(ctx, cause); err != nil && ctx.Err() == nil {
				b.log.Warn("cannot compare heads", "error", err)
				next = max(next, wait.Backoff(try, b.cfg.Poll, 2*time.Second))
				try++
			} else {
				try = 0
			}
		}
		if !woken || !listening {
			timer.Reset(next)
		}
	}
}

func (b *Bus) graceLeft() time.Duration {
	if b.cfg.PollOnly {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return listenGrace - time.Since(b.since)
}

// compareHeads has every feed that differs from its head read up or thrown away. A feed's last seq is taken before the
// heads are read: one that is then ahead of its head holds events that the database does not.
func (b *Bus) compareHeads(ctx context.Context, cause stream.Cause) error {
	const query = `SELECT topology_id::text, seq FROM topology_heads WHERE topology_id = ANY ($1::text[]::uuid[])`
	topics := b.attached()
	ids := make([]string, len(topics))
	lasts := make([]stream.Seq, len(topics))
	for i, t := range topics {
		ids[i], lasts[i] = string(t.id), t.feed.Last()
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := b.watchQueue(ctx); err != nil {
		return err
	}
	b.answered()
	if len(topics) == 0 {
		return nil
	}
	rows, err := b.cfg.Pool.Query(ctx, query, ids)
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
		case h < lasts[i]:
			b.reset(t, fmt.Sprintf("the head is %d, behind the feed", h))
		case h > t.feed.Last():
			behind = append(behind, t)
		}
	}
	b.fillAll(behind, cause)
	return nil
}
