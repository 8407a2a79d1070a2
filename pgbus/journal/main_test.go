package journal

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// soon is a context for what must not need long: a read that is tried again for ever ends with it, as ErrUnavailable.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A bench is a reader of a database of the test's own.
type bench struct {
	*Reader

	db        *pgtest.DB
	conn      *pgx.Conn // of the test
	histories *postgres.Histories
	stats     *stream.Stats // of the memory
	memory    *stream.Memory
	answers   int // how often the reader said that the database had answered
}

const memory = 1 << 20

// newBench makes a reader with one connection: what one read leaves on it the next one finds.
func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	db := pgtest.New(t)
	b := &bench{
		db: db, conn: db.Conn(t), histories: postgres.NewHistories(true, nil), stats: metrictest.Stats(),
	}
	b.memory = stream.NewMemory(memory, b.stats)
	cfg := Config{
		Histories: b.histories, Encoder: sse.Encoder{}, Memory: b.memory, Answered: func() { b.answers++ },
	}
	if change != nil {
		change(&cfg)
	}
	if cfg.Pool == nil {
		cfg.Pool = newPool(t, db, nil)
	}
	b.Reader = New(cfg)
	return b
}

func newPool(t *testing.T, db *pgtest.DB, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(db.URL)
	must(t, err)
	cfg.MaxConns = 1
	if change != nil {
		change(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// topologies makes n, in the order of their ids.
func (b *bench) topologies(t *testing.T, n int) []stream.TopologyID {
	t.Helper()
	const insert = `
WITH made AS (INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, $1::int) i RETURNING id)
SELECT id::text FROM made ORDER BY id`
	rows, err := b.conn.Query(t.Context(), insert, n)
	must(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[stream.TopologyID])
	must(t, err)
	return ids
}

// emit gives a topology n events of type x, each with the text given in its payload.
func (b *bench) emit(t *testing.T, id stream.TopologyID, n int, text string) {
	t.Helper()
	const emit = `
SELECT topology_emit($1::text::uuid, 'x', jsonb_build_object('text', $3::text)) FROM generate_series(1, $2::int)`
	pgtest.Exec(t, b.conn, emit, id, n, text)
}

// head is what the database's table says.
func (b *bench) head(t *testing.T, id stream.TopologyID) (h Head) {
	t.Helper()
	const query = `SELECT seq, first FROM topology_heads WHERE topology_id = $1::text::uuid`
	must(t, b.conn.QueryRow(t.Context(), query, id).Scan(&h.Seq, &h.First))
	return h
}

// history is what the database says of itself.
func (b *bench) history(t *testing.T) (h postgres.History) {
	t.Helper()
	const query = `SELECT ` + postgres.Columns + ` FROM topology_identity()`
	must(t, b.conn.QueryRow(t.Context(), query).Scan(h.Targets()...))
	return h
}

// promote has the database find itself on another server than its settings remember.
func (b *bench) promote(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, b.conn, `UPDATE topology_settings SET timeline = timeline + 1`)
}

// pretend has the database say something else of itself: columns are topology_identity's, as SQL.
func (b *bench) pretend(t *testing.T, columns string) {
	t.Helper()
	pgtest.Exec(t, b.conn, `
CREATE OR REPLACE FUNCTION topology_identity(
    OUT epoch bigint, OUT history uuid, OUT recovering boolean, OUT other boolean)
LANGUAGE sql STABLE AS $f$ SELECT `+columns+` FROM topology_settings s $f$`)
}

// A recorder sees the statements of a pool. It is a pgx.QueryTracer.
type recorder struct {
	only   string      // is in the statements that it sees; empty: it sees all
	before func(n int) // called before the nth statement; may be nil

	mu sync.Mutex
	n  int
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if !strings.Contains(q.SQL, r.only) {
		return ctx
	}
	r.mu.Lock()
	r.n++
	n := r.n
	r.mu.Unlock()
	if r.before != nil {
		r.before(n)
	}
	return ctx
}

func (*recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (b *bench) record(t *testing.T, r *recorder) *pgxpool.Pool {
	t.Helper()
	return newPool(t, b.db, func(c *pgxpool.Config) { c.ConnConfig.Tracer = r })
}
