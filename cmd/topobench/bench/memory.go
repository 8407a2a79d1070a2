package bench

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/procfs"
)

// anonymous is a process's memory that is no file's, in bytes: RssAnon of /proc/PID/status.
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

// lowest reads RssAnon, in bytes, once it no longer falls: the server is asked twice to collect its garbage, if it can
// be asked, and Go's scavenger is given the seconds that it takes to give memory back, patience at most.
func (r *running) lowest(ctx context.Context, patience time.Duration) (uint64, error) {
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

// ask waits until an answer begins, whatever it says: a stream has no end that could be waited for.
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
