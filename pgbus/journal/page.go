package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

// readTimeout bounds one read of journal pages.
const readTimeout = 10 * time.Second

// A PageRequest asks for a topology's events above After.
type PageRequest struct {
	Topology stream.TopologyID
	After    stream.Seq
}

// A Row is one event of a topology's journal, or says that there is none above PageRequest.After. It comes with the
// head and the history of the same moment.
type Row struct {
	History postgres.History
	Head    Head
	Frame   *stream.Frame // nil: the journal holds nothing above After
}

// A BrokenError says why a row does not continue a feed that ends at a seq.
type BrokenError struct {
	Why string
	// Behind: the history is the same, but the journal no longer holds what follows.
	Behind bool
}

func (e *BrokenError) Error() string { return e.Why }

// Continues returns a *BrokenError unless the row is what follows the seq after in the history h.
func (r Row) Continues(h postgres.History, after stream.Seq) error {
	switch {
	case !r.History.Same(h):
		return &BrokenError{
			Why: fmt.Sprintf("the database has another history, by a failover, a restore or migrate new-epoch: "+
				"it is in epoch %d, the feed was of %d", r.History.Epoch, h.Epoch),
		}
	case r.Head.Seq < after:
		return &BrokenError{Why: fmt.Sprintf("the head is %d, behind the feed", r.Head.Seq)}
	case r.Head.Seq.Epoch() != after.Epoch():
		return &BrokenError{Why: fmt.Sprintf("the head %d is of another epoch than %d", r.Head.Seq, after)}
	case after+1 < r.Head.First:
		return &BrokenError{Why: fmt.Sprintf("the journal begins at %d", r.Head.First), Behind: true}
	case after < r.Head.Seq && r.Frame == nil, r.Frame != nil && r.Frame.Seq != after+1:
		return &BrokenError{Why: fmt.Sprintf("the journal does not hold %d", after+1), Behind: true}
	}
	return nil
}

// Rows reads events for several requests in one statement: for each at most so many rows, and so many bytes of events,
// of which the first is read whatever its size. each is called with one row after another and the index of its request;
// the events of one topology come in the order of their seqs. Where there is none above After, one Row says so. A
// topology without a head gives no row.
func (r *Reader) Rows(
	ctx context.Context, lane Lane, reqs []PageRequest, rows, bytes int, each func(i int, row Row),
) error {
	const query = `SELECT ` + postgres.Columns + `, ord, coalesce(head, 0), coalesce(first, 0), seq, type, event
  FROM topology_pages($1::text[]::uuid[], $2::bigint[], $3::int, $4::bigint)`
	ids, afters := make([]string, len(reqs)), make([]int64, len(reqs))
	for i, q := range reqs {
		ids[i], afters[i] = string(q.Topology), int64(q.After)
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var (
		ord         *int
		head        Head
		seq         *int64
		kind, event *string
	)
	err := r.do(ctx, lane, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		return r.rows(ctx, conn, []any{&ord, &head.Seq, &head.First, &seq, &kind, &event}, func(h postgres.History) error {
			if ord == nil {
				return nil
			}
			row := Row{History: h, Head: head}
			if seq != nil {
				f := r.cfg.Encoder.Event(stream.Event{Seq: stream.Seq(*seq), Type: *kind, JSON: *event})
				row.Frame = &f
			}
			each(*ord, row)
			return nil
		}, query, ids, afters, rows, bytes)
	})
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	return nil
}

// Journal reads what GET …/journal shows: events as they are stored. It returns stream.ErrNotFound for an id that never
// was, and a *stream.TooLargeError where the first event takes more than req.Most bytes.
func (r *Reader) Journal(ctx context.Context, req stream.JournalRequest) (stream.JournalPage, error) {
	p := stream.JournalPage{Events: []json.RawMessage{}}
	const query = `SELECT ` + postgres.Columns + `, ord, coalesce(head, 0), coalesce(first, 0),
       octet_length(event), CASE WHEN octet_length(event) <= $4::bigint THEN event END
  FROM topology_pages(ARRAY[$1::text::uuid], ARRAY[$2::bigint], $3::int, $4::bigint)`
	var (
		ord   *int
		h     Head
		size  *int64
		event *string
		found bool
	)
	err := r.do(ctx, Backlog, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		return r.rows(ctx, conn, []any{&ord, &h.Seq, &h.First, &size, &event}, func(postgres.History) error {
			if ord == nil {
				return nil
			}
			p.Head, p.First, found = h.Seq, h.First, true
			if size != nil && event == nil {
				return &stream.TooLargeError{Bytes: *size}
			}
			if event != nil {
				p.Events = append(p.Events, json.RawMessage(strings.ToValidUTF8(*event, "\uFFFD")))
			}
			return nil
		}, query, string(req.Topology), int64(min(req.After, 1<<53)), req.Limit, req.Most)
	})
	_, isTooLarge := errors.AsType[*stream.TooLargeError](err)
	switch {
	case isTooLarge:
		return stream.JournalPage{}, err
	case postgres.Away(err):
		return stream.JournalPage{}, fmt.Errorf("%w: read the journal: %w", stream.ErrUnavailable, err)
	case err != nil:
		return stream.JournalPage{}, fmt.Errorf("read the journal: %w", err)
	case !found:
		return stream.JournalPage{}, stream.ErrNotFound
	}
	return p, nil
}
