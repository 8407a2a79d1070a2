package pgbus

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// NewEpoch begins a new history by hand and gives its epoch. It changes the settings alone: no writer waits.
func NewEpoch(ctx context.Context, conn *pgx.Conn) (epoch int64, err error) {
	const call = `SELECT topology_new_epoch()`
	if err := conn.QueryRow(ctx, call).Scan(&epoch); err != nil {
		return 0, fmt.Errorf("raise the epoch: %w", err)
	}
	return epoch, nil
}

// Repair makes up for what happened while triggers were off: it makes the heads that are missing, counts anew what is
// in flight, and records what was deleted. It gives how many heads were made or corrected. Each topology has a
// transaction of its own, so that no other one waits for it; one that somebody holds for 5 s ends the repair with an
// error, and it can be begun again.
func Repair(ctx context.Context, conn *pgx.Conn) (repaired int64, err error) {
	const (
		all    = `SELECT id::text FROM topologies ORDER BY id`
		repair = `SELECT topology_repair($1::text::uuid)`
		gone   = `SELECT topology_repair_gone()`
	)
	rows, err := conn.Query(ctx, all)
	if err != nil {
		return 0, fmt.Errorf("read the topologies: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("read the topologies: %w", err)
	}
	for _, id := range ids {
		var wrong bool
		if err := conn.QueryRow(ctx, repair, id).Scan(&wrong); err != nil {
			return repaired, fmt.Errorf("repair the head of topology %s: %w", id, err)
		}
		if wrong {
			repaired++
		}
	}
	var deleted int64
	if err := conn.QueryRow(ctx, gone).Scan(&deleted); err != nil {
		return repaired, fmt.Errorf("record what was deleted: %w", err)
	}
	return repaired + deleted, nil
}
