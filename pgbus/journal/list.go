package journal

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

// A ListRow is a topology's row in the list.
type ListRow struct {
	ID       stream.TopologyID
	Name     string
	Status   string
	Summary  string // its JSON, without the brace that ends it
	InFlight int64
	Seq      stream.Seq // of its newest event, and at least the first of the database's epoch
	Version  RowVersion
}

// JSON is the row as clients get it.
func (r ListRow) JSON() []byte {
	b := make([]byte, 0, len(r.Summary)+len(`,"seq":,"in_flight":}`)+2*len("9007199254740991"))
	b = append(append(b, r.Summary...), `,"seq":`...)
	b = strconv.AppendInt(b, int64(r.Seq), 10)
	b = append(b, `,"in_flight":`...)
	return append(strconv.AppendInt(b, r.InFlight, 10), '}')
}

// A RowVersion compares, by ==, as another one when a row of the list has changed in anything but its seq.
type RowVersion struct {
	tuple    string // of the row in topologies: xmin and ctid, the transaction that wrote it and its place
	inFlight int64
}

// List reads rows of the list, in the order of names: those of ids, as far as they exist; for nil all.
func (r *Reader) List(ctx context.Context, ids []stream.TopologyID) (rows []ListRow, _ error) {
	const query = `SELECT ` + postgres.Columns + `, l.* FROM topology_identity() LEFT JOIN (
  SELECT t.id::text, t.name, t.status, t.xmin::text || t.ctid::text, h.in_flight, h.seq, rtrim(json_build_object(
         'id', t.id, 'name', t.name, 'status', t.status, 'reason', t.reason, 'version', t.version,
         'created_at', topology_time(t.created_at), 'updated_at', topology_time(t.updated_at),
         'status_changed_at', topology_time(t.status_changed_at))::text, '}')
    FROM topologies t JOIN topology_heads h ON h.topology_id = t.id AND h.in_flight >= 0
   WHERE $1::text[] IS NULL OR t.id = ANY ($1::text[]::uuid[])) l ON true ORDER BY l.name`
	err := r.do(ctx, Lists, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		rows = rows[:0]
		var (
			id, name, status, version, summary *string
			inFlight                           *int64
			seq                                *stream.Seq
		)
		targets := []any{&id, &name, &status, &version, &inFlight, &seq, &summary}
		return r.rows(ctx, conn, targets, func(h postgres.History) error {
			if id != nil {
				// A head enters a new epoch only with its next event, and a promotion may have taken events back: the seq of
				// the copy may be lower than what clients have of this row. It must not seem older to them.
				least := stream.Seq(h.Epoch) << 32
				rows = append(rows, ListRow{
					ID: stream.TopologyID(*id), Name: *name, Status: *status, InFlight: *inFlight, Seq: max(*seq, least),
					Summary: strings.ToValidUTF8(*summary, "\uFFFD"), Version: RowVersion{*version, *inFlight},
				})
			}
			return nil
		}, query, idsOrAll(ids))
	})
	if err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	return rows, nil
}

// RowVersions reads the versions of all rows of the list.
func (r *Reader) RowVersions(ctx context.Context) (versions map[stream.TopologyID]RowVersion, _ error) {
	const query = `SELECT ` + postgres.Columns + `, l.* FROM topology_identity() LEFT JOIN (
  SELECT t.id::text, t.xmin::text || t.ctid::text, h.in_flight
    FROM topologies t JOIN topology_heads h ON h.topology_id = t.id AND h.in_flight >= 0) l ON true`
	err := r.do(ctx, Lists, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		versions = map[stream.TopologyID]RowVersion{}
		var (
			id, version *string
			inFlight    *int64
		)
		return r.rows(ctx, conn, []any{&id, &version, &inFlight}, func(postgres.History) error {
			if id != nil {
				versions[stream.TopologyID(*id)] = RowVersion{*version, *inFlight}
			}
			return nil
		}, query)
	})
	if err != nil {
		return nil, fmt.Errorf("look for changes of the list: %w", err)
	}
	return versions, nil
}

// idsOrAll are the ids as a parameter; NULL for nil.
func idsOrAll(ids []stream.TopologyID) any {
	if ids == nil {
		return nil
	}
	return texts(ids)
}
