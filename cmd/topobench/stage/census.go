package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Census counts what servers hold while nobody asks anything of them, by name: goroutines, feeds, channels and streams of each server, and the
// database's backends of servers and worker.
type Census map[string]float64

// counted are the metrics that a census reads of each server.
func counted() []string {
	return []string{"go_goroutines", "topostream_streams", "topostream_feeds", "topostream_channels"}
}

// TakeCensus counts now.
func (s *Stage) TakeCensus(ctx context.Context) (Census, error) {
	const backends = `SELECT application_name, count(*) FROM pg_stat_activity WHERE application_name LIKE 'topostream%' GROUP BY 1`
	c := Census{}
	for _, server := range s.Servers {
		for _, metric := range counted() {
			v, err := server.Metric(ctx, metric)
			if err != nil {
				return nil, err
			}
			c[server.Name+" "+metric] = v
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
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { c["backends "+name] = n; return nil }); err != nil {
		return nil, fmt.Errorf("count backends: %w", err)
	}
	return c, nil
}

// Baseline is a census of before: with the pools of all servers full, and with as many backends of the worker as its documentation allows.
func (s *Stage) Baseline(ctx context.Context) (Census, error) {
	if err := s.warm(ctx); err != nil {
		return nil, fmt.Errorf("warm the servers up: %w", err)
	}
	c, err := s.TakeCensus(ctx)
	if err != nil {
		return nil, fmt.Errorf("count what there is before: %w", err)
	}
	c["backends topostream mutator"] = workerBackends
	return c, nil
}

// workerBackends is what a worker opens at most beside its LISTEN connection, with --concurrency 4: two for each topology, and two.
const workerBackends = 10

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

// poolFills is how many requests to a server wait at once in warm: more than its pool has connections.
const poolFills = 32

// warm has every server open all connections of its pool, which it opens when it needs them and keeps for half an hour: what is more afterwards is a
// leak.
func (s *Stage) warm(ctx context.Context) error {
	const hold = `BEGIN; LOCK TABLE topologies IN ACCESS EXCLUSIVE MODE`
	conn, err := pgx.Connect(ctx, s.DatabaseURL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, hold); err != nil {
		return err
	}
	token, err := s.Token()
	if err != nil {
		return err
	}
	var requests sync.WaitGroup
	defer requests.Wait()
	for _, server := range s.Servers {
		for range poolFills {
			requests.Go(func() { s.ask(ctx, server, token) })
		}
	}
	// Until no more come: pools open connections one after the other.
	const waiting = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'topostream'`
	for last, same := int64(-1), 0; same < 10; {
		var n int64
		if err := conn.QueryRow(ctx, waiting).Scan(&n); err != nil {
			return err
		}
		if n == last {
			same++
		} else {
			last, same = n, 0
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	_, err = conn.Exec(ctx, `ROLLBACK`)
	return err
}

func (s *Stage) ask(ctx context.Context, server *Server, token string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server.Backend.Addr()+"/api/v1/topologies", nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if res, err := s.client.Do(req); err == nil {
		_ = res.Body.Close() // its answer is of no interest
	}
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
