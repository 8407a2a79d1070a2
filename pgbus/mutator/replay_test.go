package mutator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A replayed document is what one seq shows, as far as events tell of it.
type replayed struct {
	Status   string
	Reason   *string
	Version  int64
	InFlight int
	rows     map[string]map[string]any // of the graph, by table and id
}

// String is it in one form, so that two are equal byte for byte or differ.
func (r *replayed) String() string {
	text, err := json.Marshal([]any{r.Status, r.Reason, r.Version, r.InFlight, r.rows})
	if err != nil {
		panic(err) // it came as JSON
	}
	return string(text)
}

func (r *replayed) clone() replayed {
	c := *r
	c.rows = maps.Clone(r.rows)
	return c
}

// decode keeps numbers as they are written: 1.0 is not 1.00.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(v)
}

type rows struct{ Lans, Deckies, Edges []map[string]any }

// A change is what a `graph` event and a result hold.
type change struct {
	rows

	Removed []struct{ Table, ID string }
	Before  rows
}

func (r rows) each(f func(key string, row map[string]any)) {
	for table, rows := range map[string][]map[string]any{"lans": r.Lans, "deckies": r.Deckies, "edges": r.Edges} {
		for _, row := range rows {
			id := row["id"]
			if table == "deckies" {
				id = row["uuid"]
			}
			f(fmt.Sprint(table, " ", id), row)
		}
	}
}

// forward takes an event into the document.
func (r *replayed) forward(t *testing.T, kind string, payload []byte) {
	t.Helper()
	var p struct {
		change

		State   string
		Reason  *string
		Version int64
		Result  change
	}
	must(t, decode(payload, &p))
	switch kind {
	case "status":
		r.Status, r.Reason = p.State, p.Reason
	case "mutation.enqueued":
		r.InFlight++
	case "mutation.applied", "mutation.failed":
		r.InFlight--
		r.Version = p.Version
		p.change = p.Result
	}
	for _, gone := range p.Removed {
		delete(r.rows, gone.Table+" "+gone.ID)
	}
	p.each(func(key string, row map[string]any) { r.rows[key] = row })
}

// backward takes what an event changed in the graph out of it again.
func (r *replayed) backward(t *testing.T, kind string, payload []byte) {
	t.Helper()
	var p struct {
		change

		Result change
	}
	must(t, decode(payload, &p))
	if kind == "mutation.applied" {
		p.change = p.Result
	}
	was := map[string]bool{}
	p.Before.each(func(key string, old map[string]any) {
		row := maps.Clone(r.rows[key])
		if row == nil {
			row = map[string]any{}
		}
		maps.Copy(row, old)
		r.rows[key], was[key] = row, true
	})
	p.each(func(key string, _ map[string]any) {
		if !was[key] {
			delete(r.rows, key)
		}
	})
}

// TestADocumentAndTheEventsAfterItGiveEveryLaterDocumentAndBack reads documents all the time, while two workers, psql,
// COPY and a deployer's role change one topology. From each document the events must lead to the next one, byte for
// byte, and what they say of the graph before must lead back.
func TestADocumentAndTheEventsAfterItGiveEveryLaterDocumentAndBack(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	for _, trigger := range triggersOfTheirOwn {
		pgtest.Exec(t, conn, trigger)
	}
	soon := func(c *Config) { c.Poll = 50 * time.Millisecond } // a failure parks the topology for so long
	startWorker(t, db, soon)
	newWorker(t, asWorker(t, db), soon).run(t)
	deployer, err := pgx.Connect(t.Context(), as(t, db, "deployer"))
	must(t, err)
	defer deployer.Close(context.Background())

	ctx, cancel := context.WithCancel(t.Context())
	documents := map[int64]replayed{}
	var reading, writing sync.WaitGroup
	reader := db.Conn(t)
	reading.Go(func() {
		for ctx.Err() == nil {
			seq, d, err := readReplayed(reader, id)
			if err != nil {
				t.Error(err)
				return
			}
			documents[seq] = d
		}
	})
	steps := shorter(100, 40)
	for n, write := range []func(*rand.Rand, *pgx.Conn, stream.TopologyID) error{enqueueSome, psql, deploy, copyIn} {
		c := deployer
		if n != 2 {
			c = db.Conn(t)
		}
		random := rand.New(rand.NewPCG(7, uint64(n)))
		writing.Go(func() {
			for range steps {
				if err := write(random, c, id); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	pgtest.Eventually(t, "the workers to be done", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`) == 0
	})
	cancel()
	reading.Wait()
	seq, last, err := readReplayed(conn, id)
	must(t, err)
	documents[seq] = last
	compareReplayed(t, conn, id, documents)
}

// triggersOfTheirOwn write again what is being written, and more beside it.
var triggersOfTheirOwn = []string{
	`CREATE FUNCTION checks() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		UPDATE public.deckies SET state = 'checked', x = -0.5 WHERE uuid = NEW.uuid; RETURN NULL; END $$`,
	`CREATE TRIGGER a_checks AFTER UPDATE ON deckies FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION checks()`,
	`CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		UPDATE public.lans SET y = coalesce(y, 0) + 1 WHERE topology_id = NEW.topology_id
			AND name = 'l1'; RETURN NULL; END $$`,
	`CREATE TRIGGER a_counts AFTER UPDATE ON mutations FOR EACH ROW WHEN (NEW.state = 'applied')
		EXECUTE FUNCTION counts()`,
	`CREATE TRIGGER z_counts AFTER INSERT ON deckies FOR EACH ROW EXECUTE FUNCTION counts()`,
}

func readReplayed(conn *pgx.Conn, id stream.TopologyID) (seq int64, d replayed, err error) {
	const read = `SELECT max(seq), string_agg(convert_from(chunk, 'UTF8'), '')
		FROM topology_document($1::text::uuid, true)`
	var (
		text string
		doc  struct {
			rows

			Status   string
			Reason   *string
			Version  int64
			InFlight int `json:"in_flight_total"`
		}
	)
	if err := conn.QueryRow(context.Background(), read, id).Scan(&seq, &text); err != nil {
		return 0, d, err
	}
	if err := decode([]byte(text), &doc); err != nil {
		return 0, d, err
	}
	d = replayed{doc.Status, doc.Reason, doc.Version, doc.InFlight, map[string]map[string]any{}}
	doc.each(func(key string, row map[string]any) { d.rows[key] = row })
	return seq, d, nil
}

func compareReplayed(t *testing.T, conn *pgx.Conn, id stream.TopologyID, documents map[int64]replayed) {
	t.Helper()
	const query = `SELECT seq, type, payload::text FROM topology_events WHERE topology_id = $1::text::uuid ORDER BY seq`
	rows, err := conn.Query(t.Context(), query, id)
	must(t, err)
	type event struct {
		Seq     int64
		Type    string
		Payload []byte
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[event])
	must(t, err)
	var (
		from, now *replayed
		since     []event
		kinds     = map[string]int{}
		compared  int
	)
	for _, e := range events {
		kinds[e.Type]++
		if now != nil {
			now.forward(t, e.Type, e.Payload)
			since = append(since, e)
		}
		d, ok := documents[e.Seq]
		if !ok {
			continue
		}
		if now != nil {
			if now.String() != d.String() {
				t.Fatalf("at %d the events say\n%s\nand the document\n%s", e.Seq, now, &d)
			}
			back := d.clone()
			for _, e := range slices.Backward(since) {
				back.backward(t, e.Type, e.Payload)
			}
			d := *from
			back.Status, back.Reason, back.Version, back.InFlight = d.Status, d.Reason, d.Version, d.InFlight
			if back.String() != d.String() {
				t.Fatalf("backwards from %d the events say\n%s\nand the document was\n%s", e.Seq, &back, &d)
			}
			compared++
		}
		c := d.clone()
		from, now, since = &d, &c, nil
	}
	t.Logf("%d documents compared, events %v", compared, kinds)
	if compared < shorter(50, 5) || kinds["graph"] == 0 || kinds["mutation.applied"] == 0 ||
		kinds["mutation.failed"] == 0 {
		t.Errorf("%d documents were compared, events %v", compared, kinds)
	}
}

// someEdits are an edit of each op, of which some are refused when they are applied.
func someEdits(random *rand.Rand) [][2]string {
	lan, decky := random.IntN(4), random.IntN(4)
	return [][2]string{
		{"add_lan", fmt.Sprintf(`{"name":"l%d"}`, lan)},
		{"add_decky", fmt.Sprintf(`{"name":"d%d","lan":"l%d"}`, decky, lan)},
		{"attach_decky", fmt.Sprintf(`{"decky":"d%d","lan":"l%d"}`, decky, lan)},
		{"detach_decky", fmt.Sprintf(`{"decky":"d%d","lan":"l%d"}`, decky, lan)},
		{"update_decky", fmt.Sprintf(`{"decky":"d%d","patch":{"n":%d}}`, decky, random.IntN(100))},
		{"update_lan", fmt.Sprintf(`{"name":"l%d","x":%d}`, lan, random.IntN(100))},
		{"remove_lan", fmt.Sprintf(`{"name":"l%d"}`, lan)},
		{"remove_decky", fmt.Sprintf(`{"decky":"d%d"}`, decky)},
		{"changeset", fmt.Sprintf(`{"ops":[{"op":"add_lan","payload":{"name":"l%d"}},
			{"op":"add_decky","payload":{"name":"d%d","lan":"l%d"}},{"op":"update_lan","payload":{"name":"l%d","y":1}}]}`,
			lan, decky, lan, lan)},
	}
}

func TestEachOpIsReplayed(t *testing.T) {
	t.Parallel()
	replayed := map[string]bool{}
	for _, e := range someEdits(rand.New(rand.NewPCG(1, 2))) {
		replayed[e[0]] = true
	}
	if ops := slices.Sorted(maps.Keys(replayed)); !slices.Equal(ops, stream.Ops()) {
		t.Errorf("edits are made of %v, the ops are %v", ops, stream.Ops())
	}
}

// enqueueSome enqueues an edit.
func enqueueSome(random *rand.Rand, conn *pgx.Conn, id stream.TopologyID) error {
	const insert = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb)`
	edits := someEdits(random)
	e := edits[random.IntN(len(edits))]
	_, err := conn.Exec(context.Background(), insert, id, e[0], e[1])
	return err
}

// psql is what somebody types, alone or in a transaction.
func psql(random *rand.Rand, conn *pgx.Conn, id stream.TopologyID) error {
	statements := []string{
		`UPDATE deckies SET x = $2, y = CASE WHEN y IS NULL THEN 1 END WHERE topology_id = $1::text::uuid`,
		`UPDATE lans SET x = $2 WHERE topology_id = $1::text::uuid`,
		`INSERT INTO lans (topology_id, name, subnet) SELECT $1::text::uuid, 'hand-' || $2::int, '10.0.0.0/24'
			ON CONFLICT DO NOTHING`,
		`DELETE FROM lans WHERE topology_id = $1::text::uuid AND name = 'hand-' || $2::int`,
		`INSERT INTO edges (topology_id, decky_uuid, lan_id, is_bridge) SELECT d.topology_id, d.uuid, l.id, $2::int = 1
		   FROM deckies d, lans l WHERE d.topology_id = $1::text::uuid AND l.topology_id = d.topology_id
		    ON CONFLICT DO NOTHING`,
		`UPDATE deckies SET decky_config = decky_config || jsonb_build_object('z', 1.0 + $2::numeric / 100,
			'big', repeat('x', CASE $2::int WHEN 2 THEN 140000 ELSE 1 END)) WHERE topology_id = $1::text::uuid`,
		`DELETE FROM edges WHERE topology_id = $1::text::uuid AND is_bridge AND $2::int > 0`,
		`UPDATE topologies SET reason = 'hand ' || $2::int WHERE id = $1::text::uuid`,
	}
	return pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
		const lock = `SELECT FROM topologies WHERE id = $1::text::uuid FOR NO KEY UPDATE`
		if _, err := tx.Exec(context.Background(), lock, id); err != nil { // else it may deadlock, as with any row
			return err
		}
		for range 1 + random.IntN(3) {
			statement := statements[random.IntN(len(statements))]
			if _, err := tx.Exec(context.Background(), statement, id, random.IntN(3)); err != nil {
				return err
			}
		}
		return nil
	})
}

// deploy is what a deployer's role may do.
func deploy(random *rand.Rand, conn *pgx.Conn, id stream.TopologyID) error {
	const update = `
UPDATE deckies SET state = $2, ip = CASE WHEN state = 'running' THEN ip ELSE '10.1.0.7' END,
       decky_config = decky_config || jsonb_build_object('deployed', $2::text)
 WHERE topology_id = $1::text::uuid`
	_, err := conn.Exec(context.Background(), update, id, []string{"running", "failed", "Größe"}[random.IntN(3)])
	return err
}

func copyIn(random *rand.Rand, conn *pgx.Conn, id stream.TopologyID) error {
	var text strings.Builder
	for range 1 + random.IntN(3) {
		fmt.Fprintf(&text, "%s\tcopied-%d\t10.7.0.0/24\n", id, random.Uint64())
	}
	_, err := conn.PgConn().CopyFrom(context.Background(), strings.NewReader(text.String()),
		`COPY lans (topology_id, name, subnet) FROM STDIN`)
	return err
}
