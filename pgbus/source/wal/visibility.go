package wal

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// A Visibility says which transactions a snapshot sees: it is a pg_snapshot, with the lower halves of transaction ids,
// as the replication protocol gives them.
type Visibility struct {
	Next    uint32   // the first one that had not begun: xmax
	Running []uint32 // those before it that had not ended
}

// Sees tells whether the transaction had ended when the snapshot was taken.
func (v Visibility) Sees(xid uint32) bool {
	if int32(xid-v.Next) >= 0 { // modulo 2³², as TransactionIdPrecedes in src/backend/access/transam/transam.c
		return false
	}
	return !slices.Contains(v.Running, xid)
}

// parseSnapshot reads the text of a pg_snapshot, such as 10:20:10,14: xmin, xmax, and the transactions that ran.
func parseSnapshot(text string) (v Visibility, err error) {
	_, later, _ := strings.Cut(text, ":")
	next, running, ok := strings.Cut(later, ":")
	if !ok {
		return v, fmt.Errorf("%q is no pg_snapshot", text)
	}
	if v.Next, err = parseNumber(next); err != nil {
		return v, err
	}
	if running != "" {
		v.Running, err = parseNumbers(strings.Split(running, ","))
	}
	return v, err
}

// parseNumber gives the lower half of a transaction's number: of an xid8, or an xid.
func parseNumber(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		err = fmt.Errorf("%q is no transaction's number: %w", text, err)
	}
	return uint32(n), err
}

func parseNumbers(texts []string) (xids []uint32, _ error) {
	for _, text := range texts {
		xid, err := parseNumber(text)
		if err != nil {
			return nil, err
		}
		xids = append(xids, xid)
	}
	return xids, nil
}

// askTimeout bounds one question to the database beside the stream.
const askTimeout = 3 * time.Second

// ReadVisibility takes a snapshot. A standby's does not name what runs; whatever its WAL has told is visible there.
func ReadVisibility(ctx context.Context, pool *pgxpool.Pool) (Visibility, error) {
	const query = `SELECT pg_current_snapshot()::text`
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var text string
	if err := pool.QueryRow(ctx, query).Scan(&text); err != nil {
		return Visibility{}, fmt.Errorf("read the running transactions: %w", err)
	}
	return parseSnapshot(text)
}
