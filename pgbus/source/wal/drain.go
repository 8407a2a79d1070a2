package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// draining ends a stream that is not wanted any more. A trigger reads in its own snapshot whether to NOTIFY, so what
// began under the old setting does not, and the stream goes on until nothing of that time is left, in this order
// (proved by testdata/model/switch.pml):
//
//  1. The new setting is visible. horizon is the first number that had not been given then.
//  2. No snapshot from before the horizon is in use. (A transaction at REPEATABLE READ may have an old snapshot, and
//     get its number much later.)
//  3. Every transaction that had a number after that has ended, prepared ones too.
type draining struct {
	source  *Source
	horizon *uint32 // of step 1; nil: not begun
	last    *uint32 // the newest number after step 2; nil: not reached
}

// done tells whether the stream can end. It is called about once a second.
func (d *draining) done(ctx context.Context) bool {
	if d.source.cfg.Wanted() {
		d.horizon, d.last = nil, nil
		return false
	}
	done, err := d.step(ctx)
	if err != nil {
		d.source.cfg.Logger.Debug("cannot ask which transactions are open; asking again", "error", err)
	}
	return done
}

func (d *draining) step(ctx context.Context) (done bool, _ error) {
	pool := d.source.cfg.Pool
	v, err := ReadVisibility(ctx, pool)
	if err != nil {
		return done, err
	}
	if d.horizon == nil { // the setting was read before, so it is visible
		d.horizon = &v.Next
	}
	if d.last == nil {
		oldest, err := oldestSnapshots(ctx, pool)
		if err != nil {
			return done, err
		}
		for _, xmin := range oldest {
			if precedes(xmin, *d.horizon) {
				return false, nil
			}
		}
		last, err := beginAndEnd(ctx, pool)
		if isReadOnly(err) { // a standby: what it has replayed has ended
			return true, nil
		}
		if err != nil {
			return done, err
		}
		d.last = &last
		return false, nil
	}
	for _, xid := range v.Running {
		if precedes(xid, *d.last) {
			return false, nil
		}
	}
	return precedes(*d.last, v.Next), nil
}

// precedes compares numbers modulo 2³², as TransactionIdPrecedes in src/backend/access/transam/transam.c.
func precedes(a, b uint32) bool { return int32(a-b) < 0 }

// oldestSnapshots gives, for each snapshot that is in use in this database, the oldest transaction that it may see as
// running. (backend_xmin is shown to every role: pg_stat_get_activity in src/backend/utils/adt/pgstatfuncs.c.)
func oldestSnapshots(ctx context.Context, pool *pgxpool.Pool) (xmins []uint32, _ error) {
	const query = `
SELECT backend_xmin::text FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL
   AND pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE active_pid IS NOT NULL)`
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	rows, err := pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the snapshots in use: %w", err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the snapshots in use: %w", err)
	}
	return parseNumbers(texts)
}

// beginAndEnd begins and ends a transaction and gives its number: from then on pg_snapshots list every running
// transaction that is older.
func beginAndEnd(ctx context.Context, pool *pgxpool.Pool) (xid uint32, _ error) {
	const query = `SELECT pg_current_xact_id()::text`
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var text string
	if err := pool.QueryRow(ctx, query).Scan(&text); err != nil {
		return xid, fmt.Errorf("take a transaction's number: %w", err)
	}
	return parseNumber(text)
}

// isReadOnly tells whether a database gives no numbers because it is a standby. (pg_current_xact_id is refused for
// nothing else: src/backend/utils/adt/xid8funcs.c.)
func isReadOnly(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "25006" // read_only_sql_transaction
}
