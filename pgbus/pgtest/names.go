package pgtest

import (
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"testing"

	"topostream/sql"
)

// OurNames are what our SQL calls things: columns, aliases, and the variables and parameters of functions, which begin
// with an underscore. An installation may have columns of any of them.
func OurNames(t testing.TB) []string {
	t.Helper()
	names := map[string]struct{}{}
	for _, name := range []string{
		"version", "raised", "flight", "bytes", "ord", "type", "seq", "before", "now", "more", "moved", "changed", "told",
		"m", "t", "h", "n", "l", "d", "g", "e", "u", "s", "by_hand", "kind", "added", "finished", "row", "there", "epoch",
		"first", "last", "notify", "event", "at", "state", "status", "reason", "in_flight", "lease", "result", "payload",
		"name", "id", "uuid", "topology_id", "position", "xid", "key", "value", "topology", "mutation", "schema", "document",
		"light", "ids", "x", "y", "subject", "text",
	} {
		names[name] = struct{}{}
	}
	files, err := fs.Glob(sql.Files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := sql.Files.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variables.FindAllString(string(text), -1) {
			names[name] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

var variables = regexp.MustCompile(`\b_[a-z][a-z_]*`)
