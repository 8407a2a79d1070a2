package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"

	"topostream/stream"
)

// journalBeyond is above every seq: a request for what follows it tells whether the topology has a journal, and reads
// no event.
const journalBeyond = stream.Seq(1) << 53

// malformedJournal is malformed for the journal, which outlives its topology.
func (s *Server) malformedJournal(w http.ResponseWriter, r request, err error) {
	beyond := stream.JournalRequest{Topology: r.topology, After: journalBeyond, Limit: 1}
	if _, missing := s.cfg.Bus.Journal(r.Context(), beyond); missing != nil {
		err = missing
	}
	s.fail(w, r.Request, err)
}

// journal is GET /topologies/{id}/journal.
func (s *Server) journal(w http.ResponseWriter, r request) {
	const defaultLimit, maxLimit = 200, 1000
	after := stream.Seq(0)
	query, err := queryOf(r.Request)
	if err != nil {
		s.malformedJournal(w, r, err)
		return
	}
	if v := query.Get("after"); v != "" {
		var ok bool
		if after, ok = stream.ParseSeq(v); !ok {
			s.malformedJournal(w, r, refused("after", "give the seq of an event, 1 to 16 digits"))
			return
		}
	}
	limit, err := number(r.Request, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		s.malformedJournal(w, r, err)
		return
	}
	most := min(journalBytes, s.forAnswers.Limit())
	page, room, err := readWithin(r.Context(), s.forAnswers, most,
		func(ctx context.Context, most int64) (stream.JournalPage, error) {
			req := stream.JournalRequest{Topology: r.topology, After: min(after, journalBeyond), Limit: int(limit), Most: most}
			return s.cfg.Bus.Journal(ctx, req)
		})
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	defer room.Release()
	room.Shrink(sizeOf(page))
	writeJournal(w, page)
}

func sizeOf(page stream.JournalPage) (size int64) {
	for _, event := range page.Events {
		size += int64(len(event))
	}
	return size
}

// writeJournal writes the events as the encoder made them: encoding/json would compact them, and an event has the
// same bytes however it came. It makes no copy of them.
func writeJournal(w http.ResponseWriter, page stream.JournalPage) {
	beginAnswer(w, http.StatusOK, "application/json")
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
