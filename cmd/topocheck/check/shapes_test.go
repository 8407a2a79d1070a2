package check

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"topostream/stream"
)

// A campaign that never asks for an op proves nothing of it. Changesets are made of the others.
func TestAWriterAsksForEachOp(t *testing.T) {
	t.Parallel()
	w := &writer{run: &run{}, rng: rand.New(rand.NewPCG(1, 2))}
	asked := map[string]bool{stream.OpChangeset: true}
	for range 1000 {
		op, _ := w.op(0)
		asked[op] = true
		op, _ = w.shrinking()
		asked[op] = true
	}
	if ops := slices.Sorted(maps.Keys(asked)); !slices.Equal(ops, stream.Ops()) {
		t.Errorf("writers ask for %v, the ops are %v", ops, stream.Ops())
	}
}
