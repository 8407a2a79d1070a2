package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
)

// backends are the times that PostgreSQL has worked for the connections of the feeds, the WAL sender included, by
// process.
type backends map[int]time.Duration

// since is what they have worked after before. A connection that a pool has closed meanwhile takes nothing back.
func (b backends) since(before backends) (sum time.Duration) {
	for pid, cpu := range b {
		sum += cpu - before[pid]
	}
	return sum
}

// backendsCPU reads them from /proc.
func (p *place) backendsCPU(ctx context.Context) (backends, error) {
	const find = `
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ANY ($1::text[])`
	rows, err := p.conn.Query(ctx, find, []string{feedsName, postgres.ServerListens})
	if err != nil {
		return nil, fmt.Errorf("find the feeds' connections: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return nil, fmt.Errorf("find the feeds' connections: %w", err)
	}
	if len(pids) == 0 {
		return nil, errors.New("find the feeds' connections: there are none")
	}
	b := backends{}
	for _, pid := range pids {
		cpu, err := processCPU(pid)
		switch {
		case errors.Is(err, os.ErrNotExist): // it has ended since
		case err != nil:
			return nil, err
		default:
			b[pid] = cpu
		}
	}
	return b, nil
}

// processCPU is how long a process of one thread has run, to the nanosecond where /proc/PID/stat counts ticks of 10 ms.
// Source: Documentation/scheduler/sched-stats.rst of Linux.
func processCPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/schedstat")
	if err != nil {
		return 0, fmt.Errorf("CPU time is read from Linux's /proc: %w", err)
	}
	first, _, _ := strings.Cut(string(b), " ")
	ns, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/%d/schedstat: %w", pid, err)
	}
	return time.Duration(ns), nil
}
