// Package graph applies the edits of mutations to a topology's LANs, deckies and edges, by the graph's rules.
//
// A decky has one home: its edge with is_bridge = false. deckies.ip is its address there. attach_decky makes edges
// with is_bridge = true. decky_config holds archetype and forwards_l3; the home edge repeats forwards_l3.
package graph

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/stream"
)

// A RefusedError says which of the graph's rules an edit breaks. It is one sentence for operators.
type RefusedError struct {
	Reason string
	err    error // PostgreSQL's, whose own text may name what only its operators know
}

func (e *RefusedError) Error() string { return e.Reason }

func (e *RefusedError) Unwrap() error { return e.err }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// Apply makes one edit of a topology, which the triggers record as `graph` events. op is a value from
// [stream.ParseOp]. The caller holds the topology's row lock, so that edits of one topology go one after another.
//
// An edit that breaks a rule is a [*RefusedError]; it has changed nothing, and tx can be used on. So is one that
// collides with what somebody writes by hand at the same moment, who does not hold that lock, and what the tables'
// constraints or an installation's own triggers refuse. After any other error tx can only be rolled back.
func Apply(ctx context.Context, tx pgx.Tx, topology stream.TopologyID, op any) error {
	e := &edit{topology: topology}
	return e.apply(ctx, tx, func(ctx context.Context) error { return e.run(ctx, op) })
}

// ApplyMutation makes the edit of a mutation, which tx then sets to applied. The triggers record what it changes as
// the result of that mutation, and as no event of its own; tx cannot commit before. Otherwise it is as [Apply].
func ApplyMutation(ctx context.Context, tx pgx.Tx, topology stream.TopologyID, op any) error {
	const open = `INSERT INTO topology_edits (topology_id) VALUES ($1::text::uuid)`
	e := &edit{topology: topology}
	return e.apply(ctx, tx, func(ctx context.Context) error {
		if err := e.exec(ctx, open, topology); err != nil {
			return fmt.Errorf("open the edit: %w", err)
		}
		return e.run(ctx, op)
	})
}

// An edit is one call of Apply.
type edit struct {
	tx       pgx.Tx
	topology stream.TopologyID
}

// apply runs do in a savepoint.
func (e *edit) apply(ctx context.Context, tx pgx.Tx, do func(context.Context) error) (err error) {
	if e.tx, err = tx.Begin(ctx); err != nil {
		return fmt.Errorf("begin the edit: %w", err)
	}
	if err = do(ctx); err == nil {
		return e.tx.Commit(ctx)
	}
	if undo := e.tx.Rollback(ctx); undo != nil {
		return fmt.Errorf("undo the edit: %w", errors.Join(undo, err))
	}
	return asRefusal(err)
}

// asRefusal makes a RefusedError of an error by which PostgreSQL refuses what the edit says, and would refuse it again.
// Other errors stay as they are.
func asRefusal(err error) error {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || len(pgErr.Code) != 5 {
		return err
	}
	switch class := pgErr.Code[:2]; {
	case class == "22", class == "P0", pgErr.Code == "23514": // data, a trigger's exception, a rule of the tables
		return &RefusedError{"PostgreSQL refused the edit: " + pgErr.Message, err}
	case class == "23": // integrity constraint violation
		return &RefusedError{"the edit collides with what somebody wrote by hand: " + pgErr.Message, err}
	}
	return err
}

func (e *edit) run(ctx context.Context, op any) error {
	switch op := op.(type) {
	case stream.AddLAN:
		return e.addLAN(ctx, op)
	case stream.RemoveLAN:
		return e.removeLAN(ctx, op)
	case stream.UpdateLAN:
		return e.updateLAN(ctx, op)
	case stream.AddDecky:
		return e.addDecky(ctx, op)
	case stream.AttachDecky:
		return e.attachDecky(ctx, op)
	case stream.DetachDecky:
		return e.detachDecky(ctx, op)
	case stream.RemoveDecky:
		return e.removeDecky(ctx, op)
	case stream.UpdateDecky:
		return e.updateDecky(ctx, op)
	case stream.Changeset:
		return e.changeset(ctx, op)
	}
	return fmt.Errorf("%T is no op", op)
}

// changeset makes all of its edits. A refusal of one, whose index it names, refuses all.
func (e *edit) changeset(ctx context.Context, set stream.Changeset) error {
	for i, op := range set.Ops {
		err := asRefusal(e.run(ctx, op))
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			return refuse("ops[%d]: %s", i, refused.Reason)
		}
		if err != nil {
			return fmt.Errorf("ops[%d]: %w", i, err)
		}
	}
	return nil
}

// rows collects the rows of a query.
func rows[T any](ctx context.Context, e *edit, query string, args ...any) ([]T, error) {
	r, err := e.tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(r, pgx.RowToStructByPos[T])
}

// exec runs a statement that changes one row. Where there is no such row, somebody has removed it by hand meanwhile,
// and the edit is refused.
func (e *edit) exec(ctx context.Context, statement string, args ...any) error {
	tag, err := e.tx.Exec(ctx, statement, args...)
	if err == nil && tag.RowsAffected() != 1 {
		return refuse("somebody removed by hand what the edit is about, at the same moment")
	}
	return err
}
