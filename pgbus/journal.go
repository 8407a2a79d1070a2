package pgbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/stream"
)

// A pager reads the journal for cursors behind their feed's ring. Those of one topology that need the same page share the read;
// the read belongs to none of them, so one that goes away takes nothing from the others.
type pager struct {
	mu     sync.Mutex
	calls  map[pageKey]*pageCall
	recent [16]*pageCall // newest pages, for those who come a little later
	next   int
}

// forget drops what is known of a topology whose feed has ended: it may be of a history that was taken back.
func (p *pager) forget(id stream.TopologyID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.recent {
		if c != nil && c.key.id == id {
			p.recent[i] = nil
		}
	}
	for key := range p.calls {
		if key.id == id {
			delete(p.calls, key) // those who wait for it get it, and nobody else
		}
	}
}

type pageKey = pageRequest

type pageCall struct {
	key    pageKey
	done   chan struct{}
	frames []stream.Frame
	size   int
	err    error
}

// Page implements stream.JournalReader.
func (b *Bus) Page(ctx context.Context, id stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	key := pageKey{id, after}
	b.pager.mu.Lock()
	for _, c := range b.pager.recent {
		if c == nil || c.key.id != id || after < c.key.after || len(c.frames) == 0 || after >= c.frames[len(c.frames)-1].Seq {
			continue
		}
		b.pager.mu.Unlock()
		return c.frames[after-c.key.after:], nil
	}
	call := b.pager.calls[key]
	first := call == nil
	if first {
		call = &pageCall{key: key, done: make(chan struct{})}
		b.pager.calls[key] = call
	}
	b.pager.mu.Unlock()
	if first {
		b.spawn(func(ctx context.Context) { b.readPage(ctx, call) })
	}
	select {
	case <-call.done:
		return call.frames, call.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (b *Bus) readPage(ctx context.Context, call *pageCall) {
	b.stats.JournalReads[stream.ReadCursor].Add(1)
	ahead := b.unsettled.covers(call.key.id, call.key.after+1)
	pages, err := b.readPages(ctx, []pageRequest{call.key}, pageRows, pageBytes)
	switch {
	case err == nil && ahead && pages[0].found && len(pages[0].frames) == 0:
		call.err = fmt.Errorf("%w: %d is in the WAL and cannot be seen yet", stream.ErrUnavailable, call.key.after+1)
	case err != nil:
		call.err = fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	case pages[0].broken(call.key.after) != "" || len(pages[0].frames) == 0:
		call.err = stream.ErrReset
	default:
		call.frames = pages[0].frames
		for _, fr := range call.frames {
			call.size += len(fr.Bytes)
		}
	}
	b.pager.mu.Lock()
	current := b.pager.calls[call.key] == call // and not forgotten
	if current {
		delete(b.pager.calls, call.key)
	}
	if current && call.err == nil && call.size <= 2*pageBytes { // a page of one huge event is not kept
		b.pager.recent[b.pager.next] = call
		b.pager.next = (b.pager.next + 1) % len(b.pager.recent)
	}
	b.pager.mu.Unlock()
	close(call.done)
}

// answerBytes bounds what one request for the journal gets.
const answerBytes = 16 << 20

// Journal implements stream.Bus. It reads the database, not the feeds; the primary, if a standby does not have the topology yet.
func (b *Bus) Journal(ctx context.Context, id stream.TopologyID, after stream.Seq, limit int) (stream.JournalPage, error) {
	p, err := b.journal(ctx, b.read(), id, after, limit)
	if err == stream.ErrNotFound && b.comingFrom(ctx, id) { //nolint:errorlint // the sentinel itself
		return b.journal(ctx, b.cfg.Pool, id, after, limit)
	}
	return p, err
}

func (b *Bus) journal(ctx context.Context, pool *pgxpool.Pool, id stream.TopologyID, after stream.Seq, limit int) (stream.JournalPage, error) {
	const query = `
SELECT h.seq, h.first, j.event
  FROM topology_heads h LEFT JOIN LATERAL topology_journal(h.topology_id, $2, h.first, $3::int, $4::bigint) j ON true
 WHERE h.topology_id = $1::text::uuid`
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.AttachWait, stream.ErrUnavailable)
	defer cancel()
	rows, err := pool.Query(ctx, query, string(id), int64(min(after, 1<<53)), limit, answerBytes)
	if err != nil {
		return stream.JournalPage{}, fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	}
	var (
		h     head
		event *string
	)
	p := stream.JournalPage{Events: []json.RawMessage{}}
	tag, err := pgx.ForEachRow(rows, []any{&h.seq, &h.first, &event}, func() error {
		p.Head, p.First = h.seq, h.first
		if event != nil {
			p.Events = append(p.Events, json.RawMessage(strings.ToValidUTF8(*event, "\uFFFD")))
		}
		return nil
	})
	switch {
	case err != nil:
		return stream.JournalPage{}, fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	case tag.RowsAffected() == 0:
		return stream.JournalPage{}, stream.ErrNotFound
	}
	return p, nil
}

// shareHead reads a head together with whoever asks for the same one meanwhile; shared tells whether somebody did.
func (b *Bus) shareHead(ctx context.Context, id stream.TopologyID) (_ head, shared bool, _ error) {
	type answer struct {
		head   head
		shared bool
		err    error
	}
	done := make(chan answer, 1)
	b.spawn(func(ctx context.Context) {
		v, err, shared := b.heads.Do(string(id), func() (any, error) {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // it belongs to none of those who wait
			defer cancel()
			return b.readHead(ctx, id)
		})
		h, _ := v.(head)
		done <- answer{h, shared, err}
	})
	select {
	case a := <-done:
		return a.head, a.shared, a.err
	case <-ctx.Done():
		return head{}, false, context.Cause(ctx)
	}
}

// readHead asks the database for one head.
func (b *Bus) readHead(ctx context.Context, id stream.TopologyID) (head, error) {
	const query = `SELECT seq, first FROM topology_heads WHERE topology_id = $1::text::uuid`
	var h head
	err := b.read().QueryRow(ctx, query, string(id)).Scan(&h.seq, &h.first)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return h, stream.ErrNotFound
	case err != nil:
		return h, fmt.Errorf("%w: read the head: %w", stream.ErrUnavailable, err)
	}
	return h, nil
}
