package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

func newStore(t *testing.T, db *pgtest.DB, log *slog.Logger) *Store {
	t.Helper()
	return New(newPool(t, db), 0, log)
}

func newPool(t *testing.T, db *pgtest.DB, changes ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), db.URL, changes...)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
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

func removeLAN(expectedVersion *int64) stream.NewMutation {
	return stream.NewMutation{
		Op: stream.OpRemoveLAN, Payload: json.RawMessage(`{"name":"x"}`), ExpectedVersion: expectedVersion,
	}
}

const lockWaits = `
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`

// awaitLocked waits until a connection to this database waits for a lock.
func awaitLocked(t *testing.T, watcher *pgx.Conn) {
	t.Helper()
	pgtest.Eventually(t, "the wait for a lock", func() bool { return pgtest.Scan[int](t, watcher, lockWaits) > 0 })
}

// wholeTopology is what Topology gives.
type wholeTopology struct {
	Topology stream.Topology
	Seq      stream.Seq
	LANs     []json.RawMessage
	Deckies  []struct{ Name string }
	Edges    []json.RawMessage
}

func TestTheGraphIsOfTheMomentOfItsSeq(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, conn := active(t, s), db.Conn(t)
	var wg sync.WaitGroup
	const (
		events = 300
		// A LAN, which is an event, and another event in each transaction: at seq n there are (n-3)/2 LANs.
		addLAN = `
WITH lan AS (
       INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, gen_random_uuid()::text, '10.0.0.0/24')
       RETURNING topology_id)
SELECT topology_emit(topology_id, 'x', '{}') FROM lan`
	)
	wg.Go(func() {
		for range events {
			if _, err := conn.Exec(context.Background(), addLAN, string(id)); err != nil {
				t.Error(err)
			}
		}
	})
	defer wg.Wait()
	for {
		document, err := s.Topology(t.Context(), id, 1<<20)
		must(t, err)
		var g wholeTopology
		must(t, json.Unmarshal(document, &g))
		if 2*len(g.LANs) != int(g.Seq)-3 {
			t.Fatalf("%d LANs at seq %d", len(g.LANs), g.Seq)
		}
		if g.Seq == 2*events+3 || t.Failed() {
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
	pgtest.Exec(t, person, `SET LOCAL deadlock_timeout = '20s'`) // so that PostgreSQL ends the other one
	pgtest.Exec(t, person, `SELECT FROM topology_heads WHERE topology_id = $1 FOR UPDATE`, string(id))
	done := make(chan error, 1)
	go func() {
		_, err := s.Enqueue(context.Background(), id, removeLAN(nil))
		done <- err
	}()
	watcher := db.Conn(t)
	awaitLocked(t, watcher)
	// The head is held here, the topology there.
	pgtest.Exec(t, person, `UPDATE topologies SET reason = 'by hand' WHERE id = $1`, string(id))
	pgtest.Exec(t, person, `COMMIT`)
	must(t, <-done)
	const stored = `SELECT reason || ' ' || (SELECT count(*) FROM mutations) FROM topologies`
	if got := pgtest.Scan[string](t, person, stored); got != "by hand 1" {
		t.Errorf("stored: %s", got)
	}
	if !strings.Contains(log.String(), "40P01") {
		t.Errorf("there was no deadlock: the test sees nothing\n%s", log.String())
	}
}

func TestWhoGoesAwayWhileWaitingLeavesTheTopologyToTheNext(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, holder := active(t, s), db.Conn(t)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT FROM topologies FOR UPDATE`)
	mutation := removeLAN(nil)
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
	if len(s.writers.locks) != 0 {
		t.Errorf("mutexes of nobody are kept: %v", s.writers.locks)
	}
}

func TestWhoInsertsByHandIsWaitedForBeforeVersionsAreCompared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id, person := active(t, s), db.Conn(t)
	pgtest.Exec(t, person, `BEGIN`)
	const insert = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'remove_lan', '{"name":"x"}')`
	pgtest.Exec(t, person, insert, string(id))
	done := make(chan error, 1)
	expected := int64(0)
	go func() {
		_, err := s.Enqueue(context.Background(), id, removeLAN(&expected))
		done <- err
	}()
	watcher := db.Conn(t)
	awaitLocked(t, watcher)
	pgtest.Exec(t, person, `COMMIT`)
	if err := <-done; !errors.Is(err, stream.ErrVersionConflict) {
		t.Errorf("%v, want a version conflict", err)
	}
}

func TestALockThatIsNotHadInTimeNamesWhoHoldsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	var log bytes.Buffer
	s := newStore(t, db, slog.New(slog.NewTextHandler(&log, nil)))
	id, holder := active(t, s), db.Conn(t)
	s.transactor.LockTimeout = 3 * time.Second // on a busy machine, too, there is time to ask who it is
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT FROM topologies FOR UPDATE`)
	if err := s.DeleteTopology(t.Context(), id); !errors.Is(err, stream.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	if want := fmt.Sprintf(`blocked_by="[pid %d]"`, holder.PgConn().PID()); !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, log.String())
	}
	pgtest.Exec(t, holder, `ROLLBACK`)
	must(t, s.DeleteTopology(t.Context(), id))
}

func TestWritersThatWaitForLocksTakeAThirdOfThePool(t *testing.T) {
	t.Parallel()
	const writers = 8
	db := pgtest.New(t)
	pool := newPool(t, db)
	s, holder, watcher := New(pool, 0, nil), db.Conn(t), db.Conn(t)
	ids := make([]stream.TopologyID, 0, writers)
	for i := range writers {
		made, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: strconv.Itoa(i)})
		must(t, err)
		ids = append(ids, made.ID)
	}
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT FROM topologies FOR UPDATE`)
	var deletions errgroup.Group
	for _, id := range ids {
		deletions.Go(func() error { return s.DeleteTopology(context.Background(), id) })
	}
	third := int(pool.Config().MaxConns) / 3
	pgtest.Eventually(t, "a third to wait", func() bool { return pgtest.Scan[int](t, watcher, lockWaits) == third })
	others := make([]*pgxpool.Conn, 0, third)
	for range third { // the store's other connections ask who holds the locks, if anything
		conn, err := pool.Acquire(t.Context())
		must(t, err)
		others = append(others, conn)
	}
	if n := pgtest.Scan[int](t, watcher, lockWaits); n != third {
		t.Errorf("%d writers have a connection, want %d", n, third)
	}
	for _, conn := range others {
		conn.Release()
	}
	pgtest.Exec(t, holder, `ROLLBACK`)
	must(t, deletions.Wait())
}
