package contract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T) *Contract {
	t.Helper()
	c, err := Read("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheGoldenStreamsAreAsDescribed(t *testing.T) {
	t.Parallel()
	c := read(t)
	files, err := filepath.Glob("../../../testdata/golden/*.sse")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := "/api/v1/topologies/x/events"
		switch name := filepath.Base(file); name {
		case "list.sse":
			path = "/api/v1/topologies/events"
		case "many.sse", "vector.sse":
			path = "/api/v1/events"
		}
		if err := c.Frames("GET", path, text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestTheExamplesAreOfTheirSchemas(t *testing.T) {
	t.Parallel()
	n := 0
	for _, o := range read(t).Operations() {
		for _, e := range o.Examples {
			if n++; e.Err != nil {
				t.Errorf("%s %s: %d: %s: %v", o.Method, o.Path, e.Status, e.Body, e.Err)
			}
		}
		if o.body != nil && !strings.Contains(o.Path, "ticket") && len(o.Examples) == 0 {
			t.Errorf("%s %s has a body, and no example of one", o.Method, o.Path)
		}
	}
	if n == 0 {
		t.Error("there is no example")
	}
}
