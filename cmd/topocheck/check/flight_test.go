package check

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// crowd enqueues n mutations with payloads of about size bytes; their positions run against the order of their seqs, as
// those of transactions that commit in the other order do. m0 has the last position.
func crowd(t *topology, n, size int) {
	for i := range n {
		seq := uint64(i) + 1
		payload := fmt.Sprintf(`{"op":"add_lan","payload":{"name":"%s"},"mutation_id":"m%d"}`, strings.Repeat("x", size), i)
		t.fold(seq, eventJSON(seq, "mutation.enqueued", payload), int64(n-i), true)
	}
}

// document is what a server shows of crowd: the first shown by position, of total.
func document(n, shown, total, size int) string {
	rows := make([]string, 0, shown)
	for i := range shown {
		rows = append(rows, fmt.Sprintf(
			`{"id":"m%d","position":%d,"op":"add_lan","payload":{"name": "%s"},"state":"pending","requested_by":null}`,
			n-1-i, i+1, strings.Repeat("x", size)))
	}
	return fmt.Sprintf(`{"topology_id":"id","status":"","seq":%d,"in_flight":[%s],"in_flight_total":%d}`,
		n, strings.Join(rows, ","), total)
}

func TestWhatADocumentShowsOfABacklogIsItsBeginning(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		n, size  int
		document func(n, size int) string
		want     string
	}{
		"all":                {5, 10, func(n, size int) string { return document(n, n, n, size) }, ""},
		"the first thousand": {1200, 10, func(n, size int) string { return document(n, 1000, n, size) }, ""},
		"one too many":       {1200, 10, func(n, size int) string { return document(n, 1001, n, size) }, "holds 1001"},
		"fewer than there is room": {1200, 10, func(n, size int) string { return document(n, 999, n, size) },
			"there was room"},
		"none":       {1200, 10, func(n, size int) string { return document(n, 0, n, size) }, "there was room"},
		"a mebibyte": {40, 100_000, func(n, size int) string { return document(n, 10, n, size) }, ""},
		"more than a mebibyte": {40, 100_000, func(n, size int) string { return document(n, 11, n, size) },
			"bytes of payloads"},
		"none, as the first alone is too large": {
			3, 2 << 20, func(n, size int) string { return document(n, 0, n, size) }, "",
		},
		"another total": {1200, 10, func(n, size int) string { return document(n, 1000, n+1, size) }, "number in flight"},
		"the wrong order": {1200, 10, func(n, size int) string {
			return strings.NewReplacer(`"m1199"`, `"m1198"`, `"m1198"`, `"m1199"`).Replace(document(n, 1000, n, size))
		}, "comes next by position"},
		"one left out": {1200, 10, func(n, size int) string {
			return strings.Replace(document(n, 1000, n, size), `"m1199"`, `"m3"`, 1)
		}, "comes next by position"},
		"another state": {1200, 10, func(n, size int) string {
			return strings.Replace(document(n, 1000, n, size), `"pending"`, `"applying"`, 1)
		}, "another op, payload or state"},
		"a position twice": {1200, 10, func(n, size int) string {
			return strings.Replace(document(n, 1000, n, size), `"position":2,`, `"position":1,`, 1)
		}, "has position 1 after 1"},
		"no position": {1200, 10, func(n, size int) string {
			return strings.Replace(document(n, 1000, n, size), `"position":2,`, ``, 1)
		}, "no position"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testRun()
			topology := newTopology(r, "id", "name", 0)
			crowd(topology, c.n, c.size)
			seq := uint64(c.n)
			later := fmt.Sprintf(`{"op":"add_lan","payload":null,"mutation_id":"m%d"}`, c.n-1)
			topology.fold(seq+1, eventJSON(seq+1, "mutation.applying", later), 0, true) // the snapshot is older
			if got := problemOf(t, topology, c.document(c.n, c.size)); !strings.Contains(got, c.want) ||
				(got == "") != (c.want == "") {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// problemOf judges a snapshot as if a client had got it.
func problemOf(t *testing.T, topology *topology, text string) string {
	t.Helper()
	var s snapshot
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	if problem := s.malformed(); problem != "" {
		return problem
	}
	d, rows, err := digestOf(topology.run.hash, s)
	if err != nil {
		t.Fatal(err)
	}
	d.status = topology.record(s.Seq).status
	return taken{seq: s.Seq, digest: d, rows: rows}.difference(topology.record(s.Seq), topology.logAt(s.Seq))
}

func TestAFailedMutationRaisesTheVersionWhereItsEventSaysSo(t *testing.T) {
	t.Parallel()
	const failed = `{"op": "add_lan", "reason": "no", "mutation_id": "m1"%s}`
	for name, c := range map[string]struct {
		version string
		after   int64
		want    string
	}{
		"the first version": {"", 0, ""}, "now": {`, "version": 1`, 1, ""},
		"not by one": {`, "version": 2`, 2, "has version 2 after 0"},
	} {
		r := testRun()
		topology := newTopology(r, "id", "name", 0)
		for i, e := range append(smallLife()[:3:3], smallLife()[4],
			[2]string{"mutation.failed", fmt.Sprintf(failed, c.version)}) {
			topology.fold(uint64(i)+1, eventJSON(uint64(i)+1, e[0], e[1]), 1, true)
		}
		text := fmt.Sprint(r.violations.first)
		if topology.state.version != c.after || (r.violations.total() == 0) != (c.want == "") ||
			!strings.Contains(text, c.want) {
			t.Errorf("%s: version %d, reported %s", name, topology.state.version, text)
		}
	}
}
