package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/setting"
)

// A CostRow is what one statement costs a writer that is alone, on a connection of its own.
type CostRow struct {
	Bus       string  `json:"bus"`
	Statement string  `json:"statement"`
	Micros    float64 `json:"microseconds"` // for each event
	Against   string  `json:"against"`
	Ratio     float64 `json:"ratio"` // of the time to that of what it is measured against
}

// bare is the least that an event can cost: a row of the head, a row of the journal, a notification. Beside it is the
// table of mutations without triggers.
const bare = `
CREATE SCHEMA bare;
CREATE TABLE bare.heads (topology_id uuid PRIMARY KEY, seq bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bare.events (topology_id uuid, seq bigint, type text NOT NULL, payload jsonb, at timestamptz NOT NULL,
    PRIMARY KEY (topology_id, seq));
CREATE TABLE bare.mutations (LIKE mutations INCLUDING ALL);
INSERT INTO bare.heads SELECT id, 0 FROM topologies;
CREATE FUNCTION bare.emit(_id uuid, _type text, _payload jsonb) RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE
    _seq bigint; _at timestamptz := clock_timestamp();
BEGIN
    UPDATE bare.heads h SET seq = h.seq + 1 WHERE h.topology_id = _id RETURNING h.seq INTO _seq;
    INSERT INTO bare.events VALUES (_id, _seq, _type, _payload, _at);
    PERFORM pg_notify('topology.' || _id, json_build_object('topic', 'topology.' || _id || '.' || _type, 'type', _type,
        'ts', _at, 'seq', _seq, 'journaled', true, 'payload', _payload)::text);
    RETURN _seq;
END
$f$`

// The statements whose cost is measured.
const (
	bareEmit    = "the bare function"
	emitOne     = "topology_emit"
	plainInsert = "INSERT, no triggers"
	insertOne   = "INSERT of a mutation"
	plainUpdate = "UPDATE of a state, no triggers"
	toApplying  = "UPDATE to applying"
	toApplied   = "UPDATE to applied"
	plainMany   = "INSERT of 100 rows, no triggers"
	insertMany  = "INSERT of 100 mutations"
)

// costs are what each is measured against: the bare function, with what the statement costs without triggers.
func costs() []struct{ statement, plain string } {
	return []struct{ statement, plain string }{
		{emitOne, ""},
		{insertOne, plainInsert},
		{toApplying, plainUpdate},
		{toApplied, plainUpdate},
		{insertMany, plainMany},
	}
}

// compareCosts measures them on a database of its own where nothing is flushed, so that only work counts.
func (c Config) compareCosts(ctx context.Context) (rows []CostRow, err error) {
	c.Topologies = min(c.Topologies, 100)
	p, err := openPlace(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = p.close(err) }()
	if c.DatabaseURL == "" { // on somebody's server it stays as it is
		for _, statement := range []string{`ALTER SYSTEM SET fsync = off`, `SELECT pg_reload_conf()`} {
			if _, err := p.conn.Exec(ctx, statement); err != nil {
				return nil, err
			}
		}
	}
	if _, err := p.conn.Exec(ctx, bare); err != nil {
		return nil, fmt.Errorf("make the bare function: %w", err)
	}
	for _, bus := range []string{setting.Notify, setting.WAL} {
		if err := p.use(ctx, bus); err != nil {
			return nil, err
		}
		took := map[string][]float64{}
		for round := range c.Rounds + 1 {
			one, err := p.costRound(ctx, c.Duration/10)
			if err != nil {
				return nil, fmt.Errorf("the cost of a statement on %s: %w", bus, err)
			}
			c.Log("round %d of %d, costs on %s: bare %.0f µs, emit %.0f µs", round, c.Rounds, bus, one[bareEmit], one[emitOne])
			for statement, micros := range one {
				if round > 0 { // plans are made, pages read
					took[statement] = append(took[statement], micros)
				}
			}
		}
		rows = append(rows, costRows(bus, took)...)
	}
	return rows, nil
}

func costRows(bus string, took map[string][]float64) []CostRow {
	rows := append(make([]CostRow, 0, 1+len(costs())), CostRow{bus, bareEmit, median(took[bareEmit]), "", 1})
	for _, cost := range costs() {
		against, name := make([]float64, len(took[bareEmit])), bareEmit
		copy(against, took[bareEmit])
		if cost.plain != "" {
			name += " + " + cost.plain
			for i, micros := range took[cost.plain] {
				against[i] += micros
			}
		}
		rows = append(rows, CostRow{bus, cost.statement, median(took[cost.statement]), name,
			ratio(took[cost.statement], against)})
	}
	return rows
}

// costRound runs each statement for a time and gives the microseconds that an event took.
func (p *place) costRound(ctx context.Context, d time.Duration) (took map[string]float64, err error) {
	const (
		insertPlain = `INSERT INTO bare.mutations (topology_id, position, op, payload) OVERRIDING SYSTEM VALUE
VALUES ($1::text::uuid, nextval(pg_get_serial_sequence('mutations', 'position')), 'add_lan', '{"name":"lan-9"}')
RETURNING id::text`
		insert = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{"name":"lan-9"}')
RETURNING id::text`
		manyPlain = `INSERT INTO bare.mutations (topology_id, position, op, payload) OVERRIDING SYSTEM VALUE
SELECT $1::text::uuid, nextval(pg_get_serial_sequence('mutations', 'position')), 'add_lan', '{"name":"lan-9"}'
  FROM generate_series(1, 100)`
		many = `INSERT INTO mutations (topology_id, op, payload)
SELECT $1::text::uuid, 'add_lan', '{"name":"lan-9"}' FROM generate_series(1, 100)`
		event = `($1::text::uuid, 'bench', '{"decky_name":"web-1","services":["ssh"]}')`
	)
	took = map[string]float64{}
	exec := func(name, statement string, events int) error {
		return p.cost(took, name, d, events, func(topology string) error {
			_, err := p.conn.Exec(ctx, statement, topology)
			return err
		})
	}
	inserted := func(name, statement string) (ids []string, err error) {
		err = p.cost(took, name, d, 1, func(topology string) error {
			var id string
			err := p.conn.QueryRow(ctx, statement, topology).Scan(&id)
			ids = append(ids, id)
			return err
		})
		return ids, err
	}
	if err := exec(bareEmit, `SELECT bare.emit`+event, 1); err != nil {
		return nil, err
	}
	if err := exec(emitOne, `SELECT topology_emit`+event, 1); err != nil {
		return nil, err
	}
	plain, err := inserted(plainInsert, insertPlain)
	if err != nil {
		return nil, err
	}
	ids, err := inserted(insertOne, insert)
	if err != nil {
		return nil, err
	}
	for _, u := range []struct {
		name, table, state string
		ids                []string
	}{
		{plainUpdate, "bare.mutations", "applying", plain},
		{toApplying, "mutations", "applying", ids},
		{toApplied, "mutations", "applied", ids},
	} {
		update := `UPDATE ` + u.table + ` SET state = '` + u.state + `' WHERE id = $1::text::uuid`
		if err := updateAll(ctx, p.conn, took, u.name, update, u.ids); err != nil {
			return nil, err
		}
	}
	if err := exec(plainMany, manyPlain, 100); err != nil {
		return nil, err
	}
	if err := exec(insertMany, many, 100); err != nil {
		return nil, err
	}
	return took, p.forgetMutations(ctx)
}

// cost repeats something for a time, for one topology after another.
func (p *place) cost(took map[string]float64, name string, d time.Duration, events int, do func(topology string) error,
) error {
	began, n := time.Now(), 0
	for ; time.Since(began) < d; n++ {
		if err := do(p.topologies[n%len(p.topologies)]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	took[name] = float64(time.Since(began).Microseconds()) / float64(n*events)
	return nil
}

func updateAll(ctx context.Context, conn *pgx.Conn, took map[string]float64, name, update string, ids []string) error {
	began := time.Now()
	for _, id := range ids {
		if _, err := conn.Exec(ctx, update, id); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	took[name] = float64(time.Since(began).Microseconds()) / float64(len(ids))
	return nil
}

// forgetMutations takes every round back to the same size of tables.
func (p *place) forgetMutations(ctx context.Context) error {
	for _, statement := range []string{
		`UPDATE mutations SET state = 'applying' WHERE state = 'pending'`,
		`UPDATE mutations SET state = 'applied' WHERE state = 'applying'`,
		`DELETE FROM mutations`, `DELETE FROM bare.mutations`, `TRUNCATE bare.events`,
		`SELECT topology_prune(NULL, 1, 1000000)`,
		`VACUUM (ANALYZE) topologies, topology_heads, topology_events, mutations, bare.mutations, bare.heads`,
	} {
		if _, err := p.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}
