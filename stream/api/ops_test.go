package api

import (
	"maps"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"topostream/stream"
)

// The console's own list of ops is compared with this description, too (stream/console/web/test/ops.test.ts).
func TestTheDescriptionHasEachOpAndNoOther(t *testing.T) {
	t.Parallel()
	var document map[string]any
	if err := yaml.Unmarshal(description, &document); err != nil {
		t.Fatal(err)
	}
	in := func(path ...string) any { return lookUp(document, append([]string{"components", "schemas"}, path...)) }
	given := map[string]bool{}
	oneOf, _ := in("NewMutation", "oneOf").([]any)
	for _, schema := range oneOf {
		ref, _ := lookUp(schema, []string{"$ref"}).(string)
		op, _ := in(ref[len("#/components/schemas/"):], "properties", "op", "const").(string)
		given[op] = true
	}
	if ops := slices.Sorted(maps.Keys(given)); !slices.Equal(ops, stream.Ops()) {
		t.Errorf("the description has %v, the ops are %v", ops, stream.Ops())
	}
}
