package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

const injectDir = "../../testdata/inject"

func TestEachScriptOfTestdataInjectIsSeenByTailUntil(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	db.Exec(t, `UPDATE topologies SET status = 'deploying'`)
	db.Exec(t, `UPDATE topologies SET status = 'active'`)
	server := serve(t, db.URL, func(c *serveCmd) { c.Mutator = true })
	untried := scripts(t)
	for _, step := range []struct{ script, until, printed string }{
		{"emit.sql", `decky.service_added="decky_name":"web-1"`, `"seq":4`},
		{"mutation.sql", `mutation.applied=lan-9`, `"version": 1`},
		{"mutations.sql", `mutation.applied="op":"update_lan".*lan-10`, `"x": 100`},
		{"graph.sql", `graph=lan-by-hand`, `10.77.0.0/24`},
		{"status.sql", `status="state":"degraded"`, `"reason": "by hand"`},
		{"notify.sql", `decky.seen="by":"hand"`, `"journaled":false`},
		{"text.sql", `notify=any text at all`, `"journaled":false`},
		{"delete.sql", `deleted`, `"journaled":true`},
	} {
		cmd := tailCmd{
			Topology: []string{id}, URL: server.url, Token: testToken(t), JSON: true, Until: step.until, Since: "3",
		}
		f := startTail(t, cmd)
		inject(t, db, step.script)
		if strings.Contains(step.printed, `"journaled":false`) { // nobody heard it who was not there
			pgtest.Eventually(t, step.script, func() bool {
				inject(t, db, step.script)
				return f.out.String() != ""
			})
		}
		if code, out := f.code(), f.out.String(); code != exitOK || !strings.Contains(out, step.printed) {
			t.Errorf("%s: %d %s", step.script, code, out)
		}
		untried = slices.DeleteFunc(untried, func(s string) bool { return s == step.script })
	}
	if len(untried) > 0 {
		t.Errorf("nobody tried %v", untried)
	}
}

// inject runs a script of testdata/inject as its comment says.
func inject(t *testing.T, db *pgtest.DB, script string) {
	t.Helper()
	if out, err := db.Psql(t, "", "-v", "topology=demo", "-f", filepath.Join(injectDir, script)); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

func scripts(t *testing.T) (names []string) {
	t.Helper()
	files, err := os.ReadDir(injectDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestTheInjectScriptsSayHowToRunThemAndEndWithoutATopology(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, name := range scripts(t) {
		text, err := os.ReadFile(filepath.Join(injectDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\n-- psql -v topology=demo -f testdata/inject/"+name+"\n") {
			t.Errorf("%s does not say how to run it", name)
		}
		if out, err := db.Psql(t, "", "-f", filepath.Join(injectDir, name)); err == nil {
			t.Errorf("%s ran without a topology: %s", name, out)
		}
	}
}
