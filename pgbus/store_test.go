package pgbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func newStore(t *testing.T, db *pgtest.DB, log *slog.Logger) *Store {
	t.Helper()
	pool, err := NewPool(t.Context(), db.URL)
	must(t, err)
	t.Cleanup(pool.Close)
	return NewStore(pool, log)
}

// active makes an active topology.
func active(t *testing.T, s *Store) stream.TopologyID {
	t.Helper()
	made, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: "demo"})
	must(t, err)
	for _, status := range []string{"deploying", "active"} {
		_, err := s.ChangeStatus(t.Context(), made.ID, stream.StatusChange{Status: status})
		must(t, err)
	}
	return made.ID
}

const lockWaits = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`

// awaitLocked waits until a connection to this database waits for a lock.
func awaitLocked(t *testing.T, watcher *pgx.Conn) {
	t.Helper()
	pgtest.Eventually(t, "the wait for a lock", func() bool { return pgtest.Scan[int](t, watcher, lockWaits) > 0 })
}

func TestTheGraphIsOfTheMomentOfItsSeq(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, conn := active(t, s), db.Conn(t)
	var wg sync.WaitGroup
	const events = 300
	wg.Go(func() {
		for range events {
			// A LAN and an event in each transaction: at seq n there are n-3 LANs.
			_, err := conn.Exec(context.Background(), `WITH lan AS (INSERT INTO lans (topology_id, name, subnet) VALUES ('`+string(id)+`', gen_random_uuid()::text, '10.0.0.0/24') RETURNING topology_id)
				SELECT topology_emit(topology_id, 'x', '{}') FROM lan`)
			if err != nil {
				t.Error(err)
			}
		}
	})
	defer wg.Wait()
	for {
		g, err := s.Topology(t.Context(), id)
		must(t, err)
		var lans []json.RawMessage
		must(t, json.Unmarshal(g.LANs, &lans))
		if len(lans) != int(g.Seq)-3 {
			t.Fatalf("%d LANs at seq %d", len(lans), g.Seq)
		}
		if g.Seq == events+3 || t.Failed() {
			return
		}
	}
}

func TestADeadlocksVictimTriesAgainAndThePersonsStatementSurvives(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var log bytes.Buffer
	s := newStore(t, db, slog.New(slog.NewTextHandler(&log, nil)))
	id, person := active(t, s), db.Conn(t)
	pgtest.Exec(t, person, `BEGIN`)
	pgtest.Exec(t, person, `SET LOCAL deadlock_timeout = '20s'`) // so that it is not this one that PostgreSQL ends
	pgtest.Exec(t, person, `SELECT FROM topology_heads WHERE topology_id = $1 FOR UPDATE`, string(id))
	done := make(chan error, 1)
	go func() {
		_, err := s.Enqueue(context.Background(), id, stream.NewMutation{Op: stream.OpRemoveLAN, Payload: json.RawMessage(`{"name":"x"}`)})
		done <- err
	}()
	watcher := db.Conn(t)
	awaitLocked(t, watcher)
	// The head is held here, the topology there.
	pgtest.Exec(t, person, `UPDATE topologies SET reason = 'by hand' WHERE id = $1`, string(id))
	pgtest.Exec(t, person, `COMMIT`)
	must(t, <-done)
	if got := pgtest.Scan[string](t, person, `SELECT reason || ' ' || (SELECT count(*) FROM mutations) FROM topologies`); got != "by hand 1" {
		t.Errorf("stored: %s", got)
	}
	if !strings.Contains(log.String(), "40P01") {
		t.Errorf("there was no deadlock: the test sees nothing\n%s", log.String())
	}
}

func TestWhoGoesAwayWhileWaitingLeavesTheTurnToTheNext(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, holder := active(t, s), db.Conn(t)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT FROM topologies FOR UPDATE`)
	mutation := stream.NewMutation{Op: stream.OpRemoveLAN, Payload: json.RawMessage(`{"name":"x"}`)}
	gone := make([]context.CancelFunc, 0, 20)
	left := make(chan error)
	for range cap(gone) {
		ctx, cancel := context.WithCancel(t.Context())
		gone = append(gone, cancel)
		go func() { _, err := s.Enqueue(ctx, id, mutation); left <- err }()
	}
	watcher := db.Conn(t)
	awaitLocked(t, watcher)
	if n := pgtest.Scan[int](t, watcher, lockWaits); n != 1 {
		t.Errorf("%d connections wait for one topology", n)
	}
	for _, cancel := range gone {
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	last := make(chan error, 1)
	go func() { _, err := s.Enqueue(context.Background(), id, mutation); last <- err }()
	pgtest.Exec(t, holder, `ROLLBACK`)
	must(t, <-last)
	if n := pgtest.Scan[int](t, watcher, `SELECT count(*) FROM mutations`); n != 1 {
		t.Errorf("%d mutations: who went away has stored one", n)
	}
	if len(s.turns.names) != 0 {
		t.Errorf("turns are kept: %v", s.turns.names)
	}
}

func TestWhoInsertsByHandIsWaitedForBeforeVersionsAreCompared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, person := active(t, s), db.Conn(t)
	pgtest.Exec(t, person, `BEGIN`)
	pgtest.Exec(t, person, `INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'remove_lan', '{"name":"x"}')`, string(id))
	done := make(chan error, 1)
	expected := int64(0)
	go func() {
		_, err := s.Enqueue(context.Background(), id, stream.NewMutation{Op: stream.OpRemoveLAN, Payload: json.RawMessage(`{"name":"x"}`), ExpectedVersion: &expected})
		done <- err
	}()
	watcher := db.Conn(t)
	awaitLocked(t, watcher)
	pgtest.Exec(t, person, `COMMIT`)
	if err := <-done; !errors.Is(err, stream.ErrVersionConflict) {
		t.Errorf("%v, want a version conflict", err)
	}
}

func TestFinishedMutationsAndOldKeysGoInBatchesByOneServerAtATime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, conn := active(t, s), db.Conn(t)
	const before = `SELECT count(*) FROM topology_events`
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload) SELECT $1, 'remove_lan', '{"name":"x"}' FROM generate_series(1, 2 * $2 + 6)`, string(id), pruneBatch)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position > 1`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = CASE WHEN position % 2 = 0 THEN 'applied' ELSE 'failed' END WHERE position > 2`)
	pgtest.Exec(t, conn, `UPDATE mutations SET finished_at = clock_timestamp() - interval '2 hours' WHERE position > 4 OR position = 2`) // one that is in flight, too
	pgtest.Exec(t, conn, `INSERT INTO mutation_keys (topology_id, subject, key, body, mutation_id, created_at) SELECT $1, 'ada', h::text, '', gen_random_uuid(), now() - h * interval '1 hour' FROM unnest(ARRAY[0, 23, 25]) h`, string(id))
	events := pgtest.Scan[int](t, conn, before)

	other := db.Conn(t)
	pgtest.Exec(t, other, `BEGIN; SELECT topology_prune(NULL, NULL, 1)`)
	for _, prune := range []func() (int64, error){
		func() (int64, error) { return PruneMutations(t.Context(), s.pool, time.Hour) },
		func() (int64, error) { return PruneKeys(t.Context(), s.pool) },
	} {
		if n, err := prune(); n != 0 || err != nil {
			t.Errorf("while another server prunes: %d, %v", n, err)
		}
	}
	pgtest.Exec(t, other, `ROLLBACK`)

	if n, err := PruneMutations(t.Context(), s.pool, time.Hour); n != 2*pruneBatch+2 || err != nil {
		t.Errorf("pruned %d mutations, %v", n, err)
	}
	if left := pgtest.Scan[string](t, conn, `SELECT string_agg(position || ' ' || state, ', ' ORDER BY position) FROM (SELECT * FROM mutations ORDER BY position LIMIT 6) m`); left != "1 pending, 2 applying, 3 failed, 4 applied" {
		t.Errorf("left: %s", left)
	}
	if n, err := PruneKeys(t.Context(), s.pool); n != 1 || err != nil {
		t.Errorf("pruned %d keys, %v", n, err)
	}
	if after := pgtest.Scan[int](t, conn, before); after != events {
		t.Errorf("%d events before, %d after", events, after)
	}
}
