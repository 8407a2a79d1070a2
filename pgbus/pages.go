package pgbus

import (
	"context"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel/attribute"

	"topostream/pgbus/journal"
	"topostream/stream"
)

// Bounds of the pages that cursors behind their feed's ring read. A client that does not read its socket may hold one
// page, so that such clients hold at most pageBytes times their number.
const (
	pageRows    = 256
	pageBytes   = 256 << 10
	recentPages = 16
)

// pages reads the journal for cursors behind their feed's ring. Cursors of one attachment that need the same page share
// the read, and the newest pages are kept for those that come a little later. A page belongs to one attachment: what
// was read for a feed that was thrown away is not used again.
type pages struct {
	bus    *Bus
	recent *lru.Cache[pageKey, []stream.Frame]
	calls  shared[[]stream.Frame]
}

type pageKey struct {
	attachment *attachment
	after      stream.Seq
}

func newPages(b *Bus) *pages {
	recent, err := lru.New[pageKey, []stream.Frame](recentPages)
	if err != nil {
		panic(err) // the size is good
	}
	return &pages{bus: b, recent: recent}
}

// of gives the reader of an attachment's feed.
func (p *pages) of(a *attachment) stream.JournalReader { return pageReader{p, a} }

type pageReader struct {
	pages      *pages
	attachment *attachment
}

// Page implements stream.JournalReader.
func (r pageReader) Page(ctx context.Context, id stream.TopologyID, after stream.Seq) ([]stream.Frame, error) {
	p := r.pages
	if frames := p.kept(r.attachment, after); frames != nil {
		return frames, nil
	}
	key := fmt.Sprintf("%p %d", r.attachment, after)
	frames, _, err := p.calls.do(ctx, &p.bus.tasks, key, func(ctx context.Context) ([]stream.Frame, error) {
		return p.read(ctx, r.attachment, id, after)
	})
	return frames, err
}

// kept gives what follows after from one of the newest pages; nil if none holds it.
func (p *pages) kept(a *attachment, after stream.Seq) []stream.Frame {
	for _, key := range p.recent.Keys() {
		if key.attachment != a || key.after > after {
			continue
		}
		frames, ok := p.recent.Get(key)
		if ok && after < frames[len(frames)-1].Seq {
			return frames[after-key.after:]
		}
	}
	return nil
}

// forget lets go of the pages of a feed that has ended.
func (p *pages) forget(id stream.TopologyID) {
	for _, key := range p.recent.Keys() {
		if key.attachment.id == id {
			p.recent.Remove(key)
		}
	}
}

func (p *pages) read(
	ctx context.Context, a *attachment, id stream.TopologyID, after stream.Seq,
) (frames []stream.Frame, _ error) {
	p.bus.stats.JournalReads[stream.ReadCursor].Inc()
	inDoubt := p.bus.inDoubt(id, after+1)
	var (
		broken error
		size   int
	)
	last := after
	reqs := []journal.PageRequest{{Topology: id, After: after}}
	ctx, span := p.bus.startSpan(ctx, "journal read", id, attribute.String("topostream.cause", "cursor"))
	err := p.bus.reader.Rows(ctx, journal.Backlog, reqs, pageRows, pageBytes, func(_ int, row journal.Row) {
		if broken == nil {
			broken = row.Continues(a.history, last)
		}
		if broken == nil && row.Frame != nil {
			frames = append(frames, *row.Frame)
			size += len(row.Frame.Bytes)
			last = row.Frame.Seq
		}
	})
	span.SetAttributes(attribute.Int("topostream.events", len(frames)))
	endSpan(span, err)
	switch {
	case err != nil:
		return nil, unavailable(err)
	case inDoubt && len(frames) == 0:
		return nil, fmt.Errorf("%w: %d is in the WAL and cannot be seen yet", stream.ErrUnavailable, after+1)
	case broken != nil, len(frames) == 0:
		return nil, stream.ErrReset
	}
	if size <= 2*pageBytes { // a page of one huge event is not kept
		p.recent.Add(pageKey{a, after}, frames)
	}
	return frames, nil
}
