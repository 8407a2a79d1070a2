package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/procfs"
)

// processTime is the CPU time of a process, user's and system's, all threads together: /proc/PID/stat counts ticks of
// 10 ms.
func processTime(pid int) (time.Duration, error) {
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

// anonymous is a process's memory that is no file's, in bytes: RssAnon.
func anonymous(pid int) (uint64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	s, err := p.NewStatus()
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return s.RssAnon, nil
}

// settled reads RssAnon once it no longer falls: the server is asked to collect its garbage twice, if it knows how, and
// what Go's scavenger gives back, which it does over some seconds, is waited for.
func (r *running) settled(ctx context.Context, patience time.Duration) (uint64, error) {
	for range 2 {
		if r.target.GC == "" || r.target.GC == NoGC {
			break
		}
		if err := ask(ctx, r.target.GC); err != nil {
			return 0, fmt.Errorf("ask for a collection: %w", err)
		}
	}
	least, err := anonymous(r.target.PID)
	if err != nil {
		return 0, err
	}
	until, fell := time.Now().Add(patience), time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(until) && time.Since(fell) < patience/5 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		now, err := anonymous(r.target.PID)
		if err != nil {
			return 0, err
		}
		if now < least-least/200 {
			least, fell = now, time.Now()
		}
	}
	return anonymous(r.target.PID)
}

// ask waits for an answer, whatever it says: not for its end, which that of a stream does not have.
func ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}
