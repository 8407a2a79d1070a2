// Package graph applies the edits of mutations to a topology's LANs, deckies and edges, by the graph's rules.
//
// A decky has one home: its edge with is_bridge = false. deckies.ip is its address there. attach_decky makes edges
// with is_bridge = true. decky_config holds archetype and forwards_l3; the home edge repeats forwards_l3.
package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/stream"
)

// A RefusedError says which of the graph's rules an edit breaks. It is one sentence for operators.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// Apply makes one edit of a topology and gives what it changed:
// {"lans":[…],"deckies":[…],"edges":[…],"removed":[{"table","id"}]}, rows as topology_graph_json makes them. op is a
// value from [stream.ParseOp]. The caller holds the topology's row lock, so that edits of one topology go one after
// another.
//
// An edit that breaks a rule is a [*RefusedError]; it has changed nothing, and tx can be used on. So is one that
// collides with what somebody writes by hand at the same moment, who does not hold that lock, and what the tables'
// constraints or an installation's own triggers refuse. After any other error tx can only be rolled back.
func Apply(ctx context.Context, tx pgx.Tx, topology stream.TopologyID, op any) (json.RawMessage, error) {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin the edit: %w", err)
	}
	e := &edit{tx: savepoint, topology: topology, removed: []removal{}}
	result, err := e.run(ctx, op)
	if err == nil {
		return result, savepoint.Commit(ctx)
	}
	if undo := savepoint.Rollback(ctx); undo != nil {
		return nil, fmt.Errorf("undo the edit: %w", errors.Join(undo, err))
	}
	return nil, asRefusal(err)
}

// asRefusal turns what PostgreSQL refuses for what the edit says, and would refuse again, into a RefusedError.
func asRefusal(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || len(pgErr.Code) != 5 {
		return err
	}
	switch pgErr.Code[:2] {
	case "23": // integrity constraint violation
		return refuse("the edit collides with what somebody wrote by hand: %s", pgErr.Message)
	case "22", "P0": // data exception, an exception raised by a trigger
		return refuse("PostgreSQL refused the edit: %s", pgErr.Message)
	}
	return err
}

// An edit is one call of Apply.
type edit struct {
	tx       pgx.Tx
	topology stream.TopologyID

	lans, deckies, edges []string // ids of the rows that it made or changed
	removed              []removal
}

// A removal is a row that is gone.
type removal struct {
	Table string `json:"table"`
	ID    string `json:"id"`
}

func (e *edit) run(ctx context.Context, op any) (json.RawMessage, error) {
	var err error
	switch op := op.(type) {
	case stream.AddLAN:
		err = e.addLAN(ctx, op)
	case stream.RemoveLAN:
		err = e.removeLAN(ctx, op)
	case stream.UpdateLAN:
		err = e.updateLAN(ctx, op)
	case stream.AddDecky:
		err = e.addDecky(ctx, op)
	case stream.AttachDecky:
		err = e.attachDecky(ctx, op)
	case stream.DetachDecky:
		err = e.detachDecky(ctx, op)
	case stream.RemoveDecky:
		err = e.removeDecky(ctx, op)
	case stream.UpdateDecky:
		err = e.updateDecky(ctx, op)
	default:
		err = fmt.Errorf("%T is no op", op)
	}
	if err != nil {
		return nil, err
	}
	return e.result(ctx)
}

// result reads the changed rows as topology_graph_json would give them.
func (e *edit) result(ctx context.Context) (json.RawMessage, error) {
	const query = `
SELECT json_build_object(
    'lans', (SELECT coalesce(json_agg(json_build_object('id', l.id, 'topology_id', l.topology_id, 'name', l.name,
        'subnet', l.subnet, 'is_dmz', l.is_dmz, 'x', l.x, 'y', l.y) ORDER BY l.name), '[]')
        FROM lans l WHERE l.id = ANY ($1::text[]::uuid[])),
    'deckies', (SELECT coalesce(json_agg(json_build_object('uuid', d.uuid, 'topology_id', d.topology_id, 'name', d.name,
        'services', d.services, 'decky_config', d.decky_config, 'ip', host(d.ip), 'state', d.state,
        'x', d.x, 'y', d.y) ORDER BY d.name), '[]')
        FROM deckies d WHERE d.uuid = ANY ($2::text[]::uuid[])),
    'edges', (SELECT coalesce(json_agg(json_build_object('id', g.id, 'topology_id', g.topology_id,
        'decky_uuid', g.decky_uuid, 'lan_id', g.lan_id, 'ip', host(g.ip), 'is_bridge', g.is_bridge,
        'forwards_l3', g.forwards_l3) ORDER BY g.decky_uuid, g.lan_id), '[]')
        FROM edges g WHERE g.id = ANY ($3::text[]::uuid[])),
    'removed', $4::json)::text`
	removed, err := json.Marshal(e.removed)
	if err != nil {
		return nil, fmt.Errorf("encode what was removed: %w", err)
	}
	var result string
	if err := e.tx.QueryRow(ctx, query, e.lans, e.deckies, e.edges, string(removed)).Scan(&result); err != nil {
		return nil, fmt.Errorf("read what the edit changed: %w", err)
	}
	return json.RawMessage(result), nil
}

// rows collects the rows of a query.
func rows[T any](ctx context.Context, e *edit, query string, args ...any) ([]T, error) {
	r, err := e.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(r, pgx.RowToStructByPos[T])
}

// exec runs a statement that changes one row. That row can be gone only by somebody's hand.
func (e *edit) exec(ctx context.Context, statement string, args ...any) error {
	tag, err := e.tx.Exec(ctx, statement, args...)
	if err == nil && tag.RowsAffected() != 1 {
		return refuse("somebody removed by hand what the edit is about, at the same moment")
	}
	return err
}
