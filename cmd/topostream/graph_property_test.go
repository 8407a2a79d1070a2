package main

import (
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"topostream/pgbus/graph"
	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// Each drawn number is one edit that the model finds worth trying, so rapid shrinks a failure to few edits.
func TestWhateverIsEditedTheGraphIsTheModels(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	long(t) // pgbus/graph has shorter ones
	rapid.Check(t, func(rt *rapid.T) {
		pgtest.Exec(t, conn, `DELETE FROM topologies`)
		id := live(t, conn, 1)[0]
		m := newModel()
		for _, seed := range rapid.SliceOfN(rapid.Uint64(), 1, 40).Draw(rt, "edits") {
			op, payload := m.randomEdit(rand.New(rand.NewPCG(seed, 0)))
			raw, err := json.Marshal(payload)
			if err != nil {
				rt.Fatal(err)
			}
			allowed := m.apply(op, payload)
			err = edit(t, conn, id, op, raw)
			var refused *graph.RefusedError
			if allowed != (err == nil) || err != nil && !errors.As(err, &refused) {
				rt.Fatalf("%s %s: %v, the model allows it: %v", op, raw, err, allowed)
			}
		}
		compareGraphs(t, conn, map[string]*model{id: m})
	})
}

func TestTheModelKnowsEachOpAndTriesIt(t *testing.T) {
	t.Parallel()
	m, r, tried := newModel(), rand.New(rand.NewPCG(1, 2)), map[string]bool{}
	for range 1000 {
		op, payload := m.randomEdit(r)
		m.apply(op, payload)
		tried[op] = true
	}
	if ops := slices.Sorted(maps.Keys(tried)); !slices.Equal(ops, stream.Ops()) {
		t.Errorf("the model tries %v, the ops are %v", ops, stream.Ops())
	}
}

func edit(t *testing.T, conn *pgx.Conn, id, op string, payload json.RawMessage) error {
	t.Helper()
	parsed, err := stream.ParseOp(op, payload)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		return graph.Apply(t.Context(), tx, stream.TopologyID(id), parsed)
	})
}
