package sql_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// topologies makes n topologies and gives their ids in the order that heads are locked in.
func topologies(t *testing.T, conn *pgx.Conn, n int) (ids []string) {
	t.Helper()
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, $1) i`, n)
	return pgtest.Scan[[]string](t, conn, `SELECT array_agg(id::text ORDER BY id) FROM topologies`)
}

// An identity is what every read begins with.
type identity struct {
	Epoch             int64
	History           string
	Recovering, Other bool
}

func readIdentity(t *testing.T, conn *pgx.Conn) (i identity) {
	t.Helper()
	const query = `SELECT epoch, history::text, recovering, other FROM topology_identity()`
	must(t, conn.QueryRow(t.Context(), query).Scan(&i.Epoch, &i.History, &i.Recovering, &i.Other))
	return i
}

// settings are the epoch and the history, in one text.
const settings = `SELECT epoch || ' ' || history FROM topology_settings`

func TestAnotherPlaceIsSeenAtOnceAndRaisesTheEpochOnce(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	topologies(t, conn, 3)
	before := readIdentity(t, conn)
	if before.Other || before.Recovering || before.Epoch != 0 {
		t.Fatalf("a new database says %+v", before)
	}
	for _, change := range []string{
		`timeline = timeline + 1`, `database_oid = database_oid + 1`, `system_identifier = '1'`,
	} {
		pgtest.Exec(t, conn, `UPDATE topology_settings SET `+change)
		if now := readIdentity(t, conn); !now.Other || now.Epoch != before.Epoch || now.History != before.History {
			t.Errorf("%s: it says %+v, before %+v", change, now, before)
		}
		epoch := pgtest.Scan[int64](t, conn, `SELECT topology_identify()`)
		now := readIdentity(t, conn)
		if now.Other || now.Epoch != epoch || epoch <= before.Epoch || now.History == before.History {
			t.Errorf("%s: identified as %d it says %+v, before %+v", change, epoch, now, before)
		}
		before = now
		for _, again := range []string{`SELECT topology_identify()`, `SELECT topology_check_epoch()`} {
			if e := pgtest.Scan[int64](t, conn, again); e != epoch || readIdentity(t, conn) != before {
				t.Errorf("%s: %s raised it again, to %d", change, again, e)
			}
		}
	}
}

func TestAPlaceThatIsRememberedForTheFirstTimeRaisesNothing(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	before := pgtest.Scan[string](t, conn, settings)
	pgtest.Exec(t, conn, `UPDATE topology_settings SET system_identifier = NULL`)
	if !readIdentity(t, conn).Other {
		t.Error("a database that remembers no place says that it is the one it remembers")
	}
	pgtest.Exec(t, conn, `SELECT topology_identify()`)
	if now := pgtest.Scan[string](t, conn, settings); now != before || readIdentity(t, conn).Other {
		t.Errorf("it is at %s, before at %s", now, before)
	}
}

func TestARaiseForAHistoryThatIsNoMoreDoesNothing(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	history := readIdentity(t, conn).History
	epoch := pgtest.Scan[int64](t, conn, `SELECT topology_raise_epoch($1::text::uuid)`, history)
	now := readIdentity(t, conn)
	if now.Epoch != epoch || epoch == 0 || now.History == history {
		t.Fatalf("raised to %d it says %+v", epoch, now)
	}
	e := pgtest.Scan[int64](t, conn, `SELECT topology_raise_epoch($1::text::uuid)`, history)
	if e != epoch || readIdentity(t, conn) != now {
		t.Errorf("the second who found out raised it again, to %d", e)
	}
	e = pgtest.Scan[int64](t, conn, `SELECT topology_new_epoch()`)
	if e <= epoch || readIdentity(t, conn).History == now.History {
		t.Errorf("a new epoch by hand is %d after %d", e, epoch)
	}
}

func TestAnEpochCountsTenMinutesSince2026AndRisesByOneWhereThatIsLess(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t).Conn(t)
	const least = `SELECT floor(extract(epoch FROM now() - '2026-01-01 00:00+00') / 600)::bigint`
	want := pgtest.Scan[int64](t, conn, least)
	if epoch := pgtest.Scan[int64](t, conn, `SELECT topology_new_epoch()`); epoch < want || epoch > want+1 {
		t.Errorf("the epoch is %d, ten-minute intervals are %d", epoch, want)
	}
	pgtest.Exec(t, conn, `UPDATE topology_settings SET epoch = 2000000`)
	if epoch := pgtest.Scan[int64](t, conn, `SELECT topology_new_epoch()`); epoch != 2000001 {
		t.Errorf("2000000 is followed by %d", epoch)
	}
}

func TestTwoCopiesThatMakeTheSameEpochHaveDifferentHistories(t *testing.T) {
	t.Parallel()
	a, b := pgtest.New(t).Conn(t), pgtest.New(t).Conn(t)
	same := readIdentity(t, a).History
	pgtest.Exec(t, b, `UPDATE topology_settings SET history = $1::text::uuid`, same)
	for _, conn := range []*pgx.Conn{a, b} {
		pgtest.Exec(t, conn, `UPDATE topology_settings SET epoch = 2000000, timeline = timeline + 1`)
		pgtest.Exec(t, conn, `SELECT topology_identify()`)
	}
	x, y := readIdentity(t, a), readIdentity(t, b)
	if x.Epoch != 2000001 || y.Epoch != x.Epoch {
		t.Fatalf("the test sees nothing: %d and %d", x.Epoch, y.Epoch)
	}
	if x.History == y.History || x.History == same {
		t.Errorf("the histories are %s and %s, after %s", x.History, y.History, same)
	}
}

func TestARaiseAndAnotherHistoryAreToldAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, listener := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, listener, `LISTEN "topostream.settings"`)
	for _, change := range []string{
		`UPDATE topology_settings SET epoch = epoch + 1`, `UPDATE topology_settings SET history = gen_random_uuid()`,
		`UPDATE topology_settings SET bus = 'wal'`, `SELECT topology_new_epoch()`,
	} {
		pgtest.Exec(t, conn, change)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := listener.WaitForNotification(ctx); err != nil {
			t.Errorf("%s: %v", change, err)
		}
		cancel()
	}
}

// heldBy calls topology_raise and gives what is held, by whom: 0 a prepared transaction, -1 nobody that could be told.
func heldBy(t *testing.T, conn *pgx.Conn, ids []string) map[string]int {
	t.Helper()
	const query = `SELECT topology_id::text, coalesce(held_by, -1) FROM topology_raise($1::text[]::uuid[])`
	rows, err := conn.Query(t.Context(), query, ids)
	must(t, err)
	held := map[string]int{}
	var (
		id  string
		pid int
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &pid}, func() error { held[id] = pid; return nil })
	must(t, err)
	return held
}

func TestWhoHoldsATopologyMakesNoOtherWaitForTheNewEpoch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder, writer := db.Conn(t), db.Conn(t), db.Conn(t)
	ids := topologies(t, conn, 20)
	held := ids[7]
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, held)
	pgtest.Exec(t, writer, `SET lock_timeout = '2s'`) // waiting for the holder would be for ever

	for _, raise := range []string{
		`SELECT topology_new_epoch()`, `SELECT topology_raise_epoch(history) FROM topology_identity()`,
		`UPDATE topology_settings SET timeline = timeline + 1`, `SELECT topology_identify()`,
	} {
		pgtest.Exec(t, conn, `BEGIN`)
		pgtest.Exec(t, conn, raise)
		for _, id := range ids { // while the raise is not committed
			if id != held {
				pgtest.Exec(t, writer, `SELECT topology_emit($1::text::uuid, 'during', '{}')`, id)
			}
		}
		pgtest.Exec(t, conn, `COMMIT`)
	}
	pid := int(holder.PgConn().PID())
	if got := heldBy(t, conn, ids); len(got) != 1 || got[held] != pid {
		t.Errorf("held are %v, want %s by %d", got, held, pid)
	}
	const below = `SELECT count(*) FROM topology_heads h, topology_settings s WHERE h.seq < s.epoch << 32`
	if n := pgtest.Scan[int](t, conn, below); n != 1 {
		t.Errorf("%d heads are below the new epoch, want that of the topology that is held", n)
	}
	pgtest.Exec(t, holder, `COMMIT`)
	if got := heldBy(t, conn, ids); len(got) != 0 || pgtest.Scan[int](t, conn, below) != 0 {
		t.Errorf("after the commit held are %v", got)
	}
	const beginsAnew = `SELECT count(*) FROM topology_heads h, topology_settings s
		WHERE h.seq = s.epoch << 32 AND h.first = h.seq + 1`
	if n := pgtest.Scan[int](t, conn, beginsAnew); n != len(ids) {
		t.Errorf("%d heads begin the new epoch, want %d", n, len(ids))
	}
	pgtest.Exec(t, writer, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, held)
	heldBy(t, conn, ids) // once more changes nothing
	contiguous(t, conn)
	if n := pgtest.Scan[int](t, conn, beginsAnew); n != len(ids)-1 {
		t.Errorf("%d heads are at the epoch's beginning, want all but one", n)
	}
}

func TestTheHolderIsToldWhateverItHoldsTheHeadWith(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, a, b := db.Conn(t), db.Conn(t), db.Conn(t)
	ids := topologies(t, conn, 2)
	pidA, pidB := int(a.PgConn().PID()), int(b.PgConn().PID())
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	for name, hold := range map[string]func(){
		"a lock":    func() { pgtest.Exec(t, a, `SELECT FROM topology_heads WHERE topology_id = $1 FOR UPDATE`, ids[0]) },
		"a change":  func() { pgtest.Exec(t, a, `UPDATE topology_heads SET seq = seq WHERE topology_id = $1`, ids[0]) },
		"two locks": func() { pgtest.Exec(t, a, `SELECT FROM topology_heads WHERE topology_id = $1 FOR SHARE`, ids[0]) },
		"a savepoint": func() {
			pgtest.Exec(t, a, `SAVEPOINT s`)
			pgtest.Exec(t, a, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, ids[0])
		},
	} {
		pgtest.Exec(t, a, `BEGIN`)
		pgtest.Exec(t, b, `BEGIN`)
		hold()
		if name == "two locks" { // which the row keeps as a multixact
			pgtest.Exec(t, b, `SELECT FROM topology_heads WHERE topology_id = $1 FOR SHARE`, ids[0])
		}
		pgtest.Exec(t, conn, `BEGIN`)
		if got := heldBy(t, conn, ids); len(got) != 1 || got[ids[0]] != pidA && got[ids[0]] != pidB {
			t.Errorf("%s: held are %v, want %s by %d", name, got, ids[0], pidA)
		}
		pgtest.Exec(t, conn, `ROLLBACK`)
		pgtest.Exec(t, a, `ROLLBACK`)
		pgtest.Exec(t, b, `ROLLBACK`)
	}
}

func TestSeveralServersThatRaiseATopologyAtOnceDoItOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, listener := db.Conn(t), db.Conn(t)
	ids := topologies(t, conn, 5)
	for _, id := range ids {
		pgtest.Exec(t, listener, `LISTEN `+pgx.Identifier{"topology." + id}.Sanitize())
	}
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	done := make(chan error)
	for range 4 {
		server := db.Conn(t)
		go func() {
			_, err := server.Exec(t.Context(), `SELECT FROM topology_raise($1::text[]::uuid[])`, ids)
			done <- err
		}()
	}
	for range 4 {
		must(t, <-done)
	}
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies ORDER BY id`)
	heard := map[string]int{}
	for range 2 * len(ids) { // the raise of each and the event of each
		n, err := listener.WaitForNotification(t.Context())
		must(t, err)
		heard[n.Channel]++
	}
	for _, id := range ids {
		if heard["topology."+id] != 2 {
			t.Errorf("%s was told %d times, want of its raise once and of its event", id, heard["topology."+id])
		}
	}
}

func TestARaiseOfTopologiesWaitsForNoTableLock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, person := db.Conn(t), db.Conn(t)
	ids := topologies(t, conn, 1)
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	pgtest.Exec(t, person, `BEGIN`)
	pgtest.Exec(t, person, `LOCK TABLE topology_heads IN EXCLUSIVE MODE`)
	_, err := conn.Exec(t.Context(), `SELECT FROM topology_raise($1::text[]::uuid[])`, ids)
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "55P03" { // lock_not_available
		t.Errorf("a raise against a locked table: %v", err)
	}
}

func TestTheNotificationOfARaiseIsSigned(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, listener := db.Conn(t), db.Conn(t)
	ids := topologies(t, conn, 1)
	pgtest.Exec(t, listener, `LISTEN `+pgx.Identifier{"topology." + ids[0]}.Sanitize())
	pgtest.Exec(t, conn, `SELECT topology_new_epoch()`)
	heldBy(t, conn, ids)
	n, err := listener.WaitForNotification(t.Context())
	must(t, err)
	const signed = `SELECT '~' || topology_mark(s.inner_pad, s.outer_pad, h.topology_id || ':' || h.seq) || ':' || h.seq
		FROM topology_heads h, topology_settings s`
	if want := pgtest.Scan[string](t, conn, signed); n.Payload != want {
		t.Errorf("heard %s, want %s", n.Payload, want)
	}
}

func TestTheSchemaGoesBackToTheVersionBeforeAndUpAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := topologies(t, conn, 2)
	mutate := func() {
		enqueue(t, conn, ids[0], 5, 10)
		pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position % 2 = 0 AND state = 'pending'`)
		pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE position % 4 = 0 AND state = 'applying'`)
	}
	mutate()
	epoch := pgtest.Scan[int64](t, conn, `SELECT topology_new_epoch()`)
	must(t, sql.Down(t.Context(), conn, 4))
	const begins = `SELECT count(*) FROM topology_heads WHERE seq = $1::bigint << 32`
	if n := pgtest.Scan[int](t, conn, begins, epoch); n != len(ids) {
		t.Errorf("%d heads are in the epoch that the version before expects them in, want %d", n, len(ids))
	}
	if warn, err := sql.Check(t.Context(), conn); !errors.Is(err, sql.ErrOlder) {
		t.Errorf("Check says %q, %v", warn, err)
	}
	mutate()
	if e := pgtest.Scan[int64](t, conn, `SELECT topology_new_epoch()`); e != epoch+1 {
		t.Errorf("the version before raised %d to %d", epoch, e)
	}
	pgtest.Exec(t, conn, `SELECT topology_check_epoch(), topology_snapshots(ARRAY(SELECT id FROM topologies), true)`)
	must(t, sql.Up(t.Context(), conn))
	counted(t, conn) // what was enqueued before
	mutate()
	counted(t, conn)
	contiguous(t, conn)
	if warn, err := sql.Check(t.Context(), conn); warn != "" || err != nil {
		t.Errorf("Check says %q, %v", warn, err)
	}
}

func TestUpGetsThroughBetweenTheTransactionsOfOthers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it waits: left out with -short")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	topologies(t, conn, 5)
	must(t, sql.Down(t.Context(), conn, 4))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for _, order := range [][]string{
		{ // each of them locks the tables in another order
			`UPDATE topologies SET reason = $1::int::text WHERE $1 >= 0`,
			`INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies WHERE $1 >= 0`,
		},
		{
			`UPDATE mutations SET state = 'applying' WHERE state = 'pending' AND position % 2 = $1 % 2`,
			`SELECT topology_emit(id, 'x', '{}') FROM topologies WHERE $1 >= 0 ORDER BY id`,
			`UPDATE mutations SET state = 'applied' WHERE state = 'applying' AND position % 3 = $1 % 3`,
		},
	} {
		writer := db.Conn(t)
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				write(t, writer, order, i)
			}
		})
	}
	err := sql.Up(t.Context(), conn)
	stop()
	writers.Wait()
	must(t, err)
	counted(t, conn)
	contiguous(t, conn)
}

// write runs statements in one transaction. A deadlock or a lock's timeout ends it.
func write(t *testing.T, conn *pgx.Conn, statements []string, i int) {
	t.Helper()
	err := pgx.BeginFunc(background, conn, func(tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(background, s, i); err != nil {
				return err
			}
		}
		return nil
	})
	var pgErr *pgconn.PgError
	if err != nil && (!errors.As(err, &pgErr) || pgErr.Code != "40P01") {
		t.Error(err)
	}
}

func TestUpWaitsForWhoHoldsATableAndLetsTheOthersGoOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, person, other := db.Conn(t), db.Conn(t), db.Conn(t)
	topologies(t, conn, 1)
	must(t, sql.Down(t.Context(), conn, 4))
	pgtest.Exec(t, person, `BEGIN`)
	pgtest.Exec(t, person, `INSERT INTO mutations (topology_id, op) SELECT id, 'add_lan' FROM topologies`)
	done := make(chan error)
	go func() { done <- sql.Up(t.Context(), conn) }()
	const waits = `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'mutations'::regclass`
	pgtest.Eventually(t, "the migration to wait", func() bool { return pgtest.Scan[int](t, other, waits) == 1 })
	pgtest.Eventually(t, "the migration to give up", func() bool { return pgtest.Scan[int](t, other, waits) == 0 })
	pgtest.Exec(t, other, `SELECT state FROM mutations`)
	pgtest.Exec(t, person, `COMMIT`)
	must(t, <-done)
	counted(t, other)
}

func TestWhoMayReadStreamsBeforeTheMigrationMayAfterwards(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	must(t, sql.Down(t.Context(), conn, 4))
	pgtest.Exec(t, conn, `GRANT EXECUTE ON FUNCTION topology_check_epoch TO pg_monitor`)
	pgtest.Exec(t, conn, `GRANT EXECUTE ON FUNCTION topology_snapshots TO pg_read_all_data`)
	must(t, sql.Up(t.Context(), conn))
	const may = `
SELECT string_agg(substr(p.proname, 10) || ' ' || (a.grantee::regrole), ', '
                  ORDER BY p.proname, a.grantee::regrole::text)
  FROM pg_proc p, aclexplode(p.proacl) a
 WHERE p.pronamespace = 'public'::regnamespace AND a.grantee::regrole::text IN ('pg_monitor', 'pg_read_all_data')
   AND p.proname NOT IN ('topology_check_epoch', 'topology_snapshots')`
	const want = `document pg_read_all_data, document_json pg_read_all_data, heads_of pg_read_all_data, ` +
		`identify pg_monitor, identity pg_monitor, identity pg_read_all_data, light pg_read_all_data, ` +
		`pages pg_read_all_data, raise pg_read_all_data, raise_epoch pg_read_all_data`
	if got := pgtest.Scan[string](t, conn, may); got != want {
		t.Errorf("they may\n%s, want\n%s", got, want)
	}
}
