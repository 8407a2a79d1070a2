package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

// A Light is a light snapshot: what an attach needs to know of a topology, read at a cost that does not depend on
// what the topology holds.
type Light struct {
	Topology stream.TopologyID
	Head     Head
	InFlight int64  // mutations
	Alive    bool   // false: the topology is deleted, and its journal is left
	Document []byte // the whole document, if it is small; else nil
}

// Raised tells whether the topology has entered the history's epoch. One that has not must not be handed out: see
// Raise. One that has more events than an epoch has numbers for is above it.
func (l Light) Raised(h postgres.History) bool { return int64(l.Head.Seq.Epoch()) >= h.Epoch }

// lightTimeout bounds the read of light snapshots on the pool.
const lightTimeout = 3 * time.Second

// Lights reads the light snapshots of some topologies on the pool. One that never was is not in the answer.
func (r *Reader) Lights(ctx context.Context, ids []stream.TopologyID) (lights []Light, h postgres.History, _ error) {
	ctx, cancel := context.WithTimeout(ctx, lightTimeout)
	defer cancel()
	err := r.do(ctx, Live, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		if _, err := conn.Exec(ctx, postgres.BeginLight); err != nil {
			return h, err
		}
		var err error
		lights, h, err = r.LightsOn(ctx, conn, ids)
		if err == nil {
			_, err = conn.Exec(ctx, "COMMIT")
		}
		if err != nil {
			_, _ = conn.Exec(ctx, "ROLLBACK") // where that fails, the pool takes the connection out of use
		}
		return h, err
	})
	return lights, h, err
}

// LightsOn reads light snapshots on a connection of the caller's. Where the history that it sees is refused, its error
// is one that postgres.Judged knows; the caller may mend that and try again.
func (r *Reader) LightsOn(
	ctx context.Context, conn *pgx.Conn, ids []stream.TopologyID,
) (lights []Light, _ postgres.History, _ error) {
	const query = `SELECT ` + postgres.Columns + `,
       topology_id::text, coalesce(seq, 0), coalesce(first, 0), greatest(in_flight, 0), coalesce(alive, false), document
  FROM topology_light($1::text[]::uuid[])`
	var (
		id       *stream.TopologyID
		l        Light
		document *string
	)
	targets := []any{&id, &l.Head.Seq, &l.Head.First, &l.InFlight, &l.Alive, &document}
	h, err := r.rows(ctx, conn, targets, func(postgres.History) error {
		if id == nil {
			return nil
		}
		light := l
		light.Topology = *id
		if document != nil {
			light.Document = []byte(*document)
		}
		lights = append(lights, light)
		return nil
	}, query, texts(ids))
	if err != nil {
		return nil, h, fmt.Errorf("read light snapshots: %w", err)
	}
	return lights, h, nil
}

// A HeldError says that a topology has not entered the present epoch because somebody's transaction holds it.
type HeldError struct {
	Topology stream.TopologyID
	PID      *int32 // 0: a prepared transaction; nil: PostgreSQL does not say
}

func (e *HeldError) Error() string {
	who := "a transaction that PostgreSQL does not name"
	switch {
	case e.PID != nil && *e.PID == 0:
		who = "a prepared transaction (pg_prepared_xacts)"
	case e.PID != nil:
		who = fmt.Sprintf("the transaction of pid %d", *e.PID)
	}
	return "after a failover or a new epoch the topology waits for " + who + ", which holds it: end that transaction"
}

// raiseAlone is how many of the heads that somebody holds one Raise waits for, 100 ms each.
const raiseAlone = 5

// Raise has topologies enter the present epoch, each under the lock of its head, and gives those that it could not
// raise because somebody holds them. Free ones are raised in one statement; then a few of the others are waited for,
// one after another, so that nobody else's writer waits behind this meanwhile.
func (r *Reader) Raise(ctx context.Context, h postgres.History, ids []stream.TopologyID) ([]*HeldError, error) {
	held, err := r.raise(ctx, h, ids)
	if err != nil || len(ids) == 1 {
		return held, err
	}
	var still []*HeldError
	for i, e := range held {
		if i >= raiseAlone {
			return append(still, held[i:]...), nil
		}
		alone, err := r.raise(ctx, h, []stream.TopologyID{e.Topology})
		if err != nil {
			return nil, err
		}
		still = append(still, alone...)
	}
	return still, nil
}

func (r *Reader) raise(ctx context.Context, h postgres.History, ids []stream.TopologyID) ([]*HeldError, error) {
	const query = `SELECT topology_id::text, held_by FROM topology_raise($1::text[]::uuid[])`
	ctx, cancel := context.WithTimeout(ctx, lightTimeout)
	defer cancel()
	pool := r.cfg.Primary
	if !h.Recovering { // a standby that was promoted is the primary now
		pool = r.cfg.Pool
	}
	var held []*HeldError
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{BeginQuery: postgres.BeginHolding}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, texts(ids))
		if err != nil {
			return err
		}
		held, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*HeldError, error) {
			e := &HeldError{}
			err := row.Scan(&e.Topology, &e.PID)
			return e, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("raise heads: %w", err)
	}
	return held, nil
}

// A Document is what Document reads. Its snapshot has been retained for the caller.
type Document struct {
	Head     Head
	Alive    bool
	Snapshot *stream.Snapshot // nil unless Alive
}

// Document reads a topology's document at its own moment, with the graph if that is asked for. Memory is reserved
// before the bytes are taken from PostgreSQL, which waits meanwhile. A topology without a head is stream.ErrNotFound.
func (r *Reader) Document(
	ctx context.Context, id stream.TopologyID, graph bool,
) (d Document, h postgres.History, _ error) {
	err := r.do(ctx, Documents, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		var err error
		d, h, err = r.documentOn(ctx, conn, id, graph)
		return h, err
	})
	if err != nil && !errors.Is(err, stream.ErrNotFound) {
		err = fmt.Errorf("read a document: %w", err)
	}
	return d, h, err
}

func (r *Reader) documentOn(
	ctx context.Context, conn *pgx.Conn, id stream.TopologyID, graph bool,
) (d Document, h postgres.History, err error) {
	const query = `
SELECT coalesce(epoch, 0), coalesce(history::text, ''), coalesce(recovering, false), coalesce(other, false),
       seq, coalesce(first, 0), coalesce(alive, false), coalesce(size, 0), chunk
  FROM topology_document($1::text::uuid, $2)`
	var (
		seq   *stream.Seq
		head  Head
		alive bool
		size  int64
		chunk []byte
		hold  *stream.Hold
		bytes []byte
	)
	defer func() {
		if d.Snapshot == nil {
			hold.Release()
		}
	}()
	h, err = r.rows(ctx, conn, []any{&seq, &head.First, &alive, &size, &chunk}, func(postgres.History) (err error) {
		switch {
		case chunk != nil:
			bytes = append(bytes, chunk...)
			return nil
		case seq == nil:
			return stream.ErrNotFound
		}
		d.Head, d.Alive = Head{*seq, head.First}, alive
		if alive {
			hold, err = r.cfg.Memory.Reserve(ctx, documentCost(size))
			bytes = make([]byte, 0, size)
		}
		return err
	}, query, string(id), graph)
	if err == nil && d.Alive {
		d.Snapshot = stream.NewSnapshot(d.Head.Seq, r.cfg.Encoder.Snapshot(d.Head.Seq, bytes), hold)
	}
	return d, h, err
}

// documentCost is what a document of size bytes costs while it is read: its text and its frame, for a moment both.
func documentCost(size int64) int64 { return 2*size + frameRoom }

// frameRoom is more bytes than the frame has beside the document.
const frameRoom = 512
