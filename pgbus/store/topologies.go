package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/graph"
	"topostream/stream"
)

// CreateTopology implements stream.Store.
func (s *Store) CreateTopology(ctx context.Context, t stream.NewTopology) (created stream.Topology, _ error) {
	const insert = `
INSERT INTO topologies (name) VALUES ($1) RETURNING id::text, name, status, reason, version,
       topology_time(created_at), topology_time(updated_at), topology_time(status_changed_at)`
	err := s.write(ctx, "new "+t.Name, func(ctx context.Context, tx pgx.Tx) (err error) {
		created, err = scanTopology(tx.QueryRow(ctx, insert, t.Name))
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "23505" { // unique_violation
			return conflict(stream.ErrNameTaken, "there is a topology %q already: choose another name", t.Name)
		}
		if err != nil {
			return fmt.Errorf("insert a topology: %w", refusedField("name", err))
		}
		for i, lan := range t.LANs {
			if err := addMember(ctx, tx, created.ID, lan, "lans", i); err != nil {
				return err
			}
		}
		for i, decky := range t.Deckies {
			if err := addMember(ctx, tx, created.ID, decky, "deckies", i); err != nil {
				return err
			}
		}
		return nil
	})
	return created, err
}

// addMember applies the op that adds the ith LAN or decky of a topology that is being made. A refusal is a
// *stream.FieldError that names it.
func addMember(ctx context.Context, tx pgx.Tx, id stream.TopologyID, op any, list string, i int) error {
	err := graph.Apply(ctx, tx, id, op)
	field := fmt.Sprintf("%s[%d]", list, i)
	refused, ok := errors.AsType[*graph.RefusedError](err)
	if problem := refusedField(field, err); !ok || problem != err { //nolint:errorlint // the same
		return problem
	}
	return &stream.FieldError{Field: field, Problem: refused.Reason}
}

func scanTopology(row pgx.Row) (t stream.Topology, err error) {
	err = row.Scan(&t.ID, &t.Name, &t.Status, &t.Reason, &t.Version, &t.CreatedAt, &t.UpdatedAt, &t.StatusChangedAt)
	return t, err
}

// Topologies implements stream.Store.
func (s *Store) Topologies(
	ctx context.Context, only []stream.TopologyID, limit int, offset, most int64,
) (list []byte, _ error) {
	const query = `
WITH page AS (
     SELECT t.* FROM topologies t WHERE $2::text[] IS NULL OR t.id = ANY ($2::text[]::uuid[])
      ORDER BY t.name LIMIT $3::int OFFSET $4::bigint),
     doc AS MATERIALIZED (
     SELECT convert_to('{"total":' || (
            SELECT count(*) FROM topologies t WHERE $2::text[] IS NULL OR t.id = ANY ($2::text[]::uuid[]))
            || ',"limit":' || $3::int || ',"offset":' || $4::bigint || ',"data":[' || coalesce(string_agg(
            json_build_object('id', t.id, 'name', t.name, 'status', t.status, 'reason', t.reason, 'version', t.version,
                'created_at', topology_time(t.created_at), 'updated_at', topology_time(t.updated_at),
                'status_changed_at', topology_time(t.status_changed_at))::text, ',' ORDER BY t.name), '') || ']}',
            CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END) AS body, NULL::bigint AS next
       FROM page t)` + parts
	err := s.read(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		list, _, err = readBody(ctx, tx, query, most, only, limit, offset)
		if err != nil {
			return fmt.Errorf("list topologies: %w", err)
		}
		return nil
	})
	return list, err
}

// Exists implements stream.Store.
func (s *Store) Exists(ctx context.Context, id stream.TopologyID) error {
	const query = `SELECT EXISTS (SELECT FROM topologies WHERE id = $1::text::uuid)`
	return s.read(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var exists bool
		switch err := tx.QueryRow(ctx, query, string(id)).Scan(&exists); {
		case err != nil:
			return fmt.Errorf("look for a topology: %w", err)
		case !exists:
			return stream.ErrNotFound
		}
		return nil
	})
}

// Topology implements stream.Store. It is one statement, so that all parts are of one moment.
func (s *Store) Topology(ctx context.Context, id stream.TopologyID, most int64) (document []byte, _ error) {
	const query = `
WITH doc AS MATERIALIZED (
     SELECT convert_to('{"topology":' || json_build_object('id', t.id, 'name', t.name, 'status', t.status,
                'reason', t.reason, 'version', t.version, 'created_at', topology_time(t.created_at),
                'updated_at', topology_time(t.updated_at), 'status_changed_at', topology_time(t.status_changed_at))
            || ',"seq":' || h.seq || ',' || topology_graph_json(t.id) || '}',
            CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END) AS body, NULL::bigint AS next
       FROM topologies t JOIN topology_heads h ON h.topology_id = t.id WHERE t.id = $2::text::uuid)` + parts
	err := s.read(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		document, _, err = readBody(ctx, tx, query, most, string(id))
		if err != nil {
			return fmt.Errorf("read a topology: %w", err)
		}
		return nil
	})
	return document, err
}

// ChangeStatus implements stream.Store. What is legal is the database's to say.
func (s *Store) ChangeStatus(
	ctx context.Context, id stream.TopologyID, c stream.StatusChange,
) (changed stream.Topology, _ error) {
	const update = `
UPDATE topologies SET status = $2, reason = $3 WHERE id = $1::text::uuid
RETURNING id::text, name, status, reason, version,
          topology_time(created_at), topology_time(updated_at), topology_time(status_changed_at)`
	err := s.write(ctx, string(id), func(ctx context.Context, tx pgx.Tx) (err error) {
		if err := lockTopology(ctx, tx, id); err != nil {
			return err
		}
		changed, err = scanTopology(tx.QueryRow(ctx, update, string(id), c.Status, c.Reason))
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == "23514": // check_violation
			return conflict(stream.ErrIllegalTransition, "%s", pgErr.Message)
		case err != nil:
			return fmt.Errorf("change the status: %w", refusedField("reason", err))
		}
		return nil
	})
	return changed, err
}

// DeleteTopology implements stream.Store.
func (s *Store) DeleteTopology(ctx context.Context, id stream.TopologyID) error {
	const remove = `DELETE FROM topologies WHERE id = $1::text::uuid`
	return s.write(ctx, string(id), func(ctx context.Context, tx pgx.Tx) error {
		if err := lockTopology(ctx, tx, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, remove, string(id)); err != nil {
			return fmt.Errorf("delete a topology: %w", err)
		}
		return nil
	})
}

// lockTopology locks the topology's row, which everything that touches one of its mutations does first. The lock is
// the strong one: also who inserts a mutation by hand, whose foreign key takes the weakest, is waited for, so that
// the next statement sees all mutations in flight.
func lockTopology(ctx context.Context, tx pgx.Tx, id stream.TopologyID) error {
	const lock = `SELECT FROM topologies WHERE id = $1::text::uuid FOR UPDATE`
	tag, err := tx.Exec(ctx, lock, string(id))
	switch {
	case err != nil:
		return fmt.Errorf("lock the topology: %w", err)
	case tag.RowsAffected() == 0:
		return stream.ErrNotFound
	}
	return nil
}
