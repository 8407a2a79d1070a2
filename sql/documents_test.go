package sql_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// A light is a row of topology_light.
type light struct {
	Epoch             *int64
	History           *string
	Recovering, Other *bool
	Topology          *string
	Seq, First        *int64
	InFlight          *int64
	Alive             bool
	Document          *string
}

func readLight(t *testing.T, conn *pgx.Conn, ids ...string) []light {
	t.Helper()
	const query = `
SELECT epoch, history::text, recovering, other, topology_id::text, seq, first, in_flight, alive, document
  FROM topology_light($1::text[]::uuid[])`
	rows, err := conn.Query(t.Context(), query, ids)
	must(t, err)
	lights, err := pgx.CollectRows(rows, pgx.RowToStructByPos[light])
	must(t, err)
	return lights
}

// A document is what a light snapshot and topology_document hold.
type document struct {
	Topology      string           `json:"topology_id"`
	Status        string           `json:"status"`
	Reason        *string          `json:"reason"`
	Version       int64            `json:"version"`
	Seq           int64            `json:"seq"`
	InFlight      []map[string]any `json:"in_flight"`
	InFlightTotal int64            `json:"in_flight_total"`
	LANs          []any            `json:"lans"`
	Deckies       []any            `json:"deckies"`
	Edges         []any            `json:"edges"`
}

func parse(t *testing.T, text string) (d document) {
	t.Helper()
	must(t, json.Unmarshal([]byte(text), &d))
	return d
}

// readDocument gives the head, and the document put together.
func readDocument(t *testing.T, conn *pgx.Conn, id string, graph bool) (seq int64, alive bool, text string) {
	t.Helper()
	const query = `SELECT epoch, history::text, seq, first, alive, size, chunk FROM topology_document($1::text::uuid, $2)`
	rows, err := conn.Query(t.Context(), query, id, graph)
	must(t, err)
	var (
		epoch, s, first, size *int64
		history               *string
		chunk                 []byte
		is                    *bool
		n                     int
		whole                 strings.Builder
		want                  int64
	)
	_, err = pgx.ForEachRow(rows, []any{&epoch, &history, &s, &first, &is, &size, &chunk}, func() error {
		n++
		if n > 1 {
			if len(chunk) == 0 || len(chunk) > 256<<10 || epoch != nil || s != nil || size != nil {
				t.Errorf("row %d is no piece", n)
			}
			whole.Write(chunk)
			return nil
		}
		if epoch == nil || history == nil || is == nil || size == nil || chunk != nil || (s == nil) != (first == nil) {
			t.Error("the first row is no head")
		}
		if s != nil {
			seq = *s
		}
		alive, want = *is, *size
		return nil
	})
	must(t, err)
	if int64(whole.Len()) != want || (n == 1) != (want == 0) || n == 0 {
		t.Errorf("%d rows hold %d bytes, the size is said to be %d", n, whole.Len(), want)
	}
	return seq, alive, whole.String()
}

// enqueue makes n mutations with a payload of about size bytes each.
func enqueue(t *testing.T, conn *pgx.Conn, id string, n, size int) {
	t.Helper()
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload, requested_by)
		SELECT $1::text::uuid, 'add_lan', jsonb_build_object('a', repeat('x', $3)), 'ada'
		  FROM generate_series(1, $2)`, id, n, size)
}

// unknown is a topology that never was.
const unknown = "00000000-0000-4000-8000-000000000000"

func TestALightSnapshotHoldsTheIdentityTheHeadAndTheWholeDocument(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := topologies(t, conn, 3)
	busy, idle, deleted := ids[0], ids[1], ids[2]
	enqueue(t, conn, busy, 3, 10)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position = 2`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying', reason = 'a "reason" of ü' WHERE id = $1`, busy)
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1`, deleted)
	who := readIdentity(t, conn)
	found := map[string]light{}
	for _, r := range readLight(t, conn, idle, busy, unknown, deleted) {
		if got := (identity{*r.Epoch, *r.History, *r.Recovering, *r.Other}); got != who {
			t.Errorf("a row says %+v, the database %+v", got, who)
		}
		found[*r.Topology] = r
	}
	if len(found) != 3 {
		t.Fatalf("it gives %d topologies, want those that have a head", len(found))
	}

	r := found[busy]
	if d := parse(t, *r.Document); d.Seq != *r.Seq || *r.Seq != 6 || d.Status != "deploying" ||
		*d.Reason != `a "reason" of ü` {
		t.Errorf("the document at %d is %s", *r.Seq, *r.Document)
	}
	if d := parse(t, *r.Document); len(d.InFlight) != 3 || d.InFlightTotal != 3 || *r.InFlight != 3 {
		t.Errorf("three are in flight, the document is %s", *r.Document)
	}
	if _, _, text := readDocument(t, conn, busy, false); *r.Document != text {
		t.Errorf("the light document is\n%s, the document\n%s", *r.Document, text)
	}
	r = found[idle]
	if d := parse(t, *r.Document); len(d.InFlight) != 0 || d.Reason != nil || !r.Alive || *r.Seq != 1 || *r.First != 1 {
		t.Errorf("an idle topology is %s", *r.Document)
	}
	if r = found[deleted]; r.Alive || r.Document != nil || *r.Seq != 2 || *r.InFlight != -1 {
		t.Errorf("a deleted topology is %+v", r)
	}
}

func TestALightSnapshotOfNothingHoldsTheIdentityAlone(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	who := readIdentity(t, conn)
	for _, ids := range [][]string{{}, {unknown}} {
		rows := readLight(t, conn, ids...)
		if len(rows) != 1 {
			t.Fatalf("of %v it gives %d rows", ids, len(rows))
		}
		r := rows[0]
		if got := (identity{*r.Epoch, *r.History, *r.Recovering, *r.Other}); got != who {
			t.Errorf("of %v it says %+v, the database %+v", ids, got, who)
		}
		if r.Topology != nil || r.Seq != nil || r.Alive || r.Document != nil {
			t.Errorf("of %v it gives %+v", ids, r)
		}
	}
}

func TestAMutationsJSONHasWhatTheInterfaceNames(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	enqueue(t, conn, topologies(t, conn, 1)[0], 1, 10)
	const keys = `SELECT string_agg(k, ' ' ORDER BY n)
		FROM mutations m, json_object_keys(topology_mutation_json(m)::json) WITH ORDINALITY AS j (k, n)`
	const want = "id position topology_id op payload state requested_by requested_at applied_at reason"
	if got := pgtest.Scan[string](t, conn, keys); got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	const values = `SELECT (topology_mutation_json(m)::json ->> 'position')::bigint = m.position
		AND topology_mutation_json(m)::json ->> 'requested_by' = 'ada' FROM mutations m`
	if !pgtest.Scan[bool](t, conn, values) {
		t.Error("it has another position or author than the row")
	}
}

func TestALightSnapshotHasNoDocumentWhereMuchIsInFlight(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	long := strings.Repeat("x", 65536)
	for name, c := range map[string]struct {
		change  string
		n, size int
		want    bool
	}{
		"64":                          {"", 64, 0, true},
		"65":                          {"", 65, 0, false},
		"64 KiB":                      {"", 1, 65536 - len(`{"a": ""}ada`), true},
		"a byte more":                 {"", 1, 65537 - len(`{"a": ""}ada`), false},
		"a long reason":               {`UPDATE topologies SET reason = '` + long + `'`, 0, 0, true},
		"a longer reason":             {`UPDATE topologies SET reason = '` + long + `x'`, 0, 0, false},
		"a mutation with a reason":    {`UPDATE mutations SET reason = repeat('x', 1024)`, 2, 0, true},
		"one with a long reason":      {`UPDATE mutations SET reason = repeat('x', 1025)`, 2, 0, false},
		"one that was lengthened":     {`UPDATE mutations SET requested_by = repeat('x', 1000000)`, 2, 0, false},
		"one whose bytes were forged": {`UPDATE mutations SET payload_bytes = 7`, 1, 65537 - len(`{"a": ""}ada`), false},
	} {
		pgtest.Exec(t, conn, `DELETE FROM topologies`)
		id := topologies(t, conn, 1)[0]
		enqueue(t, conn, id, c.n, c.size)
		if c.change != "" {
			pgtest.Exec(t, conn, c.change)
		}
		if r := readLight(t, conn, id); len(r) != 1 || (r[0].Document != nil) != c.want || *r[0].InFlight != int64(c.n) {
			t.Errorf("%s: a document %t, want %t", name, r[0].Document != nil, c.want)
		}
	}
}

func TestOneReadOfLightSnapshotsHoldsAMebibyteOfDocumentsAtMost(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := topologies(t, conn, 60)
	for _, id := range ids[:40] {
		enqueue(t, conn, id, 1, 60_000)
	}
	enqueue(t, conn, ids[0], 100, 0) // which counts for nothing: it has no document anyway
	documents, bytes := 0, 0
	for _, r := range readLight(t, conn, ids...) {
		if r.Document != nil {
			documents++
			bytes += len(*r.Document)
		}
	}
	if documents != (1<<20)/(60_012+400+4096) || bytes > 1<<20 {
		t.Errorf("it gives %d documents of %d bytes", documents, bytes)
	}
	for _, r := range readLight(t, conn, ids[40:]...) {
		if r.Document == nil {
			t.Error("an idle topology has no document")
		}
	}
}

func TestALightSnapshotTouchesAFewPagesWhateverATopologyHolds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	conn.Config().DefaultQueryExecMode = pgx.QueryExecModeExec
	ids := topologies(t, conn, 3)
	// What autovacuum finds out changes the plan that the test is compared with.
	pgtest.Exec(t, conn, `ALTER TABLE mutations SET (autovacuum_enabled = off)`)
	const (
		many     = 5000
		readOne  = `SELECT * FROM topology_light(ARRAY[$1::text::uuid])`
		readFull = `SELECT * FROM topology_document($1::text::uuid, false)`
	)
	idle := pgtest.Buffers(t, conn, readOne, ids[1])
	if idle > 50 {
		t.Errorf("a light snapshot of an idle topology touches %d pages", idle)
	}
	enqueue(t, conn, ids[0], many, 10)
	enqueue(t, conn, ids[1], 2, 10) // the highest positions of the table
	enqueue(t, conn, ids[2], 1, 10)
	if n := pgtest.Buffers(t, conn, readOne, ids[0]); n > idle+10 {
		t.Errorf("with %d in flight it touches %d pages, %d idle", many, n, idle)
	}
	if n := pgtest.Buffers(t, conn, readFull, ids[0]); n > 400 {
		t.Errorf("a document with %d in flight touches %d pages", many, n)
	}
	pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	pgtest.Exec(t, old, `SELECT FROM topologies`) // the old snapshot: what dies now stays in the index
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE topology_id = $1`, ids[0])
	const apply = `UPDATE mutations SET state = 'applied' WHERE topology_id = $1 AND position <= $2`
	pgtest.Exec(t, conn, apply, ids[0], many-30)
	counted(t, conn)
	const unbounded = `
SELECT count(*) FROM mutations WHERE topology_id = $1::text::uuid AND state IN ('pending', 'applying')`
	pgtest.Exec(t, conn, `SET enable_seqscan = off`)
	if n := pgtest.Buffers(t, conn, unbounded, ids[0]); n < 400 {
		t.Fatalf("the test sees nothing: a scan without a bound touches %d pages", n)
	}
	pgtest.Exec(t, conn, `RESET enable_seqscan`)
	if n := pgtest.Buffers(t, conn, readOne, ids[0]); n > idle+200 {
		t.Errorf("behind %d dead entries it touches %d pages, %d idle", 2*many, n, idle)
	}
	if n := pgtest.Buffers(t, conn, readFull, ids[0]); n > idle+200 {
		t.Errorf("behind %d dead entries a document touches %d pages, an idle light one %d", 2*many, n, idle)
	}
	if n := len(parse(t, *readLight(t, conn, ids[0])[0].Document).InFlight); n != 30 {
		t.Errorf("%d are in flight, want 30", n)
	}
}

func TestADocumentHoldsABoundedPrefixOfWhatIsInFlight(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := topologies(t, conn, 4)
	enqueue(t, conn, ids[0], 1001, 0)
	enqueue(t, conn, ids[1], 20, 100_000)
	enqueue(t, conn, ids[2], 1, 1<<20)
	for i, want := range []int{1000, 10, 0, 0} {
		seq, alive, text := readDocument(t, conn, ids[i], false)
		d := parse(t, text)
		total := pgtest.Scan[int64](t, conn, `SELECT count(*) FROM mutations WHERE topology_id = $1`, ids[i])
		if !alive || d.Seq != seq || len(d.InFlight) != want || d.InFlightTotal != total {
			t.Errorf("%d in flight of %d at %d, want %d of %d at %d", len(d.InFlight), d.InFlightTotal, d.Seq, want, total, seq)
		}
		lowest := pgtest.Scan[*float64](t, conn, `SELECT min(position) FROM mutations WHERE topology_id = $1`, ids[i])
		for k, m := range d.InFlight {
			if m["position"] != *lowest+float64(k) {
				t.Fatalf("the mutation %d of the document is at %v", k, m["position"])
			}
		}
	}
}

func TestADocumentWithTheGraphComesInPiecesThatAreTheWhole(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := topologies(t, conn, 2)
	pgtest.Exec(t, conn, `INSERT INTO deckies (topology_id, name, decky_config)
		SELECT $1, 'd' || i, jsonb_build_object('a', repeat('ü€𝄞x', 20000)) FROM generate_series(1, 8) i`, ids[0])
	pgtest.Exec(t, conn, `INSERT INTO lans (topology_id, name, subnet) VALUES ($1, 'a', '10.0.0.0/24')`, ids[0])
	enqueue(t, conn, ids[0], 2, 10)
	head, alive, text := readDocument(t, conn, ids[0], true)
	d := parse(t, text)
	if !alive || len(text) < 1<<20 {
		t.Errorf("the document has %d bytes", len(text))
	}
	if len(d.Deckies) != 8 || len(d.LANs) != 1 || len(d.Edges) != 0 || len(d.InFlight) != 2 {
		t.Errorf("%d deckies, %d lans, %d edges, %d in flight", len(d.Deckies), len(d.LANs), len(d.Edges), len(d.InFlight))
	}
	const snapshot = `SELECT snapshot FROM topology_snapshots(ARRAY[$1::text::uuid], true)`
	var before, now map[string]any
	must(t, json.Unmarshal([]byte(pgtest.Scan[string](t, conn, snapshot, ids[0])), &before))
	must(t, json.Unmarshal([]byte(text), &now))
	delete(now, "in_flight_total")
	if !reflect.DeepEqual(before, now) {
		t.Error("the document is not what the version before gives as a snapshot")
	}
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1`, ids[0])
	if seq, alive, text := readDocument(t, conn, ids[0], true); alive || text != "" || seq != head+1 {
		t.Errorf("a deleted topology has a document of %d bytes at %d", len(text), seq)
	}
	if seq, alive, text := readDocument(t, conn, unknown, true); alive || text != "" || seq != 0 {
		t.Errorf("an unknown topology has a document of %d bytes at %d", len(text), seq)
	}
}

func TestWhatIsReadIsOfOneMoment(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, writer := db.Conn(t), db.Conn(t)
	id := topologies(t, conn, 1)[0]
	var (
		writers sync.WaitGroup
		stop    = make(chan struct{})
	)
	writers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for _, statement := range []string{
				`INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies, generate_series(1, 1 + $1 % 3)`,
				`UPDATE mutations SET state = 'applying' WHERE state = 'pending' AND $1 >= 0`,
				`UPDATE mutations SET state = 'applied' WHERE state = 'applying' AND position % 2 = $1 % 2`,
			} {
				if _, err := writer.Exec(t.Context(), statement, i); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var read []document
	for range 60 {
		seq, _, text := readDocument(t, conn, id, true)
		d, r := parse(t, text), readLight(t, conn, id)[0]
		read = append(read, d)
		if d.Seq != seq {
			t.Errorf("a document at %d comes with the head %d", d.Seq, seq)
		}
		if r.Document != nil {
			l := parse(t, *r.Document)
			if l.Seq != *r.Seq || l.InFlightTotal != *r.InFlight {
				t.Errorf("a light document at %d of %d comes with %+v", l.Seq, l.InFlightTotal, r)
			}
			read = append(read, l)
		}
	}
	close(stop)
	writers.Wait()
	const at = `
SELECT coalesce(string_agg(m, ' ' ORDER BY m), '') FROM (
    SELECT payload ->> 'mutation_id' AS m FROM topology_events WHERE topology_id = $1::text::uuid AND seq <= $2
     GROUP BY 1
    HAVING bool_and(type NOT IN ('mutation.applied', 'mutation.failed')) AND bool_or(type = 'mutation.enqueued')) s`
	for _, d := range read {
		got := []string{}
		for _, m := range d.InFlight {
			got = append(got, fmt.Sprint(m["id"]))
		}
		slices.Sort(got)
		want := strings.Fields(pgtest.Scan[string](t, conn, at, id, d.Seq))
		if !slices.Equal(got, want) || int(d.InFlightTotal) != len(got) {
			t.Errorf("at %d the document has %d of %d in flight, the journal %d", d.Seq, len(got), d.InFlightTotal, len(want))
		}
	}
}

func TestHeadsAndPagesComeWithTheHistoryThatTheyBelongTo(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	ids := append(topologies(t, conn, 3), unknown)
	enqueue(t, conn, ids[1], 5, 10)
	who := readIdentity(t, conn)
	const (
		heads = `SELECT coalesce(string_agg(topology_id || ' ' || seq || ' ' || first, ', ' ORDER BY topology_id), '')
			FROM topology_heads_of($1::text[]::uuid[]) WHERE (epoch, history::text, recovering, other) = ($2, $3, $4, $5)`
		stored = `SELECT coalesce(string_agg(topology_id || ' ' || seq || ' ' || first, ', ' ORDER BY topology_id), '')
			FROM topology_heads WHERE topology_id = ANY ($1::text[]::uuid[])`
		pages = `SELECT count(*) || ' ' || coalesce(md5(string_agg(
				(ord, head, first, seq, type, event)::text, '|' ORDER BY ord, seq)), '')
			FROM topology_pages($1::text[]::uuid[], $6::bigint[], $7, $8)
			WHERE (epoch, history::text, recovering, other) = ($2, $3, $4, $5)`
		inline = `SELECT count(*) || ' ' || coalesce(md5(string_agg(
				(r.ord::int - 1, h.seq, h.first, j.seq, j.type, j.event)::text, '|' ORDER BY r.ord, j.seq)), '')
			FROM unnest($1::text[]::uuid[], $2::bigint[]) WITH ORDINALITY AS r(id, after, ord)
			JOIN topology_heads h ON h.topology_id = r.id
			LEFT JOIN LATERAL topology_journal(r.id, r.after, h.first, $3, $4) j ON true`
	)
	got := pgtest.Scan[string](t, conn, heads, ids, who.Epoch, who.History, false, false)
	if want := pgtest.Scan[string](t, conn, stored, ids); got != want {
		t.Errorf("the heads are %s, want %s", got, want)
	}
	for _, c := range []struct{ rows, bytes int }{{10, 100000}, {2, 100000}, {10, 1}} {
		for _, afters := range [][]int64{{0, 0, 0, 0}, {1, 3, 0, 0}, {7, 6, 5, 4}} {
			got := pgtest.Scan[string](t, conn, pages, ids, who.Epoch, who.History, false, false, afters, c.rows, c.bytes)
			if want := pgtest.Scan[string](t, conn, inline, ids, afters, c.rows, c.bytes); got != want {
				t.Errorf("pages after %v, %+v: %s, want %s", afters, c, got, want)
			}
		}
	}
	for _, alone := range []string{
		`SELECT count(*) FROM topology_heads_of('{}') WHERE epoch = 0 AND topology_id IS NULL`,
		`SELECT count(*) FROM topology_pages('{}', '{}', 10, 10) WHERE epoch = 0 AND ord IS NULL`,
		`SELECT count(*) FROM topology_pages(ARRAY[gen_random_uuid()], ARRAY[0], 10, 10)
			WHERE epoch = 0 AND ord IS NULL AND head IS NULL`,
	} {
		if n := pgtest.Scan[int](t, conn, alone); n != 1 {
			t.Errorf("%s: %d rows, want the identity alone", alone, n)
		}
	}
}
