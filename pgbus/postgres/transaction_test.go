package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/wait"
)

const makeRows = `CREATE TABLE rows (id int PRIMARY KEY, n int); INSERT INTO rows VALUES (1, 0), (2, 0)`

// add changes a row, which locks it.
const add = `UPDATE rows SET n = n + 1 WHERE id = $1`

func transactor(t *testing.T, db *pgtest.DB) *Transactor {
	t.Helper()
	return &Transactor{
		Pool: db.Pool(t), LockTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		Retry: wait.Steps{First: time.Millisecond, Most: 10 * time.Millisecond},
	}
}

func exec(ctx context.Context, tx pgx.Tx, statement string, args ...any) error {
	_, err := tx.Exec(ctx, statement, args...)
	return err
}

func TestADeadlocksVictimRunsAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, other := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	pgtest.Exec(t, other, `SET deadlock_timeout = '1min'`) // who looks for a deadlock first is its victim
	pgtest.Exec(t, other, `BEGIN`)
	pgtest.Exec(t, other, add, 2)
	tr := transactor(t, db)
	var conflicts []string
	tr.Conflict = func(_ int, err *pgconn.PgError) { conflicts = append(conflicts, err.Code) }
	tries := 0
	done := make(chan error, 1)
	go func() {
		done <- tr.Do(t.Context(), t.Context(), pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			tries++
			return errors.Join(exec(ctx, tx, add, 1), exec(ctx, tx, add, 2))
		})
	}()
	pgtest.Eventually(t, "it to wait for the other", func() bool {
		return pgtest.Scan[bool](t, conn, `
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid)))`,
			other.PgConn().PID())
	})
	pgtest.Exec(t, other, add, 1)
	pgtest.Exec(t, other, `COMMIT`)
	must(t, <-done)
	if tries < 2 || len(conflicts) != tries-1 || conflicts[0] != "40P01" {
		t.Errorf("%d tries, conflicts %v", tries, conflicts)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT sum(n) FROM rows`); n != 4 {
		t.Errorf("%d changes, want 4: each once", n)
	}
}

// stale makes a transaction see a row as it was before another one has changed it.
func stale(t *testing.T, conn *pgx.Conn) func(context.Context, pgx.Tx) error {
	return func(ctx context.Context, tx pgx.Tx) error {
		if err := exec(ctx, tx, `SELECT FROM rows`); err != nil {
			return err
		}
		pgtest.Exec(t, conn, add, 1)
		return exec(ctx, tx, add, 1)
	}
}

func TestATransactionThatFailsToSerializeEachTimeEndsAfterItsTries(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	tr := transactor(t, db)
	tr.Tries = 3
	var tries []int
	tr.Conflict = func(try int, _ *pgconn.PgError) { tries = append(tries, try) }
	repeatable := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	err := tr.Do(t.Context(), t.Context(), repeatable, stale(t, conn))
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !errors.Is(err, ErrConflicts) || !ok || pgErr.Code != "40001" {
		t.Errorf("%v", err)
	}
	if !slices.Equal(tries, []int{1, 2, 3}) {
		t.Errorf("told of %v", tries)
	}
	// READ COMMITTED, which is what there is without options, takes the newer row.
	must(t, tr.Do(t.Context(), t.Context(), pgx.TxOptions{}, stale(t, conn)))
	if n := pgtest.Scan[int](t, conn, `SELECT n FROM rows WHERE id = 1`); n != 3+2 {
		t.Errorf("%d changes", n)
	}
}

func TestWithoutALimitATransactionIsTriedUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	tr := transactor(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	most := 0
	tr.Conflict = func(try int, _ *pgconn.PgError) {
		if most = try; try == 20 {
			cancel()
		}
	}
	err := tr.Do(t.Context(), ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, stale(t, conn))
	if !errors.Is(err, ErrConflicts) || most != 20 {
		t.Errorf("%v after %d tries", err, most)
	}
}

func TestALockThatIsNotGotInTimeNamesTheHolder(t *testing.T) {
	t.Parallel()
	for name, deadline := range map[string]time.Duration{
		"by the lock timeout": time.Minute, "by the deadline": 3 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn, holder := db.Conn(t), db.Conn(t)
			pgtest.Exec(t, conn, makeRows)
			pgtest.Exec(t, holder, `BEGIN`)
			pgtest.Exec(t, holder, add, 1)
			tr := transactor(t, db)
			if deadline == time.Minute {
				tr.LockTimeout = 3 * time.Second
			}
			waiting, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			err := tr.Do(t.Context(), waiting, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
				return exec(ctx, tx, add, 1)
			})
			held, ok := errors.AsType[*LockTimeoutError](err)
			if !ok || !slices.Equal(held.By, []string{fmt.Sprint("pid ", holder.PgConn().PID())}) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAPreparedTransactionThatHoldsALockIsNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	t.Parallel()
	db := pgtest.NewOn(t, pgtest.Cluster(t, "max_prepared_transactions=5").URL("postgres"))
	conn, holder := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	for gid, statement := range map[string]string{"it''s mine": add, "another": `CREATE TABLE others ()`} {
		pgtest.Exec(t, holder, `BEGIN`)
		if statement == add {
			pgtest.Exec(t, holder, statement, 1)
		} else {
			pgtest.Exec(t, holder, statement)
		}
		pgtest.Exec(t, holder, `PREPARE TRANSACTION '`+gid+`'`)
	}
	tr := transactor(t, db)
	tr.LockTimeout = 3 * time.Second
	wait := func(statement string, args ...any) {
		t.Helper()
		err := tr.Do(t.Context(), t.Context(), pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			return exec(ctx, tx, statement, args...)
		})
		held, ok := errors.AsType[*LockTimeoutError](err)
		if !ok || !slices.Equal(held.By, []string{"prepared transaction 'it''s mine'"}) {
			t.Errorf("%s: %v", statement, err)
		}
	}
	wait(add, 1)
	wait(`LOCK TABLE rows`)
	pgtest.Exec(t, conn, `ROLLBACK PREPARED 'it''s mine'`)
	pgtest.Exec(t, conn, `ROLLBACK PREPARED 'another'`)
}

func TestWhatATransactionReturnsIsTheErrorAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	refused := errors.New("refused")
	err := transactor(t, db).Do(t.Context(), t.Context(), pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		return errors.Join(exec(ctx, tx, add, 1), refused)
	})
	if !errors.Is(err, refused) || errors.Is(err, ErrConflicts) {
		t.Errorf("%v", err)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT sum(n) FROM rows`); n != 0 {
		t.Errorf("%d changes stayed", n)
	}
}

func TestATransactionWhoseClientStandsStillIsEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, makeRows)
	tr := transactor(t, db)
	tr.IdleTimeout = 50 * time.Millisecond
	err := tr.Do(t.Context(), t.Context(), pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		if err := exec(ctx, tx, add, 1); err != nil {
			return err
		}
		const backends = `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`
		pgtest.Eventually(t, "PostgreSQL to end it", func() bool {
			return pgtest.Scan[int](t, conn, backends, tx.Conn().PgConn().PID()) == 0
		})
		return exec(ctx, tx, add, 1)
	})
	if err == nil || pgtest.Scan[int](t, conn, `SELECT sum(n) FROM rows`) != 0 {
		t.Errorf("%v", err)
	}
}

// A pool whose connections are all taken: who waits gets the cause of its context.
func TestWithoutAConnectionAWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	tr := transactor(t, pgtest.New(t))
	for range tr.Pool.Config().MaxConns {
		conn, err := tr.Pool.Acquire(t.Context())
		must(t, err)
		defer conn.Release()
	}
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := tr.Do(t.Context(), waiting, pgx.TxOptions{}, func(context.Context, pgx.Tx) error {
		t.Error("it ran")
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
