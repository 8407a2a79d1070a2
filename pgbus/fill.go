package pgbus

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/wait"
	"topostream/stream"
)

// Bounds of one journal read. The bytes are shared among the topologies of a read; one event is always read. A client that is behind its ring and does not read its socket holds a
// page, so that pageBytes times the number of streams is what such clients cost.
const (
	fillBatch   = 200
	pageRows    = 256
	pageBytes   = 256 << 10
	fillBytes   = 4 << 20
	minimumFill = 64 << 10
)

type fillState struct {
	queued bool
	again  bool // something was heard while a read was under way
	cause  stream.Cause
}

// A fillQueue holds the topics whose feeds must be read up from the journal. A topic is read by one goroutine at a time.
type fillQueue struct {
	mu    sync.Mutex
	queue []*topic
	ready wait.Signal
}

// fill asks for a hole in the topic's feed to be read, up to the head, by a read that begins after this call.
func (b *Bus) fill(t *topic) { b.fillAll([]*topic{t}, stream.ReadHole) }

func (b *Bus) fillAll(topics []*topic, cause stream.Cause) {
	if len(topics) == 0 {
		return
	}
	b.fills.mu.Lock()
	for _, t := range topics {
		if t.fill.queued {
			t.fill.again = true
			continue
		}
		t.fill = fillState{queued: true, cause: cause}
		b.fills.queue = append(b.fills.queue, t)
	}
	b.fills.mu.Unlock()
	b.fills.ready.Set()
}

func (b *Bus) fillLoop(ctx context.Context) {
	for try := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-b.fills.ready:
		}
		for {
			batch := b.takeFills()
			if len(batch) == 0 {
				break
			}
			more, err := b.readUp(ctx, batch)
			b.fillsDone(batch, more)
			if err == nil {
				try = 0
				continue
			}
			if ctx.Err() != nil {
				return
			}
			b.log.Warn("journal read failed; trying again", "topologies", len(batch), "error", err)
			if !wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, 2*time.Second)) {
				return
			}
			try++
		}
	}
}

func (b *Bus) takeFills() []*topic {
	b.fills.mu.Lock()
	defer b.fills.mu.Unlock()
	n := min(len(b.fills.queue), fillBatch)
	batch := append([]*topic(nil), b.fills.queue[:n]...)
	b.fills.queue = append(b.fills.queue[:0], b.fills.queue[n:]...)
	if len(b.fills.queue) > 0 {
		b.fills.ready.Set()
	}
	for _, t := range batch {
		t.fill.again = false
	}
	return batch
}

func (b *Bus) fillsDone(batch []*topic, more map[*topic]bool) {
	b.fills.mu.Lock()
	defer b.fills.mu.Unlock()
	for _, t := range batch {
		if (t.fill.again || more[t]) && t.feed.Cause() == nil {
			b.fills.queue = append(b.fills.queue, t)
			continue
		}
		t.fill = fillState{}
	}
	if len(b.fills.queue) > 0 {
		b.fills.ready.Set()
	}
}

// readUp reads one page of each topic's journal into its feed, row by row, and tells which have more. After an error all have.
func (b *Bus) readUp(ctx context.Context, batch []*topic) (more map[*topic]bool, err error) {
	more = map[*topic]bool{}
	reqs := make([]pageRequest, len(batch))
	fills := make([]filling, len(batch))
	causes := map[stream.Cause]bool{}
	for i, t := range batch {
		reqs[i] = pageRequest{t.id, t.feed.Last()}
		fills[i] = filling{topic: t, last: reqs[i].after, ahead: b.unsettled.covers(t.id, reqs[i].after)}
		causes[t.fill.cause] = true
		more[t] = true
	}
	for c := range causes {
		b.stats.JournalReads[c].Add(1)
	}
	err = b.readRows(ctx, reqs, pageRows, max(fillBytes/len(batch), minimumFill), func(i int, p page) { b.fillWith(&fills[i], p) })
	if err != nil {
		return more, err
	}
	for i := range fills {
		f := &fills[i]
		if !f.found {
			b.fillWith(f, page{})
		}
		more[f.topic] = f.read && !f.ended && f.last < f.head
	}
	return more, nil
}

// A filling is a topic while its journal is read. What is read goes into the feed at once: two hundred topologies' events, each of them large, are never held together.
type filling struct {
	topic *topic
	last  stream.Seq // read so far
	head  stream.Seq
	found bool
	read  bool // at least one event
	ended bool
	ahead bool // of what the database shows, and rightly so
}

// fillWith appends the page that follows, which holds one event or none.
func (b *Bus) fillWith(f *filling, p page) {
	f.found = true
	if f.ended = f.ended || f.ahead && !f.read && p.head.seq <= f.last; f.ended {
		return
	}
	if why := p.broken(f.last); why != "" {
		f.ended = true
		b.reset(f.topic, why)
		return
	}
	f.head = p.head.seq
	for _, fr := range p.frames {
		f.last, f.read = fr.Seq, true
		b.append(f.topic, fr)
	}
}

func (b *Bus) append(t *topic, fr stream.Frame) {
	switch t.feed.Append(fr) {
	case stream.Appended:
		if fr.Final && fr.Seq > t.attachedAt {
			b.drop(t, stream.ErrDeleted)
		}
	case stream.Conflict:
		b.reset(t, "an event differs from one of the same seq: somebody forged it")
	case stream.Hole:
		b.fill(t)
	case stream.Duplicate, stream.Closed:
	}
}

type pageRequest struct {
	id    stream.TopologyID
	after stream.Seq
}

// A page is a run of a journal and the head that it was read with, both of one moment.
type page struct {
	found  bool // the topology has a head
	head   head
	frames []stream.Frame
}

// broken says why the page does not continue what ended at after; empty if it does.
func (p page) broken(after stream.Seq) string {
	switch {
	case !p.found:
		return "the topology has no head"
	case p.head.seq < after:
		return fmt.Sprintf("the head is %d, behind the feed", p.head.seq)
	case p.head.seq.Epoch() != after.Epoch():
		return fmt.Sprintf("the database has another history, by a failover, a restore or migrate new-epoch: it is in epoch %d, the feed was of %d", p.head.seq.Epoch(), after.Epoch())
	case after+1 < p.head.first:
		return fmt.Sprintf("the journal begins at %d", p.head.first)
	case after < p.head.seq && len(p.frames) == 0:
		return fmt.Sprintf("the journal does not hold %d", after+1)
	}
	for i, fr := range p.frames {
		if fr.Seq != after+1+stream.Seq(i) {
			return fmt.Sprintf("the journal does not hold %d", after+1+stream.Seq(i))
		}
	}
	return ""
}

// readPages reads a page for each request in one statement.
func (b *Bus) readPages(ctx context.Context, reqs []pageRequest, rows, bytes int) ([]page, error) {
	pages := make([]page, len(reqs))
	err := b.readRows(ctx, reqs, rows, bytes, func(i int, p page) {
		pages[i].found, pages[i].head = true, p.head
		pages[i].frames = append(pages[i].frames, p.frames...)
	})
	return pages, err
}

// readRows reads a page for each request in one statement, and gives them row by row: pages of one event, or of none where the journal holds nothing above after. A topology without
// a head gives no row. The frames slice is row's only until it returns.
func (b *Bus) readRows(ctx context.Context, reqs []pageRequest, rows, bytes int, row func(i int, p page)) error {
	const query = `
SELECT r.ord::int - 1, h.seq, h.first, j.seq, j.type, j.event
  FROM unnest($1::text[]::uuid[], $2::bigint[]) WITH ORDINALITY AS r(id, after, ord)
  JOIN topology_heads h ON h.topology_id = r.id
  LEFT JOIN LATERAL topology_journal(r.id, r.after, h.first, $3::int, $4::bigint) j ON true`
	ids, afters := make([]string, len(reqs)), make([]int64, len(reqs))
	for i, r := range reqs {
		ids[i], afters[i] = string(r.id), int64(r.after)
	}
	if err := b.reads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer b.reads.Release(1)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	result, err := b.read().Query(ctx, query, ids, afters, rows, bytes)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	var (
		i           int
		h           head
		seq         *int64
		kind, event *string
		frame       [1]stream.Frame
	)
	_, err = pgx.ForEachRow(result, []any{&i, &h.seq, &h.first, &seq, &kind, &event}, func() error {
		p := page{found: true, head: h}
		if seq != nil {
			frame[0] = b.cfg.Encoder.Event(stream.Event{Seq: stream.Seq(*seq), Type: *kind, JSON: *event})
			p.frames = frame[:]
		}
		row(i, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	b.answered()
	return nil
}
