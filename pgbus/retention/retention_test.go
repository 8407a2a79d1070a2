package retention

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func activeTopology(t *testing.T, conn *pgx.Conn) (id string) {
	t.Helper()
	id = pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('demo') RETURNING id::text`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active'`)
	return id
}

// manyMutations makes mutations and old keys. 2 * batchRows + 2 of the mutations ended two hours ago; 3 and 4 ended
// just now; 1 is pending, and 2 applying with a time that a person gave it.
func manyMutations(t *testing.T, conn *pgx.Conn, id string) {
	t.Helper()
	const (
		insert = `
INSERT INTO mutations (topology_id, op, payload)
SELECT $1, 'remove_lan', '{"name":"x"}' FROM generate_series(1, 2 * $2 + 6)`
		finish = `
UPDATE mutations SET state = CASE WHEN position % 2 = 0 THEN 'applied' ELSE 'failed' END WHERE position > 2`
		age = `
UPDATE mutations SET finished_at = clock_timestamp() - interval '2 hours' WHERE position > 4 OR position = 2`
		keys = `
INSERT INTO mutation_keys (topology_id, subject, key, body, mutation_id, created_at)
SELECT $1, 'ada', h::text, '', gen_random_uuid(), now() - h * interval '1 hour' FROM unnest(ARRAY[0, 23, 25]) h`
	)
	pgtest.Exec(t, conn, insert, id, batchRows)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position > 1`)
	pgtest.Exec(t, conn, finish)
	pgtest.Exec(t, conn, age)
	pgtest.Exec(t, conn, keys, id)
}

func TestFinishedMutationsAndOldKeysGoInBatchesByOneServerAtATime(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it removes much: left out with -short")
	}
	db := pgtest.New(t)
	conn, pool := db.Conn(t), db.Pool(t)
	manyMutations(t, conn, activeTopology(t, conn))
	const events = `SELECT count(*) FROM topology_events`
	before := pgtest.Scan[int](t, conn, events)

	other := db.Conn(t)
	pgtest.Exec(t, other, `BEGIN; SELECT topology_prune(NULL, NULL, 1)`)
	for _, prune := range []func() (int64, error){
		func() (int64, error) { return Events(t.Context(), pool, time.Microsecond, 1) },
		func() (int64, error) { return Mutations(t.Context(), pool, time.Hour) },
		func() (int64, error) { return Keys(t.Context(), pool) },
		func() (int64, error) { return Tickets(t.Context(), pool) },
	} {
		if n, err := prune(); n != 0 || err != nil {
			t.Errorf("while another server prunes: %d, %v", n, err)
		}
	}
	pgtest.Exec(t, other, `ROLLBACK`)

	if n, err := Mutations(t.Context(), pool, time.Hour); n != 2*batchRows+2 || err != nil {
		t.Errorf("pruned %d mutations, %v", n, err)
	}
	const left = `SELECT string_agg(position || ' ' || state, ', ' ORDER BY position) FROM mutations`
	if got := pgtest.Scan[string](t, conn, left); got != "1 pending, 2 applying, 3 failed, 4 applied" {
		t.Errorf("left: %s", got)
	}
	if n, err := Keys(t.Context(), pool); n != 1 || err != nil {
		t.Errorf("pruned %d keys, %v", n, err)
	}
	if after := pgtest.Scan[int](t, conn, events); after != before {
		t.Errorf("%d events before, %d after", before, after)
	}
}

func TestTheJournalIsPrunedByAgeAndByCount(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, pool := db.Conn(t), db.Pool(t)
	id := activeTopology(t, conn) // its first three events
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'x', '{}') FROM generate_series(1, 7)`, id)
	for _, c := range []struct {
		age     time.Duration
		keep    int64
		removed int64
	}{{0, 0, 0}, {time.Hour, 0, 0}, {0, 10, 0}, {0, 9, 1}, {time.Hour, 4, 5}, {time.Microsecond, 0, 4}} {
		if n, err := Events(t.Context(), pool, c.age, c.keep); n != c.removed || err != nil {
			t.Errorf("age %s, keep %d: removed %d, %v, want %d", c.age, c.keep, n, err, c.removed)
		}
	}
}

// A database may have a stricter isolation level as its default. Under that a prune would fail each time that somebody
// writes to a topology between its beginning and its turn: on a busy database always.
func TestWritersDoNotEndAPruneWhateverTheDatabasesIsolationLevelIs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	const (
		// topology_prune locks ten heads ahead: the twelfth is not among them when it comes to the first.
		twelve = `
INSERT INTO topologies (id, name)
SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, i FROM generate_series(1, 12) i`
		stricter = `
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
END $$`
		hold = `
BEGIN;
SELECT FROM topology_events e JOIN topologies t ON t.id = e.topology_id WHERE t.name = '1' FOR UPDATE OF e`
		waits = `
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%topology_prune%'`
	)
	pgtest.Exec(t, conn, twelve)
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies`)
	pgtest.Exec(t, conn, stricter)
	pgtest.Exec(t, holder, hold)
	type result struct {
		removed int64
		err     error
	}
	pool, done := db.Pool(t), make(chan result)
	go func() {
		n, err := Events(context.Background(), pool, 0, 1)
		done <- result{n, err}
	}()
	pgtest.Eventually(t, "the prune to wait", func() bool { return pgtest.Scan[int](t, conn, waits) == 1 })
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies WHERE name = '12'`)
	pgtest.Exec(t, holder, `COMMIT`)
	if r := <-done; r.err != nil || r.removed != 13 {
		t.Errorf("removed %d, %v; want 13", r.removed, r.err)
	}
}

const expiredTickets = `
INSERT INTO sse_tickets (hash, subject, role, expires)
SELECT sha256(i::text::bytea), '', 'viewer', now() - interval '1 s' FROM generate_series(1, $1::int) i`

// A server that is stopped in the middle of a prune would hold its locks for ever: no other one could prune.
func TestPostgreSQLEndsAPruneWhoseServerStandsStill(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, pool := db.Conn(t), db.Pool(t)
	const note = `
CREATE TABLE noted (after text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
	INSERT INTO public.noted VALUES (current_setting('idle_in_transaction_session_timeout'));
	RETURN OLD;
END $f$;
CREATE TRIGGER note BEFORE DELETE ON topology_events FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER note BEFORE DELETE ON sse_tickets FOR EACH ROW EXECUTE FUNCTION note()`
	pgtest.Exec(t, conn, note)
	activeTopology(t, conn)
	pgtest.Exec(t, conn, expiredTickets, 1)
	for _, prune := range []func() (int64, error){
		func() (int64, error) { return Events(t.Context(), pool, 0, 2) },
		func() (int64, error) { return Tickets(t.Context(), pool) },
	} {
		if n, err := prune(); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if got := pgtest.Scan[string](t, conn, `SELECT string_agg(after, ', ') FROM noted`); got != "10s, 10s" {
		t.Errorf("ended after %s", got)
	}
}

func TestExpiredTicketsGoAndNoOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	const good = `
INSERT INTO sse_tickets (hash, subject, role, expires) VALUES ('', '', 'viewer', now() + interval '1 min')`
	pgtest.Exec(t, conn, expiredTickets, batchRows+1)
	pgtest.Exec(t, conn, good)
	if n, err := Tickets(t.Context(), db.Pool(t)); err != nil || n != batchRows+1 {
		t.Errorf("pruned %d, %v", n, err)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM sse_tickets`); n != 1 {
		t.Errorf("%d tickets are left", n)
	}
}

func TestAPrunerGoesOnAfterARoundThatFailed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `ALTER TABLE sse_tickets RENAME TO away`)
	pruner := New(Config{
		Pool: db.Pool(t), Events: time.Hour, EventCount: 1, Mutations: time.Hour, Every: 10 * time.Millisecond,
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- pruner.Run(ctx) }()
	activeTopology(t, conn)
	none := func(query string) func() bool { return func() bool { return pgtest.Scan[int](t, conn, query) == 0 } }
	pgtest.Eventually(t, "the journal to be pruned", none(`SELECT count(*) - 1 FROM topology_events`))
	pgtest.Exec(t, conn, `ALTER TABLE away RENAME TO sse_tickets`)
	pgtest.Exec(t, conn, expiredTickets, 1)
	pgtest.Eventually(t, "tickets to be pruned", none(`SELECT count(*) FROM sse_tickets`))
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the run ended with %v", err)
	}
}
