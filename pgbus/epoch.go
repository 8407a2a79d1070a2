package pgbus

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/wait"
)

// NewEpoch begins a new history by hand and gives its epoch. It locks every head, and so may be the victim of a deadlock with a writer that touches several: then it tries again.
func NewEpoch(ctx context.Context, conn *pgx.Conn) (epoch int64, err error) {
	const call = `SELECT topology_new_epoch()`
	for try := 0; ; try++ {
		err = conn.QueryRow(ctx, call).Scan(&epoch)
		if !lostConflict(err) || try+1 == conflictTries || !wait.Pause(ctx, wait.Backoff(try, 20*time.Millisecond, 500*time.Millisecond)) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("raise the epoch: %w", err)
	}
	return epoch, nil
}
