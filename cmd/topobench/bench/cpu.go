package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"topostream/pgbus/postgres"
)

// backends are the CPU times of PostgreSQL's processes, WAL senders among them, by pid.
type backends map[int]time.Duration

// since is what they have worked after before. A connection that a pool has closed meanwhile takes nothing back.
func (b backends) since(before backends) (sum time.Duration) {
	for pid, cpu := range b {
		sum += cpu - before[pid]
	}
	return sum
}

// backendsCPU reads those of the feeds' connections from /proc.
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
		cpu, err := backendCPU(pid)
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

// backendCPU is the CPU time of a process of one thread, as PostgreSQL's are, in nanoseconds, where /proc/PID/stat
// counts ticks of 10 ms. Source: Documentation/scheduler/sched-stats.rst of Linux.
func backendCPU(pid int) (time.Duration, error) {
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

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, err
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), nil
}

// cpuOf reads a server's CPU time, 0 where its pid is not known (0), and our own.
func cpuOf(pid int) (server, own time.Duration, err error) {
	if pid != 0 {
		if server, err = processCPU(pid); err != nil {
			return 0, 0, err
		}
	}
	own, err = ownCPU()
	return server, own, err
}

// processCPU is the CPU time of all threads of a process, user and system, in ticks of 10 ms: /proc/PID/stat.
func processCPU(pid int) (time.Duration, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	s, err := p.Stat()
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(s.CPUTime() * float64(time.Second)), nil
}
