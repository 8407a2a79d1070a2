package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"time"

	"topostream/stream"
)

// Bounds of the answers of GET journal, which are held until they are sent. What comes when all is taken waits.
const (
	journalsBytes = 4 * journalBytes // of all answers together
	journalBytes  = 16 << 20         // the longest one: what a bus gives at once
	journalWait   = 5 * time.Second
)

// journalPage reads a page for an answer. The caller calls sent, once, when it needs the page no more.
func (s *Server) journalPage(ctx context.Context, id stream.TopologyID, after stream.Seq, limit int) (page stream.JournalPage, sent func(), err error) {
	waiting, stop := context.WithTimeout(ctx, journalWait)
	defer stop()
	if err := s.journals.Acquire(waiting, journalBytes); err != nil {
		return page, nil, fmt.Errorf("%w: too many answers of the journal are under way: %w", stream.ErrUnavailable, err)
	}
	page, err = s.cfg.Bus.Journal(ctx, id, after, limit)
	held := int64(0)
	for _, event := range page.Events {
		held += int64(len(event))
	}
	held = min(held, journalBytes)
	s.journals.Release(journalBytes - held)
	return page, func() { s.journals.Release(held) }, err
}

// journalBeyond is above every seq: who asks for what follows learns whether there is such a topology, and reads no
// event.
const journalBeyond = stream.Seq(1) << 53

// malformedJournal is malformed for the journal, which outlives its topology.
func (s *Server) malformedJournal(w http.ResponseWriter, r request, err error) {
	if _, missing := s.cfg.Bus.Journal(r.Context(), r.topology, journalBeyond, 1); missing != nil {
		err = missing
	}
	s.fail(w, r.Request, err)
}

func (s *Server) journal(w http.ResponseWriter, r request) {
	const defaultLimit, maxLimit = 200, 1000
	after := stream.Seq(0)
	if v := r.URL.Query().Get("after"); v != "" {
		var ok bool
		if after, ok = stream.ParseSeq(v); !ok {
			s.malformedJournal(w, r, &stream.FieldError{Field: "after", Problem: "give the seq of an event, 1 to 16 digits"})
			return
		}
	}
	limit, err := number(r.Request, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		s.malformedJournal(w, r, err)
		return
	}
	page, sent, err := s.journalPage(r.Context(), r.topology, after, int(limit))
	if sent != nil {
		defer sent()
	}
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	writeJournal(w, page)
}

// writeJournal writes the events as the encoder made them: encoding/json would compact them, and an event has the
// same bytes however it came. It makes no copy of them.
func writeJournal(w http.ResponseWriter, page stream.JournalPage) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	b := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(b, `{"first":%d,"head":%d,"events":[`, page.First, page.Head)
	for i, event := range page.Events {
		if i > 0 {
			_ = b.WriteByte(',') // Flush tells
		}
		if _, err := b.Write(event); err != nil {
			return // the client has gone
		}
	}
	_, _ = b.WriteString("]}\n") // Flush tells
	_ = b.Flush()                // the client may be gone
}
