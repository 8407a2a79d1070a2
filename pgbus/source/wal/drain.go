package wal

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// draining ends a stream that is not wanted any more. A trigger reads in its own snapshot whether to NOTIFY, so what
// began under the old setting does not: the stream goes on until no transaction is left that has a number or a
// snapshot of before the new setting was visible. (A transaction at REPEATABLE READ may have an old snapshot and get
// its number much later.)
type draining struct {
	source  *Source
	horizon *uint32 // the first number that had not been given when the new setting was visible; nil: not draining
}

// done tells whether the stream can end.
func (d *draining) done(ctx context.Context) bool {
	if d.source.cfg.Wanted() {
		d.horizon = nil
		return false
	}
	if d.horizon == nil {
		v, err := ReadVisibility(ctx, d.source.cfg.Pool) // the setting was read before: it is visible
		if err == nil {
			d.horizon = &v.Next
		}
		return false
	}
	oldest, err := oldestInUse(ctx, d.source.cfg.Pool)
	if err != nil {
		d.source.cfg.Logger.Debug("cannot ask which transactions are open; asking again", "error", err)
		return false
	}
	for _, xid := range oldest {
		if int32(xid-*d.horizon) < 0 { // modulo 2³², as TransactionIdPrecedes
			return false
		}
	}
	return true
}

// oldestInUse gives the numbers of the open transactions of this database and the oldest that their snapshots may
// need, those of prepared transactions too. (backend_xid and backend_xmin are shown to every role:
// pg_stat_get_activity in src/backend/utils/adt/pgstatfuncs.c.)
func oldestInUse(ctx context.Context, pool *pgxpool.Pool) (xids []uint32, _ error) {
	const query = `
SELECT x::text FROM pg_stat_activity a CROSS JOIN LATERAL (VALUES (a.backend_xid), (a.backend_xmin)) v(x)
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend' AND x IS NOT NULL
 UNION ALL
SELECT transaction::text FROM pg_prepared_xacts WHERE database = current_database()`
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	rows, err := pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the open transactions: %w", err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the open transactions: %w", err)
	}
	for _, text := range texts {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no transaction's number: %w", text, err)
		}
		xids = append(xids, uint32(n))
	}
	return xids, nil
}
