package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/metric"
)

// A Census counts what servers hold while nobody asks anything of them, by name: goroutines, feeds, channels and
// streams of each server, and the database's backends of servers and worker; and how often each server saw the promise
// broken since it was started.
type Census map[string]float64

// counted are the metrics that a census reads of each server.
func counted() []string {
	return []string{
		"go_goroutines", "topostream_streams", "topostream_feeds", "topostream_channels",
		violations,
	}
}

// violations counts those that a server notices itself. Versions before 0.2.0 do not have it.
const violations = "topostream_promise_violations_total"

// TakeCensus counts now.
func (s *Stage) TakeCensus(ctx context.Context) (Census, error) {
	const backends = `
SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name LIKE 'topostream%' GROUP BY 1`
	c := Census{}
	for _, server := range s.Servers {
		for _, name := range counted() {
			v, err := server.Metric(ctx, name)
			if err != nil && (name != violations || !errors.Is(err, metric.ErrNone)) {
				return nil, err
			}
			c[server.Name+" "+name] = v
		}
	}
	conn, err := pgx.Connect(ctx, s.DatabaseURL())
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, backends)
	if err != nil {
		return nil, err
	}
	var (
		name string
		n    float64
	)
	if _, err := pgx.ForEachRow(rows, []any{&name, &n},
		func() error { c["backends "+name] = n; return nil }); err != nil {
		return nil, fmt.Errorf("count backends: %w", err)
	}
	return c, nil
}

// Baseline is a census to compare later ones with. Pools open connections when they need them and keep them for half an
// hour, so of them it counts the most that there may be.
func (s *Stage) Baseline(ctx context.Context) (Census, error) {
	c := Census{}
	for range baselineCounts { // goroutines come and go by one or two
		now, err := s.TakeCensus(ctx)
		if err != nil {
			return nil, fmt.Errorf("count what there is before: %w", err)
		}
		for what, n := range now {
			c[what] = max(c[what], n)
		}
		select {
		case <-time.After(baselineEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// pgx's own choice, the number of CPUs, where that is more
	c["backends topostream"] = float64(len(s.Servers) * max(serverPool, runtime.NumCPU()))
	// the worker may be about to open its LISTEN connection
	c["backends topostream mutator"], c["backends topostream mutator listen"] = workerPool, 1
	return c, nil
}

const (
	baselineCounts = 6
	baselineEvery  = 200 * time.Millisecond

	serverPool = 10
	workerPool = 10 // with --concurrency 4: two for each topology, and two
)

// More gives what is more than before, a line each.
func (c Census) More(before Census) []string {
	var more []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		if n, was := c[what], before[what]; n > was {
			more = append(more, fmt.Sprintf("%s: %.0f, before %.0f", what, n, was))
		}
	}
	return more
}

// AwaitCensus waits until nothing is more than before; when ctx ends first, the error says what is.
func (s *Stage) AwaitCensus(ctx context.Context, before Census) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	last := errors.New("nothing could be counted")
	for {
		now, err := s.TakeCensus(ctx)
		switch more := now.More(before); {
		case err != nil && ctx.Err() == nil:
			last = err
		case err != nil: // the last count says more
		case len(more) == 0:
			return nil
		default:
			last = fmt.Errorf("more than before: %s", strings.Join(more, "; "))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return last
		}
	}
}
