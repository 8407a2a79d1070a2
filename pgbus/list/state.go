package list

import (
	"context"
	"slices"
	"strings"

	"topostream/pgbus/journal"
	"topostream/stream"
)

const (
	// A document that more frames or bytes follow than these is made anew.
	staleFrames = 256
	staleBytes  = 256 << 10
	// ringFrames are the changes that a client may be behind before it gets the whole list again.
	ringFrames = 4096
	// rowRoom is what a row costs beside its JSON, about.
	rowRoom = 400
	// frameRoom is more than a frame of the list has beside its rows, and no frame has fewer rows than frameRows but the
	// last.
	frameRoom, frameRows = 64, 500
)

// A state is the list as it was read last. It is used under List.mu.
type state struct {
	encoder stream.Encoder

	feed *stream.Feed
	rows map[stream.TopologyID]*row
	size int64 // of all rows' JSON
	hold *stream.Hold
}

type row struct {
	journal.ListRow

	json []byte
}

// noJournal is the journal of a list: who is behind its ring begins again.
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
	for _, r := range rows {
		kept := &row{r, r.JSON()}
		s.rows[r.ID] = kept
		s.size += int64(len(kept.json))
	}
	s.hold, _ = l.cfg.Memory.TryReserve(s.size + int64(len(rows))*rowRoom) // the rows are needed, if there is room or not
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

// compare adds to ids the rows that differ from marks.
func (l *List) compare(marks map[stream.TopologyID]journal.Mark, ids map[stream.TopologyID]struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil {
		return
	}
	for id, mark := range marks {
		if r := l.now.rows[id]; r == nil || r.Mark != mark {
			ids[id] = struct{}{}
		}
	}
	for id := range l.now.rows {
		if _, ok := marks[id]; !ok {
			ids[id] = struct{}{}
		}
	}
}

// set takes in a row. Its seq alone is no change.
func (s *state) set(r journal.ListRow) {
	old, status := s.rows[r.ID], ""
	if old != nil {
		status = old.Status
		if old.Summary == r.Summary && old.InFlight == r.InFlight {
			old.Mark = r.Mark
			return
		}
		s.size -= int64(len(old.json))
	}
	kept := &row{r, r.JSON()}
	s.rows[r.ID] = kept
	s.size += int64(len(kept.json))
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
	s.size -= int64(len(old.json))
	removed := s.encoder.Removed(id)
	s.append(removed, stream.RowChange{Topology: id, Was: old.Status, Removed: removed})
}

func (s *state) append(frame []byte, change stream.RowChange) {
	s.feed.Append(stream.Frame{Seq: s.feed.Last() + 1, Bytes: frame, Row: &change})
}

// document gives the list as the filter shows it, and the cursor behind it. That of all rows is made once for all who
// come.
func (l *List) document(
	ctx context.Context, filter *stream.ListFilter,
) (doc *stream.Snapshot, at *stream.Cursor, err error) {
	for {
		doc, at, size := l.ready(filter)
		switch {
		case at != nil:
			return doc, at, nil
		case size == 0:
			return nil, nil, stream.ErrUnavailable // it is not kept any more
		}
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		doc, at, err = l.make(ctx, filter, size)
		<-l.turn
		if at != nil || err != nil {
			return doc, at, err
		}
	}
}

// ready gives the document that is kept, if the filter shows all, and else how many bytes one has.
func (l *List) ready(filter *stream.ListFilter) (doc *stream.Snapshot, at *stream.Cursor, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.now
	if s == nil {
		return nil, nil, 0
	}
	if filter.All() {
		if doc := s.feed.Document(staleFrames, staleBytes); doc != nil {
			return doc, s.feed.ListCursor(doc.Seq, filter), 0
		}
	}
	rows := s.shown(filter)
	for _, r := range rows {
		size += int64(len(r)) + 1
	}
	return nil, nil, size + int64(frameRoom*(1+len(rows)/frameRows))
}

// make makes a document for which there is room; no cursor: it has grown since its size was taken, or is there already.
func (l *List) make(
	ctx context.Context, filter *stream.ListFilter, size int64,
) (*stream.Snapshot, *stream.Cursor, error) {
	hold, err := l.cfg.Memory.Reserve(ctx, size)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	s := l.now
	if s == nil {
		l.mu.Unlock()
		hold.Release()
		return nil, nil, nil
	}
	bytes := s.encoder.AppendList(make([]byte, 0, size), s.shown(filter))
	if int64(len(bytes)) > size {
		l.mu.Unlock()
		hold.Release()
		return nil, nil, nil
	}
	doc := stream.NewSnapshot(s.feed.Last(), bytes, hold)
	at := s.feed.ListCursor(doc.Seq, filter)
	l.mu.Unlock()
	if filter.All() {
		s.feed.SetDocument(doc)
	}
	return doc, at, nil
}

// shown are the rows that a filter shows, in the order of names.
func (s *state) shown(filter *stream.ListFilter) [][]byte {
	var rows []*row
	if filter.Topologies != nil {
		for _, id := range filter.Topologies {
			if r := s.rows[id]; r != nil && filter.Shows(id, r.Status) {
				rows = append(rows, r)
			}
		}
	} else {
		for id, r := range s.rows {
			if filter.Shows(id, r.Status) {
				rows = append(rows, r)
			}
		}
	}
	slices.SortFunc(rows, func(a, b *row) int { return strings.Compare(a.Name, b.Name) })
	out := make([][]byte, len(rows))
	for i, r := range rows {
		out[i] = r.json
	}
	return out
}
