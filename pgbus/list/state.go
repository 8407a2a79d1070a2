package list

import (
	"context"
	"slices"
	"strings"

	"topostream/pgbus/journal"
	"topostream/stream"
)

const (
	// A document that more frames or bytes than these follow is made anew.
	staleFrames = 256
	staleBytes  = 256 << 10
	// ringFrames is how many changes a client may be behind before it gets the whole list again.
	ringFrames = 4096
	// rowRoom is what a row costs beside its JSON, about.
	rowRoom = 400
	// frameRoom is more bytes than a frame of the list has beside its rows. Each frame but the last has frameRows rows.
	frameRoom, frameRows = 64, 500
)

// A state is the list as it was read last. It is used under List.mu.
type state struct {
	encoder stream.Encoder

	feed *stream.Feed
	rows map[stream.TopologyID]*row
	hold *stream.Hold // of the rows as they were in the first read
}

type row struct {
	journal.ListRow

	json []byte
}

// noJournal is the journal of a list, which has none: a client behind its ring gets the whole list again.
type noJournal struct{}

// Page implements stream.JournalReader.
func (noJournal) Page(context.Context, stream.TopologyID, stream.Seq) ([]stream.Frame, error) {
	return nil, stream.ErrReset
}

// setAll takes in all rows that there are.
func (l *List) setAll(rows []journal.ListRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		l.beginLocked(rows)
		return
	}
	found := make(map[stream.TopologyID]struct{}, len(rows))
	for _, r := range rows {
		found[r.ID] = struct{}{}
		l.now.set(r)
	}
	for id := range l.now.rows {
		if _, ok := found[id]; !ok {
			l.now.remove(id)
		}
	}
}

func (l *List) beginLocked(rows []journal.ListRow) {
	s := &state{
		encoder: l.cfg.Encoder,
		rows:    make(map[stream.TopologyID]*row, len(rows)),
		feed: stream.NewFeed(stream.FeedConfig{
			Journal: noJournal{}, Memory: l.cfg.Memory, Stats: l.cfg.Stats, MaxEvents: ringFrames,
		}),
	}
	size := int64(len(rows)) * rowRoom
	for _, r := range rows {
		kept := &row{r, r.JSON()}
		s.rows[r.ID] = kept
		size += int64(len(kept.json))
	}
	s.hold, _ = l.cfg.Memory.TryReserve(size) // without it the rows are kept all the same: they are needed
	l.now, l.failure = s, nil
	close(l.kept)
	l.kept = make(chan struct{})
}

// set takes in what a read of ids has found.
func (l *List) set(ids []stream.TopologyID, rows []journal.ListRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return
	}
	for _, r := range rows {
		l.now.set(r)
	}
	for _, id := range ids {
		if !slices.ContainsFunc(rows, func(r journal.ListRow) bool { return r.ID == id }) {
			l.now.remove(id)
		}
	}
}

// wantChanged has the rows read that have another version than the state's, are new, or are gone.
func (l *List) wantChanged(versions map[stream.TopologyID]journal.RowVersion) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return
	}
	for id, version := range versions {
		if r := l.now.rows[id]; r == nil || r.Version != version {
			l.wanted.ids[id] = struct{}{}
		}
	}
	for id := range l.now.rows {
		if _, ok := versions[id]; !ok {
			l.wanted.ids[id] = struct{}{}
		}
	}
}

// set takes in a row. Its seq alone is no change, but its epoch is: clients keep of two rows the one of higher seq, and
// may have from another server what this one never saw of the history that is lost.
func (s *state) set(r journal.ListRow) {
	old, status := s.rows[r.ID], ""
	if old != nil {
		status = old.Status
		if old.Summary == r.Summary && old.InFlight == r.InFlight && old.Seq.Epoch() == r.Seq.Epoch() {
			old.Version = r.Version
			return
		}
	}
	kept := &row{r, r.JSON()}
	s.rows[r.ID] = kept
	s.append(s.encoder.Row(kept.json), stream.RowChange{
		Topology: r.ID, Was: status, Is: r.Status, Removed: s.encoder.Removed(r.ID),
	})
}

func (s *state) remove(id stream.TopologyID) {
	old := s.rows[id]
	if old == nil {
		return
	}
	delete(s.rows, id)
	removed := s.encoder.Removed(id)
	s.append(removed, stream.RowChange{Topology: id, Was: old.Status, Removed: removed})
}

func (s *state) append(frame []byte, change stream.RowChange) {
	s.feed.Append(stream.Frame{Seq: s.feed.Last() + 1, Bytes: frame, Row: &change})
}

// document gives the list as the filter shows it, and the cursor behind it. The document of all rows is made once for
// all clients that come while it is fresh.
func (l *List) document(
	ctx context.Context, filter *stream.ListFilter,
) (*stream.Snapshot, *stream.Cursor, error) {
	if !filter.All() {
		return l.makeDocument(ctx, filter)
	}
	if doc, at := l.keptDocument(filter); at != nil {
		return doc, at, nil
	}
	select {
	case l.making <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { <-l.making }()
	if doc, at := l.keptDocument(filter); at != nil { // somebody made it meanwhile
		return doc, at, nil
	}
	doc, at, err := l.makeDocument(ctx, filter)
	if err == nil {
		at.Feed().SetDocument(doc)
	}
	return doc, at, err
}

// keptDocument gives the document of all rows that the feed keeps, and the cursor behind it; nil if it keeps none that
// is fresh.
func (l *List) keptDocument(filter *stream.ListFilter) (*stream.Snapshot, *stream.Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return nil, nil
	}
	doc := l.now.feed.Document(staleFrames, staleBytes)
	if doc == nil {
		return nil, nil
	}
	return doc, l.now.feed.ListCursor(doc.Seq, filter)
}

// makeDocument makes a document. A row never changes (a change makes another one), so that the lock is held only while
// the rows are picked: the goroutines that call Touch need it.
func (l *List) makeDocument(ctx context.Context, filter *stream.ListFilter) (*stream.Snapshot, *stream.Cursor, error) {
	rows, at := l.pick(filter)
	if at == nil {
		return nil, nil, stream.ErrUnavailable // it is not kept any more
	}
	slices.SortFunc(rows, func(a, b *row) int { return strings.Compare(a.Name, b.Name) })
	out, size := make([][]byte, len(rows)), int64(frameRoom*(1+len(rows)/frameRows))
	for i, r := range rows {
		out[i] = r.json
		size += int64(len(r.json)) + 1
	}
	hold, err := l.cfg.Memory.Reserve(ctx, size)
	if err != nil {
		return nil, nil, err
	}
	bytes := l.cfg.Encoder.AppendList(make([]byte, 0, size), out)
	return stream.NewSnapshot(at.Last(), bytes, hold), at, nil
}

// pick gives the rows that a filter shows, and the cursor behind them; no cursor: the list is not kept.
func (l *List) pick(filter *stream.ListFilter) (rows []*row, at *stream.Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.now
	if s == nil {
		return nil, nil
	}
	add := func(id stream.TopologyID) {
		if r := s.rows[id]; r != nil && filter.Shows(id, r.Status) {
			rows = append(rows, r)
		}
	}
	if filter.Topologies != nil {
		for _, id := range filter.Topologies {
			add(id)
		}
	} else {
		for id := range s.rows {
			add(id)
		}
	}
	return rows, s.feed.ListCursor(s.feed.Last(), filter)
}
