package check

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"testing"
	"time"
)

func testRun() *run {
	r := &run{began: time.Now(), hash: maphash.MakeSeed(), stats: newStats(),
		violations: &violations{count: map[Kind]uint64{}}}
	r.faults = newWindows(r.since)
	return r
}

func eventJSON(seq uint64, kind, payload string) []byte {
	return fmt.Appendf(nil, `{"topic":"topology.id.%s","type":"%s","ts":"","seq":%d,"journaled":true,"payload":%s}`,
		kind, kind, seq, payload)
}

// A small life of a topology, and the snapshot that a server would give at its end.
func smallLife() [][2]string {
	return [][2]string{
		{"status", `{"state": "pending", "reason": null}`},
		{"status", `{"state": "active", "reason": "up"}`},
		{"mutation.enqueued", `{"op": "add_lan", "payload": {"name": "a"}, "mutation_id": "m1"}`},
		{"mutation.enqueued", `{"op": "add_lan", "payload": {"name": "b"}, "mutation_id": "m2"}`},
		{"mutation.applying", `{"op": "add_lan", "payload": {"name": "a"}, "mutation_id": "m1"}`},
		{"mutation.applied",
			`{"op": "add_lan", "result": {"lans": [{"x": 1e2, "id": "l1", "name": "a"}], "edges": [], "deckies": [],
				"removed": []}, "version": 1, "mutation_id": "m1"}`},
		{"mutation.applying", `{"op": "add_lan", "payload": {"name": "b"}, "mutation_id": "m2"}`},
		{"custom", `7`},
	}
}

const smallSnapshot = `{"topology_id":"id","status":"active","reason":"up","version":1,"seq":8,
	"in_flight":[{"id" : "m2", "topology_id" : "id", "op" : "add_lan", "payload" : {"name": "b"}, "state" : "applying"}],
	"lans":[{"id" : "l1", "name" : "a", "x" : 100}],"deckies":[],"edges":[]}`

func TestASnapshotIsComparedWithTheStateThatTheJournalTells(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, instead, want string }{
		"as it is":                  {"", "", ""},
		"another status":            {`"active"`, `"degraded"`, "status or reason"},
		"another reason":            {`"up"`, `null`, "status or reason"},
		"another version":           {`"version":1`, `"version":2`, "version (2, not 1)"},
		"a mutation in other state": {`"applying"`, `"pending"`, "mutations in flight"},
		"a mutation's payload":      {`"payload" : {"name": "b"}`, `"payload" : {"name": "c"}`, "mutations in flight"},
		"another coordinate":        {`"x" : 100`, `"x" : 101`, "LANs, deckies or edges"},
		"a LAN that is not there":   {`{"id" : "l1", "name" : "a", "x" : 100}`, ``, "LANs, deckies or edges"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testRun()
			topology := newTopology(r, "id", "name", 8)
			for i, e := range smallLife() {
				topology.fold(uint64(i)+1, eventJSON(uint64(i)+1, e[0], e[1]), int64(i), true)
			}
			if n := r.violations.total(); n != 0 {
				t.Fatalf("%v", r.violations.first)
			}
			var s snapshot
			if err := json.Unmarshal([]byte(strings.Replace(smallSnapshot, c.old, c.instead, 1)), &s); err != nil {
				t.Fatal(err)
			}
			d, _, err := digestOf(r.hash, s)
			if err != nil {
				t.Fatal(err)
			}
			if got := topology.record(8).difference(d, true, true); !strings.Contains(got, c.want) ||
				(got == "") != (c.want == "") {
				t.Errorf("differs in %q, want %q", got, c.want)
			}
		})
	}
}

func TestAJournalThatCannotBeIsReported(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		without int
		want    string
	}{
		"an enqueued that is missing":  {2, `which is "": it must be "pending"`},
		"an applying that is missing":  {4, `which is "pending": it must be "applying"`},
		"a status that is missing":     {1, ""}, // only a snapshot or the tables can show it
		"an applied that is missing":   {5, ""}, // so can this; the next version does, too
		"nothing, but a seq goes back": {-1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testRun()
			topology := newTopology(r, "id", "name", 8)
			seq := uint64(0)
			for i, e := range smallLife() {
				if i == c.without {
					continue
				}
				seq++
				topology.fold(seq, eventJSON(seq, e[0], e[1]), int64(i), true)
			}
			text := fmt.Sprint(r.violations.first)
			if (r.violations.total() == 0) != (c.want == "") || !strings.Contains(text, c.want) {
				t.Errorf("reported %s, want %q", text, c.want)
			}
		})
	}
}

func TestPausesCountForTheFaultsThatTheyOverlap(t *testing.T) {
	t.Parallel()
	now := time.Duration(0)
	w := newWindows(func() time.Duration { return now })
	now = 10 * time.Second
	ended := w.Began("database.restart")
	now = 12 * time.Second
	ended()
	ended() // does nothing
	now = 20 * time.Second
	w.Began("server.kill")
	w.pause(1*time.Second, 2*time.Second)   // before all faults
	w.pause(9*time.Second, 13*time.Second)  // around the first
	w.pause(11*time.Second, 12*time.Second) // within it
	w.pause(15*time.Second, 18*time.Second) // between the two
	w.pause(19*time.Second, 26*time.Second) // into the second, which goes on
	if w.calm != 3*time.Second || w.byFault["database.restart"].LongestPause != 4*time.Second ||
		w.byFault["server.kill"].LongestPause != 7*time.Second {
		t.Errorf("calm %s, %+v, %+v", w.calm, w.byFault["database.restart"], w.byFault["server.kill"])
	}
	if got := w.now(); got != "server.kill" {
		t.Errorf("under way: %q", got)
	}
}
