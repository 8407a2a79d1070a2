package wal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MeasureLag sets the metrics of how far the stream is behind, and of how much WAL PostgreSQL keeps for its slot.
func (s *Source) MeasureLag(ctx context.Context) error {
	const query = `
SELECT coalesce(greatest(pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn), 0), 0)::float8,
       coalesce(greatest(pg_wal_lsn_diff(w.lsn, s.restart_lsn), 0), 0)::float8
  FROM pg_replication_slots s,
       (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) w
 WHERE s.active_pid = $1::bigint`
	var lag, retained float64
	if pid := s.pid.Load(); pid != 0 {
		err := s.cfg.Pool.QueryRow(ctx, query, int64(pid)).Scan(&lag, &retained)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) { // else the stream has just ended
			return fmt.Errorf("ask how far the stream of the WAL is behind: %w", err)
		}
	}
	s.cfg.Stats.WALLag.Set(lag)
	s.cfg.Stats.WALRetained.Set(retained)
	return nil
}
