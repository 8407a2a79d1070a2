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
)

// backendsCPU is the time that PostgreSQL has worked for the connections of the feeds, the WAL sender included.
func (p *place) backendsCPU(ctx context.Context) (sum time.Duration, err error) {
	const find = `SELECT pid FROM pg_stat_activity WHERE application_name = $1`
	rows, err := p.conn.Query(ctx, find, feedsName)
	if err != nil {
		return 0, fmt.Errorf("find the feeds' connections: %w", err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, fmt.Errorf("find the feeds' connections: %w", err)
	}
	if len(pids) == 0 {
		return 0, errors.New("find the feeds' connections: there are none")
	}
	for _, pid := range pids {
		cpu, err := processCPU(pid)
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
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
