package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

func TestWhatAPersonTypesInPsqlReachesTheStream(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active'`)
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(3)
	awaitListen(t, server, 1)
	for _, line := range []struct{ typed, event, payload string }{
		{
			`UPDATE topologies SET status = 'degraded' WHERE name = 'demo';`,
			"status 4", `{"state": "degraded", "reason": null}`,
		},
		{
			`INSERT INTO mutations (topology_id, op, payload)
				SELECT id, 'add_lan', '{"name":"lan-9"}' FROM topologies WHERE name = 'demo';`,
			"mutation.enqueued 5", `{"op": "add_lan", "payload": {"name": "lan-9"}, "mutation_id": "$"}`,
		},
		{
			`SELECT topology_emit(id, 'decky.service_added', '{"decky_name":"web-1","services":["ssh"]}')
				FROM topologies WHERE name = 'demo';`,
			"decky.service_added 6", `{"services": ["ssh"], "decky_name": "web-1"}`,
		},
		{
			`NOTIFY "topology.` + id + `", '{"type":"mutation.applied","payload":{"mutation_id":"by-hand"}}';`,
			"mutation.applied raw", `{"mutation_id":"by-hand"}`,
		},
		{`NOTIFY "topology.` + id + `", 'any text at all';`, "notify raw", `"any text at all"`},
	} {
		if out, err := db.Psql(t, line.typed); err != nil {
			t.Fatalf("%s: %v: %s", line.typed, err, out)
		}
		name, seq, _ := strings.Cut(line.event, " ")
		c.await(line.event, func() bool {
			if seq == "raw" {
				return len(c.raw) > 0 && c.raw[len(c.raw)-1].Type == name
			}
			return c.last == seq
		})
		var body struct {
			Topic, Type string
			Journaled   *bool
			Payload     json.RawMessage
		}
		data := c.data[len(c.data)-1]
		if seq == "raw" {
			data = c.raw[len(c.raw)-1].Data
			if c.raw[len(c.raw)-1].LastEventID != c.last {
				t.Errorf("%s: a raw NOTIFY changed the client's last id", line.typed)
			}
		}
		if err := json.Unmarshal([]byte(data), &body); err != nil {
			t.Fatal(err)
		}
		if seq != "raw" && name == "mutation.enqueued" {
			line.payload = strings.Replace(line.payload, "$", pgtest.Scan[string](t, conn, `SELECT id::text FROM mutations`), 1)
		}
		if body.Type != name || body.Topic != "topology."+id+"."+name || *body.Journaled != (seq != "raw") ||
			string(body.Payload) != line.payload {
			t.Errorf("%s: %s, want the payload %s", line.typed, data, line.payload)
		}
	}
	c.stayedConnected()
}

// A typist makes NOTIFY payloads that somebody could type to break a stream.
type typist struct {
	random *rand.Rand
	conn   *pgx.Conn
	id     string
	key    bool // has the triggers' key, and so makes valid MACs
}

func (p *typist) text(t *testing.T) string {
	fragments := []string{
		"'",
		`"`,
		"\n",
		"\r",
		"\r\n",
		"\n\n",
		"data: x",
		"\ndata: forged\n",
		"event: deleted",
		"\nevent: snapshot\n",
		"id: 999999",
		"\nid: 7\n\n",
		"retry: 1",
		":",
		": comment",
		"{",
		"}",
		`{"type":"notify"}`,
		`{"type":"x","payload":"\n"}`,
		`{"type":"x\ny"}`,
		`{"type":"x","payload":{"a":1}}`,
		"\u2028",
		"é€😀",
		"\t",
		"\x01",
		"\\",
		`{"type":"snapshot","payload":{}}`,
		`{"type":"deleted"}`,
		`{"type":"x","seq":5,"journaled":true}`,
		"~",
		"~:1 ",
		"\ufeff",
		strings.Repeat("x", 7000),
	}
	head := pgtest.Scan[uint64](t, p.conn, `SELECT seq FROM topology_heads WHERE topology_id = $1`, p.id)
	event := pgtest.Scan[string](t, p.conn, `SELECT event FROM topology_journal($1::text::uuid, $2, 1, 1, 9999)`, p.id,
		head-1)
	switch n := p.random.IntN(8); {
	case n == 0:
		return event // a copy of an event: its type and payload are taken, its seq is not
	case n == 1:
		return fmt.Sprintf("~%032x:%d %s", p.random.Uint64(), head+1, event)
	case n < 5 && p.key:
		seq := head + uint64(p.random.IntN(4)) - 1
		inline := []string{
			"", " " + event, " {}", " x\ndata: y\n\nevent: z", " \n\nid: 1\n\n",
			fmt.Sprintf(` {"topic":"topology.%s.x%sdata: y","type":"x","seq":%d}`, p.id, "\n", seq),
			fmt.Sprintf(
				` {"topic":"topology.%s.deleted","type":"deleted","ts":"2026-01-01T00:00:00.000000Z","seq":%d,"journaled":true,`+
					`"payload":{}}`,
				p.id, seq,
			),
			fmt.Sprintf(
				` {"topic":"topology.%s.test","type":"test","ts":"2026-01-01T00:00:00.000000Z","seq":%d,"journaled":true,`+
					`"payload":"forged"}`,
				p.id, seq,
			),
			fmt.Sprintf(
				` {"topic":"topology.%s.test","type":"test","ts":"2026-01-01T00:00:00.000000Z","seq":%d,"journaled":true,`+
					`"payload":"forged`+"\n\n"+`"}`,
				p.id, seq,
			),
		}[p.random.IntN(9)]
		return pgtest.Scan[string](t, p.conn,
			`SELECT '~' || topology_mark(inner_pad, outer_pad, $1 || ':' || $2) || ':' || $2 FROM topology_settings`, p.id,
			strconv.FormatUint(seq, 10)+inline)
	}
	var b strings.Builder
	for range 1 + p.random.IntN(5) {
		b.WriteString(fragments[p.random.IntN(len(fragments))])
	}
	return strings.ToValidUTF8(b.String()[:min(b.Len(), 7990)], "")
}

// injectAndListen types n texts, each followed by a real event, while a client in Go and a page in Chromium follow. key
// says whether the typist has the triggers' key.
func injectAndListen(t *testing.T, n int, key bool) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	emit(t, conn, id)
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "")
	c.forged = key
	c.watch().awaitSeq(2)
	page := openPage(t, server)
	page.eventSource(id, testToken(t))
	page.until(`window.got.length > 0`)
	awaitListen(t, server, 1)

	typed := &typist{rand.New(rand.NewPCG(seed, 0)), conn, id, key}
	var head uint64
	for range n {
		text := typed.text(t)
		if _, err := conn.Exec(t.Context(), `SELECT pg_notify('topology.' || $1::text, $2)`, id, text); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		head = emit(t, conn, id)
	}
	c.awaitSeq(head)
	page.until(fmt.Sprintf(`window.last >= %d`, head))
	if errors := chromeEval[[]string](t, page.ctx, `window.wrong`); len(errors) > 0 {
		t.Errorf("Chromium: %q", errors)
	}
	if n := chromeEval[int](t, page.ctx, `window.opens`); n != 1 {
		t.Errorf("Chromium connected %d times", n)
	}
	want := journal(t, server, id, 0)
	if key { // a forged event is found out and answered by a snapshot, which takes it back
		c.await("what the journal has since the last snapshot", func() bool {
			snapshot, i := c.snapshots[len(c.snapshots)-1], len(c.data)
			for i > 0 && c.seqs[i-1] > snapshot { // one after the other, as the client has checked
				i--
			}
			return slices.Equal(c.data[i:], want[snapshot:])
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connects != 1 {
		t.Errorf("%d connects", c.connects)
	}
	if key {
		return // less is shown one by one
	}
	if len(c.raw) != n || len(c.snapshots) != 1 || uint64(len(c.seqs)) != head-2 {
		t.Errorf("%d raw events, %d snapshots, %d events; want %d, 1, %d", len(c.raw), len(c.snapshots), len(c.seqs), n,
			head-2)
	}
	if raw := chromeEval[int](t, page.ctx, `window.raw`); raw == 0 || raw > n {
		t.Errorf("Chromium got %d raw events", raw)
	}
	for _, e := range c.raw {
		var body struct {
			Type      string
			Journaled *bool
		}
		if err := json.Unmarshal([]byte(e.Data), &body); err != nil || body.Journaled == nil || *body.Journaled ||
			body.Type != e.Type {
			t.Errorf("%s %q: %v", e.Type, e.Data, err)
		}
	}
	want = want[2:]
	if !slices.Equal(c.data, want) {
		t.Error("what the client has is not the journal")
	}
	if got := chromeEval[[]string](t, page.ctx, `window.data`); !slices.Equal(got, want) {
		t.Errorf("what Chromium has is not the journal: %d of %d", len(got), len(want))
	}
}

func TestNoTextThatAPersonNotifiesBreaksAStream(t *testing.T) {
	t.Parallel()
	slow(t)
	injectAndListen(t, fewer(400), false)
}

func TestForgedMarksWithTheRightKeyLoseNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	injectAndListen(t, fewer(400), true)
}

func TestInvalidUTF8FromASQLASCIIDatabaseKeepsStreamsWellFormed(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEncoded(t, "SQL_ASCII")
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	awaitListen(t, server, 1)
	if out, err := db.Psql(t, `
SELECT pg_notify('topology.`+id+`', E'raw \xff\xfe\r\n\xc3');
SELECT topology_emit('`+id+`', 'test', to_jsonb(E'journaled \xff\xc3'::text));
SELECT topology_emit('`+id+`', 'test', to_jsonb(repeat(E'\xe2\x82', 6000)));`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.awaitSeq(3)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.raw) != 1 || !strings.Contains(c.raw[0].Data, "raw \uFFFD") ||
		!strings.Contains(c.data[0], "journaled \uFFFD") ||
		len(c.data) != 2 {
		t.Errorf("%q %q", c.raw, c.data)
	}
}
