package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A shape is one way to write. Its weight is how often it comes.
type shape struct {
	weight int
	write  func(*writer, context.Context)
}

// shapes are the ways to write that people and programs have.
func shapes() []shape {
	return []shape{
		{300, (*writer).emitAlone},
		{100, (*writer).emitOne},
		{20, (*writer).emitBurst},
		{60, (*writer).emitBoundary},
		{20, (*writer).emitLarge},
		{120, (*writer).changeOne},
		{30, (*writer).changeMany},
		{2, (*writer).changeAll},
		{120, (*writer).enqueue},
		{60, (*writer).several},
		{60, (*writer).savepoint},
		{50, (*writer).undo},
		{4, (*writer).disorderly},
		{10, (*writer).repeatableRead},
		{20, (*writer).hold},
		{30, (*writer).careless},
		{60, (*writer).postMutation},
		{40, (*writer).patchStatus},
		{60, (*writer).rawNotify},
		{120, (*writer).backlogged},
		{60, (*writer).graphByHand},
	}
}

// step writes once, in some shape, or goes on with what it works on by hand.
func (w *writer) step(ctx context.Context) {
	for t := range w.claimed {
		if w.rng.IntN(3) > 0 {
			w.finish(ctx, t)
			return
		}
	}
	n := w.rng.IntN(w.run.weight)
	for _, s := range w.run.shapes {
		if n -= s.weight; n < 0 {
			s.write(w, ctx)
			return
		}
	}
}

// pick chooses a topology: more often one of those that clients follow all the time.
func (w *writer) pick() *topology {
	all := w.run.plain
	if w.rng.IntN(10) < 7 {
		all = all[:w.run.followed]
	}
	return all[w.rng.IntN(len(all))]
}

// pickSome chooses up to n topologies, each once, in random order.
func (w *writer) pickSome(n int) []*topology {
	order := w.rng.Perm(len(w.run.plain))
	picked := make([]*topology, 0, n)
	for _, i := range order[:min(n, len(order))] {
		picked = append(picked, w.run.plain[i])
	}
	return picked
}

// emitAlone emits by a statement that is a transaction of its own, as one that somebody types.
func (w *writer) emitAlone(ctx context.Context) {
	w.alone(ctx, func(ctx context.Context, x *transaction) error {
		return x.emit(ctx, w.pick(), w.payload(w.rng.IntN(400)))
	})
}

// emitBurst makes many events of one topology in one statement, more than a slow client reads in a while.
func (w *writer) emitBurst(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		const call = `
SELECT count(topology_emit($1::text::uuid, $2, p::jsonb)) FROM unnest($3::text[]) WITH ORDINALITY AS u(p, n)`
		t := w.pick()
		payloads := make([]string, 10+w.rng.IntN(150))
		for i := range payloads {
			m, tagged := w.newTag(t)
			x.tagged = append(x.tagged, tagged...)
			payloads[i] = withTag(m, w.payload(w.rng.IntN(200)))
		}
		_, err := x.Exec(ctx, call, t.id, emitPrefix+"burst", payloads)
		return err
	})
}

func (w *writer) emitOne(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		return x.emit(ctx, w.pick(), w.payload(w.rng.IntN(400)))
	})
}

// emitBoundary makes events around the 8,000 bytes that NOTIFY takes.
func (w *writer) emitBoundary(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		return x.emit(ctx, w.pick(), w.payload(7600+w.rng.IntN(500)))
	})
}

func (w *writer) emitLarge(ctx context.Context) {
	size := 10_000 + w.rng.IntN(50_000)
	if w.rng.IntN(20) == 0 {
		size = 1 << 20
	}
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		return x.emit(ctx, w.pick(), w.payload(size))
	})
}

// payload makes an object of about size bytes, with whatever JSON may hold.
func (w *writer) payload(size int) string {
	words := []string{"ssh", "Größe", "\u62d3\u6251", "🛰️", `quo"te`, `back\slash`, "line\nbreak", "\r", "data: x",
		"\u2028", "a\tb", "id: 7"}
	var text strings.Builder
	for text.Len() < size {
		if size > 5000 {
			text.WriteString(strings.Repeat("x", min(size-text.Len(), 997)))
		}
		text.WriteString(words[w.rng.IntN(len(words))])
	}
	body, err := json.Marshal(map[string]any{"text": w.text(text.String()), "n": w.rng.Int64N(1 << 40),
		"deep": []any{nil, true, map[string]any{"x": 1.5}}})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return string(body)
}

// text is s as the database's encoding has it.
func (w *writer) text(s string) string {
	if !w.run.ascii {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII {
			return '?'
		}
		return r
	}, s)
}

func (w *writer) changeOne(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		return x.change(ctx, w.rng.IntN(2) == 0, w.pick())
	})
}

func (w *writer) changeMany(ctx context.Context) { w.changeSome(ctx, 2+w.rng.IntN(5)) }

func (w *writer) changeAll(ctx context.Context) { w.changeSome(ctx, len(w.run.plain)) }

// changeSome changes n topologies by one statement.
func (w *writer) changeSome(ctx context.Context, n int) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		topologies := w.pickSome(n)
		if err := x.lock(ctx, topologies...); err != nil {
			return err
		}
		return x.change(ctx, w.rng.IntN(2) == 0, topologies...)
	})
}

// several touches some topologies one after another, as OPERATING.md asks: rows first, in id order.
func (w *writer) several(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		topologies := w.pickSome(2 + w.rng.IntN(3))
		if err := x.lock(ctx, topologies...); err != nil {
			return err
		}
		for range 2 {
			for _, t := range topologies {
				if err := x.emit(ctx, t, w.payload(50)); err != nil {
					return err
				}
			}
		}
		return x.change(ctx, true, topologies...)
	})
}

// disorderly touches some topologies in any order, so that two may deadlock.
func (w *writer) disorderly(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		for range 3 {
			few := w.run.plain[max(len(w.run.plain)-4, 0):]
			if err := x.emit(ctx, few[w.rng.IntN(len(few))], w.payload(50)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *writer) savepoint(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		t := w.pick()
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		if err := x.emit(ctx, t, w.payload(50)); err != nil {
			return err
		}
		inner, err := x.Begin(ctx)
		if err != nil {
			return err
		}
		y := &transaction{executor: inner, w: w}
		if err = y.emit(ctx, t, w.payload(50)); err == nil {
			err = y.change(ctx, true, t)
		}
		if err == nil {
			err = inner.Rollback(ctx)
		}
		if err != nil {
			x.tagged = append(x.tagged, y.tagged...)
			return err
		}
		w.decide(y.tagged, rolledBack)
		return x.emit(ctx, t, w.payload(50))
	})
}

func (w *writer) undo(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		t := w.pick()
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		if err := x.emit(ctx, t, w.payload(50)); err != nil {
			return err
		}
		if err := x.change(ctx, true, t); err != nil {
			return err
		}
		return errUndo
	})
}

// repeatableRead does not lock first, and its snapshot is older than its locks: it may deadlock, or fail to serialize.
func (w *writer) repeatableRead(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(ctx context.Context, x *transaction) error {
		const look = `SELECT count(*) FROM topologies`
		if _, err := x.Exec(ctx, look); err != nil {
			return err
		}
		t := w.pick()
		if err := x.emit(ctx, t, w.payload(50)); err != nil {
			return err
		}
		return x.change(ctx, true, t)
	})
}

// hold keeps a transaction open for a moment, so that others commit around it.
func (w *writer) hold(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		if err := x.emit(ctx, w.pick(), w.payload(50)); err != nil {
			return err
		}
		pause(ctx, time.Duration(w.rng.Int64N(int64(100*time.Millisecond))))
		return nil
	})
}

// careless does not wait for its commit to reach the disk: what is delivered must survive all the same.
func (w *writer) careless(ctx context.Context) {
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		const off = `SET LOCAL synchronous_commit = off`
		if _, err := x.Exec(ctx, off); err != nil {
			return err
		}
		return x.emit(ctx, w.pick(), w.payload(50))
	})
}

// op makes a mutation. Its names are few, so that the graph stays small, and some are refused when they are applied.
// The tag stands where a coordinate does.
func (w *writer) op(m tag) (op, payload string) {
	lan, decky := w.rng.IntN(5), w.rng.IntN(6)
	switch w.rng.IntN(6) {
	case 0:
		return "add_lan", fmt.Sprintf(`{"name":"lan-%d","x":%d}`, lan, m)
	case 1, 2:
		return "add_decky", fmt.Sprintf(`{"name":"decky-%d","lan":"lan-%d","services":["ssh","smb"],"x":%d}`, decky,
			lan, m)
	case 3:
		return "update_lan", fmt.Sprintf(`{"name":"lan-%d","x":%d}`, lan, m)
	default:
		return "update_decky", w.text(fmt.Sprintf(`{"decky":"decky-%d","patch":{"note":"Größe %d"},"x":%d}`, decky,
			m.counter(), m))
	}
}

// shrinking are ops without a place for a tag: their events are checked by the state alone.
func (w *writer) shrinking() (op, payload string) {
	lan, decky := w.rng.IntN(5), w.rng.IntN(6)
	switch w.rng.IntN(4) {
	case 0:
		return "remove_lan", fmt.Sprintf(`{"name":"lan-%d"}`, lan)
	case 1:
		return "remove_decky", fmt.Sprintf(`{"decky":"decky-%d"}`, decky)
	case 2:
		return "attach_decky", fmt.Sprintf(`{"decky":"decky-%d","lan":"lan-%d"}`, decky, lan)
	default:
		return "detach_decky", fmt.Sprintf(`{"decky":"decky-%d","lan":"lan-%d"}`, decky, lan)
	}
}

// graphByHand changes LANs and deckies as somebody in psql or a deployer does, who locks nothing first.
func (w *writer) graphByHand(ctx context.Context) {
	if !w.run.graphEvents {
		return
	}
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		const (
			state = `UPDATE deckies SET state = $2 WHERE topology_id = $1::text::uuid`
			note  = `
UPDATE deckies SET decky_config = decky_config || jsonb_build_object('hand', $2::text)
 WHERE uuid = (SELECT min(uuid::text)::uuid FROM deckies WHERE topology_id = $1::text::uuid)`
			move   = `UPDATE lans SET y = length($2) WHERE topology_id = $1::text::uuid`
			insert = `
INSERT INTO lans (topology_id, name, subnet)
SELECT $1::text::uuid, 'hand-' || $2 || n, '192.168.0.0/24' FROM generate_series(1, 3) n ON CONFLICT DO NOTHING`
			remove = `DELETE FROM lans WHERE topology_id = $1::text::uuid AND name LIKE 'hand-' || $2 || '%'`
			// KEY SHARE, as the foreign keys take it later: what somebody else removes meanwhile is left out. Without
			// it PostgreSQL refuses the edge (23503), rightly.
			link = `
INSERT INTO edges (topology_id, decky_uuid, lan_id, is_bridge) SELECT d.topology_id, d.uuid, l.id, true
  FROM deckies d JOIN lans l ON l.topology_id = d.topology_id AND l.name LIKE 'hand-' || $2 || '%'
 WHERE d.topology_id = $1::text::uuid FOR KEY SHARE OF d, l ON CONFLICT DO NOTHING`
			cut = `
DELETE FROM edges e USING lans l
 WHERE l.id = e.lan_id AND e.topology_id = $1::text::uuid AND l.name LIKE 'hand-' || $2 || '%'`
		)
		t := w.pick()
		statements := []string{state, note, move, insert, remove, link, cut}
		for range 1 + w.rng.IntN(3) {
			statement, words := statements[w.rng.IntN(len(statements))], []string{"running", "failed", "Größe"}
			if _, err := x.Exec(ctx, statement, t.id, w.text(words[w.rng.IntN(len(words))])); err != nil {
				return err
			}
		}
		if w.rng.IntN(3) > 0 {
			return nil
		}
		rows := pgx.CopyFromSlice(1+w.rng.IntN(3), func(int) ([]any, error) {
			name := w.text(fmt.Sprintf("hand-Größe-%d", w.rng.Uint64()))
			return []any{t.id, name, netip.MustParsePrefix("192.168.1.0/24")}, nil
		})
		_, err := w.conn.CopyFrom(ctx, pgx.Identifier{"lans"}, []string{"topology_id", "name", "subnet"}, rows)
		return err
	})
}

// crowded is how many mutations of a topology may be in flight before a writer works some off by hand.
const crowded = 12

// enqueue inserts mutations, or, where no worker keeps up, works the oldest off as a person would.
func (w *writer) enqueue(ctx context.Context) {
	t := w.pick()
	if int(t.waiting.Load()) > w.rng.IntN(crowded)+crowded/4 {
		w.claim(ctx, t)
		return
	}
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		const insert = `
INSERT INTO mutations (topology_id, op, payload, requested_by)
VALUES ($1::text::uuid, $2, $3::text::jsonb, 'topocheck')`
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		for range 1 + w.rng.IntN(3) {
			op, payload := w.shrinking()
			if w.rng.IntN(3) > 0 {
				m, tagged := w.newTag(t)
				x.tagged = append(x.tagged, tagged...)
				op, payload = w.op(m)
			}
			if _, err := x.Exec(ctx, insert, t.id, op, payload); err != nil {
				return err
			}
		}
		return nil
	})
}

// claim takes some pending mutations, as somebody does who applies them by hand.
func (w *writer) claim(ctx context.Context, t *topology) {
	const update = `
UPDATE mutations SET state = 'applying' WHERE id IN (
    SELECT id FROM mutations WHERE topology_id = $1::text::uuid AND state = 'pending' ORDER BY position LIMIT $2)
   AND state = 'pending'
RETURNING id::text`
	w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		rows, err := x.Query(ctx, update, t.id, 1+w.rng.IntN(5))
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if len(ids) > 0 { // also if it is rolled back: then there is nothing to finish
			w.claimed[t] = append(w.claimed[t], ids...)
		}
		return err
	})
}

// finish ends what this writer claimed: applied, failed, or given back.
func (w *writer) finish(ctx context.Context, t *topology) {
	const update = `
UPDATE mutations SET state = $2, reason = $3 WHERE id = ANY ($1::text[]::uuid[]) AND state = 'applying'`
	state, reason := "applied", (*string)(nil)
	switch w.rng.IntN(8) {
	case 0:
		why := "somebody said no"
		state, reason = "failed", &why
	case 1:
		state = "pending"
	}
	if w.transact(ctx, pgx.TxOptions{}, func(ctx context.Context, x *transaction) error {
		if err := x.lock(ctx, t); err != nil {
			return err
		}
		_, err := x.Exec(ctx, update, w.claimed[t], state, reason)
		return err
	}) {
		delete(w.claimed, t)
	}
}

// rawNotify sends what a person may type. Nobody promises that it arrives; it must break nothing.
func (w *writer) rawNotify(ctx context.Context) {
	const notify = `SELECT pg_notify('topology.' || $1, $2)`
	texts := []string{
		"", "any text at all", "two\n\nid: 9\nevent: status\ndata: {}\n\n",
		`{"type":"mutation.applied","payload":{"mutation_id":"by-hand"}}`,
		`{"type":"snapshot","payload":{"seq":1}}`,
		`{"type":"deleted"}`, "~x:9 {}", "~0123456789abcdef0123456789abcdef:9 {}",
		"~0123456789abcdef0123456789abcdef:99999999", "~:", `{"type":"x\ny"}`, "Größe \u62d3\u6251 \u2028",
		strings.Repeat("x", 7000), `{"type":"status","payload":{"state":"deleted","reason":"` +
			strconv.FormatUint(w.rng.Uint64(), 10) + `"}}`,
	}
	if !w.connected(ctx) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	_, err := w.conn.Exec(ctx, notify, w.pick().id, w.text(texts[w.rng.IntN(len(texts))]))
	var refused *pgconn.PgError
	switch {
	case err == nil:
		w.run.stats.notifies.Add(1)
	// somebody pins PostgreSQL's queue and it is full: the triggers must not care, but this is no trigger
	case errors.As(err, &refused) && refused.Code == "54000":
		w.run.stats.retries.Add(1)
	default:
		w.failed(err, "NOTIFY")
	}
}
