// Package model runs the models under testdata/model with Spin: each variant, the protocol's own and the mutants, over
// all its interleavings. It is a package of its own, and only a test: Go does not look for tests under testdata.
package model

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	models     = "../../testdata/model"
	readme     = models + "/README.md"
	mostStates = 100_000 // of a run that finds nothing: more is a model that nobody waits for
	holds      = "holds"
	stuck      = "invalid end state" // as Spin calls it: somebody waits for ever
)

var update = flag.Bool("update", false, "write the table of "+readme+" anew")

// A variant is a model with its switches, and what must come of it: [holds], or the assertion that fails.
type variant struct {
	model   string
	what    string
	defines string
	want    string
	quick   bool // it runs also where TOPOSTREAM_LONG=1 is not set
}

// lost is the assertion of attach, wal and switch.
const lost = "event_lost"

var variants = []variant{
	// What PROOF.md measured, cell by cell.
	{"attach", "snapshot, then LISTEN; fresh; to 18", "PROTOCOL=1 LISTENING=0 PG=18", lost, false},
	{"attach", "snapshot, then LISTEN; listening; to 18", "PROTOCOL=1 LISTENING=1 PG=18", lost, false},
	{"attach", "snapshot, then LISTEN; fresh; from 19", "PROTOCOL=1 LISTENING=0 PG=19", lost, false},
	{"attach", "snapshot, then LISTEN; listening; from 19", "PROTOCOL=1 LISTENING=1 PG=19", lost, false},
	{"attach", "one transaction; fresh; to 18", "PROTOCOL=2 LISTENING=0 PG=18", lost, true},
	{"attach", "one transaction; fresh; from 19", "PROTOCOL=2 LISTENING=0 PG=19", lost, false},
	{"attach", "one transaction; listening; to 18", "PROTOCOL=2 LISTENING=1 PG=18", holds, false},
	{"attach", "one transaction; listening; from 19", "PROTOCOL=2 LISTENING=1 PG=19", lost, false},
	{"attach", "ours; fresh; to 18", "PROTOCOL=3 LISTENING=0 PG=18", holds, true},
	{"attach", "ours; listening; to 18", "PROTOCOL=3 LISTENING=1 PG=18", holds, false},
	{"attach", "ours; fresh; from 19", "PROTOCOL=3 LISTENING=0 PG=19", holds, false},
	{"attach", "ours; listening; from 19", "PROTOCOL=3 LISTENING=1 PG=19", holds, false},
	// The connection dies, and the queue's tail moves past what has not committed.
	{"attach", "fresh, reconnects; to 18", "PROTOCOL=3 LISTENING=0 PG=18 KILLS=2 TAIL=1 PROBE=1", holds, false},
	{"attach", "listening, reconnects; to 18", "PROTOCOL=3 LISTENING=1 PG=18 KILLS=2 TAIL=1 PROBE=1", holds, false},
	{"attach", "fresh, reconnects; from 19", "PROTOCOL=3 LISTENING=0 PG=19 KILLS=2 TAIL=1 PROBE=1", holds, false},
	{"attach", "listening, reconnects; from 19", "PROTOCOL=3 LISTENING=1 PG=19 KILLS=2 TAIL=1 PROBE=1", holds, false},
	{"attach", "notifications while the journal is read; to 18", "PG=18 LISTENING=1 KILLS=1 ASYNC=1", holds, false},
	{"attach", "notifications while the journal is read; from 19", "PG=19 LISTENING=1 KILLS=1 ASYNC=1", holds, false},
	{"attach", "no probe after the first LISTEN; to 18", "PG=18 LISTENING=1 TAIL=1 PROBE=0", lost, false},
	{"attach", "no probe after the first LISTEN; from 19", "PG=19 LISTENING=1 TAIL=1 PROBE=0", lost, false},
	{"attach", "no probe, fresh; to 18", "PG=18 LISTENING=0 TAIL=1 PROBE=0", lost, false},
	{"attach", "no probe, fresh; from 19", "PG=19 LISTENING=0 TAIL=1 PROBE=0", lost, false},
	{"attach", "the probe's channel given up; to 18", "PG=18 LISTENING=1 TAIL=1 PROBE=2", lost, false},
	{"attach", "the probe's channel given up; from 19", "PG=19 LISTENING=1 TAIL=1 PROBE=2", lost, false},

	{"document", "from the primary", "STANDBYS=0", holds, false},
	{"document", "from two standbys", "STANDBYS=1 STEPS=4", holds, false},
	{"document", "one older than the light snapshot is taken", "STANDBYS=1 STEPS=4 OLDER=0", "ends_wrong", false},
	{"document", "deleted between: it is read until it is there", "GONE=0", stuck, false},
	{"document", "made anew: the client ends with the old feed", "ANEW=0", "wrong_deleted", false},
	{"document", "pruned past it: the stream goes on behind the hole", "PRUNED=0", "gap", false},
	{"document", "a lagging standby's 404 is believed", "STANDBYS=1 STEPS=4 COMING=0", "wrong_404", false},
	{"document", "a 404 of a snapshot older than the request", "SHARED=0", "wrong_404", true},
	{"document", "witness: two tries can be in vain", "STANDBYS=1 STEPS=4 REACH=1", "unavailable", false},

	{"wal", "one event, the stream breaks", "N=1 KILLS=1", holds, false},
	{"wal", "two events", "N=2 OTHER=0", holds, true},
	{"wal", "a standby is promoted", "PROMOTED=1", holds, false},
	{"wal", "a streamed event is forgotten", "IN_DOUBT=0", "wrong_reset", false},
	{"wal", "what was in doubt is not compared", "IN_DOUBT=2", lost, false},
	{"wal", "removal in the same round, over a promotion", "PROMOTED=1 ROUNDS=0", "wrong_reset", false},
	{"wal", "removal in the same round, on a primary: harmless", "N=2 OTHER=0 ROUNDS=0", holds, false},
	{"wal", "no running transactions at the start", "RUNNING=0", lost, false},
	{"wal", "only those that pg_current_snapshot lists", "RUNNING=1", lost, false},
	{"wal", "running transactions listed before the slot", "EARLY=1", lost, false},
	{"wal", "in the map after the catch-up", "LATE=1", lost, false},
	{"wal", "in doubt is asked for after the database", "ASK=0", "wrong_reset", false},

	{"switch", "wal to notify", "SWITCHES=1", holds, false},
	{"switch", "notify to wal", "SWITCHES=1 START=1", holds, false},
	{"switch", "there and back, and there", "SWITCHES=3 WRITERS=1", holds, true},
	{"switch", "notify, wal, notify", "SWITCHES=2 START=1 WRITERS=1", holds, false},
	{"switch", "a server that starts meanwhile", "SWITCHES=1 FRESH=1", holds, false},
	{"switch", "no draining", "DRAIN=0", lost, false},
	{"switch", "by what pg_current_snapshot lists (as it was)", "DRAIN=1", lost, false},
	{"switch", "by snapshots alone", "DRAIN=2", lost, false},
	{"switch", "by snapshots, then backend_xid: misses prepared ones", "DRAIN=3", lost, false},
	{"switch", "by numbers alone", "DRAIN=4", lost, false},
	{"switch", "by numbers, then snapshots", "DRAIN=6", lost, false},
	{"switch", "by snapshots below the switch's own number", "DRAIN=7", lost, false},
	{"switch", "no comparison when the stream ends", "COMPARE=0", lost, false},
	{"switch", "no comparison when the stream begins", "COMPARE=0 START=1", lost, false},
	{"switch", "a server that starts does not drain", "COUNTED=0 FRESH=1", lost, false},
	{"switch", "by value: changed twice meanwhile", "COUNTED=0 SWITCHES=3 WRITERS=1", lost, false},
	{"switch", "by value: changed twice unseen", "COUNTED=0 SWITCHES=2 START=1 WRITERS=1", lost, false},

	{"histories", "a promotion behind a pooler", "EVENTS=2", holds, true},
	{"histories", "the client comes back to a fresh server", "RESUMES=1", holds, false},
	{"histories", "the old primary lives on for a while", "LIVES=1", holds, false},
	{"histories", "from a standby that is promoted", "REPLICA=1 RESUMES=1", holds, false},
	{"histories", "the same, by the WAL", "REPLICA=1 RESUMES=1 STREAM=1", holds, false},
	{"histories", "two copies that raise to the same epoch", "COPIES=1", holds, false},
	{"histories", "identity when a connection opens (as it was)", "IDENTITY=0", "spliced", false},
	{"histories", "identity by a statement of its own", "SPLIT=1", "spliced", false},
	{"histories", "two copies without history", "COPIES=1 HISTORY=0", "ends_wrong", false},
	{"histories", "head = greatest(seq, epoch << 32)", "SHORT=1", "ends_wrong", false},
	{"histories", "an old primary is believed", "LIVES=1 BELIEVE=1", "went_back", false},
	{"histories", "an old primary is raised", "LIVES=1 BELIEVE=2", "went_back", false},
	{"histories", "a lower epoch is refused though a raise is due", "COPIES=1 REFUSE=1", "ends_wrong", false},
	{"histories", "a resume from memory, promotion", "REPLICA=1 RESUMES=1 STREAM=1 MEMORY=1", "spliced", false},
	{"histories", "limit: a fresh server believes an old primary", "LIVES=1 RESUMES=1", "went_back", false},
	{"histories", "limit: a fresh server, copies of one epoch", "COPIES=1 RESUMES=1", "ends_wrong", false},
	{"histories", "limit: two copies that both live", "COPIES=1 LIVES=1", "went_back", false},
}

// A result is what a run of Spin found.
type result struct {
	verdict string
	states  int
}

func TestEveryModelHoldsAndEveryMutantFails(t *testing.T) {
	t.Parallel()
	version := spinVersion(t)
	page := readPage(t)
	sameSpin := strings.Contains(page, version)
	var (
		mu      sync.Mutex
		results = map[string]result{}
	)
	t.Cleanup(func() {
		if *update && len(results) == len(variants) {
			writePage(t, page, version, results)
		}
	})
	all := os.Getenv("TOPOSTREAM_LONG") == "1" || *update
	for _, v := range variants {
		if !all && (!v.quick || testing.Short() && v.model != "attach") {
			continue
		}
		t.Run(v.model+" "+v.defines, func(t *testing.T) {
			t.Parallel()
			r := v.run(t)
			t.Logf("%s: %s: %s, %d states", v.model, v.what, r.verdict, r.states)
			mu.Lock()
			results[v.key()] = r
			mu.Unlock()
			if !*update && sameSpin && !strings.Contains(page, v.line(r)) {
				t.Errorf("%s does not say\n%s\ngo test ./pgbus/model -update writes it", readme, v.line(r))
			}
		})
	}
}

func TestTheTableOfModelsHasARowForEachVariantAndNoOther(t *testing.T) {
	t.Parallel()
	rows := regexp.MustCompile("(?m)^\\| `[a-z]+`.*$").FindAllString(readPage(t), -1)
	for i, v := range variants {
		if i >= len(rows) || !strings.HasPrefix(rows[i], v.prefix()) {
			t.Fatalf("row %d of %s is not %s", i+1, readme, v.prefix())
		}
	}
	if len(rows) != len(variants) {
		t.Errorf("%s has %d rows, want %d", readme, len(rows), len(variants))
	}
}

// PROOF.md's table tells how many attaches lost an event. Where it says 0 the model holds, and nowhere else.
func TestTheMeasuredAttachTableIsWhatTheModelSays(t *testing.T) {
	t.Parallel()
	bytes, err := os.ReadFile("../../PROOF.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(bytes), "\n| protocol |")
	if !found {
		t.Fatal("PROOF.md has no table of protocols")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	lines := strings.Split(table, "\n")
	versions := cells("| protocol |" + lines[0])[1:]
	protocols := map[string][]string{
		"snapshot, then LISTEN":                    {"PROTOCOL=1 LISTENING=0", "PROTOCOL=1 LISTENING=1"},
		"one transaction, fresh connection":        {"PROTOCOL=2 LISTENING=0"},
		"one transaction, connection that listens": {"PROTOCOL=2 LISTENING=1"},
		"ours": {"PROTOCOL=3 LISTENING=0", "PROTOCOL=3 LISTENING=1"},
	}
	for _, line := range lines[2:] {
		row := cells(line)
		name := row[0]
		if strings.HasPrefix(name, "ours") {
			name = "ours"
		}
		if protocols[name] == nil {
			t.Errorf("no variant of the model is %q", row[0])
		}
		for i, version := range versions {
			pg := "PG=18"
			if strings.HasPrefix(version, "19") {
				pg = "PG=19"
			}
			for _, defines := range protocols[name] {
				measured, model := strings.HasPrefix(row[i+1], "0 of "), wantOf(t, defines+" "+pg) == holds
				if measured != model {
					t.Errorf("%s on %s: measured %q, the model says holds=%v", row[0], version, row[i+1], model)
				}
			}
		}
		delete(protocols, name)
	}
	if len(protocols) != 0 {
		t.Errorf("PROOF.md does not tell of %v", protocols)
	}
}

func wantOf(t *testing.T, defines string) string {
	t.Helper()
	for _, v := range variants {
		if v.model == "attach" && v.defines == defines {
			return v.want
		}
	}
	t.Fatalf("no variant of attach has %s", defines)
	return ""
}

func cells(line string) []string {
	var out []string
	for cell := range strings.SplitSeq(strings.Trim(line, "| "), "|") {
		out = append(out, strings.Trim(cell, " *"))
	}
	return out
}

func (v variant) key() string { return v.model + " " + v.defines }

// prefix is a row of the page but for the number of states.
func (v variant) prefix() string {
	verdict := holds
	if v.want != holds {
		verdict = "fails: " + v.want
	}
	return fmt.Sprintf("| `%s` | %s | `%s` | %s | ", v.model, v.what, v.defines, verdict)
}

func (v variant) line(r result) string { return v.prefix() + strconv.Itoa(r.states) + " |" }

// run lets Spin look at every interleaving of the variant, and fails the test unless that gives what is wanted.
func (v variant) run(t *testing.T) result {
	t.Helper()
	dir := t.TempDir()
	file, err := filepath.Abs(filepath.Join(models, v.model+".pml"))
	if err != nil {
		t.Fatal(err)
	}
	var defines []string
	for d := range strings.FieldsSeq(v.defines) {
		defines = append(defines, "-D"+d)
	}
	if out := command(t, dir, "spin", append(defines, "-a", file)...); strings.Contains(out, "rror:") {
		t.Fatalf("spin: %s", out)
	}
	command(t, dir, "gcc", "-O0", "-w", "-DSAFETY", "-o", "pan", "pan.c")
	const depth = "-m200000"
	out := command(t, dir, "./pan", depth)
	r := result{verdict: verdict(out), states: number(t, out, `(\d+) states, stored`)}
	if r.verdict != v.want {
		trail := ""
		if r.verdict != holds {
			replay := slices.Concat(defines, []string{"-t", "-p", "-g", "-l", "-k", trailOf(dir), file})
			trail = command(t, dir, "spin", replay...)
		}
		t.Errorf("%s (%s): %s, want %s\n%s", v.what, v.defines, r.verdict, v.want, trail)
	}
	if r.verdict == holds {
		for _, sign := range []string{"max search depth too small", "Search not completed", "out of memory", "aborted"} {
			if strings.Contains(out, sign) {
				t.Errorf("the search was not exhaustive: %s", sign)
			}
		}
		if r.states > mostStates {
			t.Errorf("%d states, want at most %d", r.states, mostStates)
		}
	}
	return r
}

func trailOf(dir string) string {
	trails, _ := filepath.Glob(filepath.Join(dir, "*.trail"))
	if len(trails) == 0 {
		return ""
	}
	return filepath.Base(trails[0])
}

// verdict is what failed first, or [holds].
func verdict(out string) string {
	if m := regexp.MustCompile(`assertion violated +!\((.*)\) \(at depth`).FindStringSubmatch(out); m != nil {
		return m[1]
	}
	if strings.Contains(out, "pan:1: "+stuck) {
		return stuck
	}
	if !strings.Contains(out, "errors: 0") {
		return "no verdict: " + out
	}
	return holds
}

func number(t *testing.T, text, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", pattern, text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// command runs a program in dir and gives what it prints.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func spinVersion(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("spin"); err != nil {
		t.Skip("skipped: spin is not installed (Debian package spin)")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("skipped: gcc is not installed (Debian package gcc)")
	}
	version := command(t, t.TempDir(), "spin", "-V")
	return regexp.MustCompile(`Spin Version [0-9.]*[0-9]`).FindString(version)
}

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// writePage writes the table, which is the end of the page, and the version of Spin above it.
func writePage(t *testing.T, page, version string, results map[string]result) {
	t.Helper()
	const head = "| model | variant | switches | verdict | states |\n|---|---|---|---|---|\n"
	text, _, found := strings.Cut(page, head)
	if !found {
		t.Fatalf("%s has no table", readme)
	}
	var b strings.Builder
	b.WriteString(regexp.MustCompile(`Spin Version [0-9.]*[0-9]`).ReplaceAllString(text, version) + head)
	for _, v := range variants {
		b.WriteString(v.line(results[v.key()]) + "\n")
	}
	const mode = 0o644
	if err := os.WriteFile(readme, []byte(b.String()), mode); err != nil {
		t.Fatal(err)
	}
}
