package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"topostream/pgbus/setting"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// An EditRow is how long edits took, from when the POST is sent to when somebody has the mutation.applied, which is the
// third transaction after it. A worker in the server applies them; nothing of the outside world is waited for.
type EditRow struct {
	At       string  `json:"at"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	RatioP50 float64 `json:"p50_ratio_to_raw_listen"` // of the same edits
}

const (
	editsAtListen = "a raw LISTEN"
	editsAtClient = "a client"
	editRate      = 20 // a second
)

// compareEdits posts edits to a server on notify, and has a client and a raw LISTEN note the same mutation.applied.
func (c Config) compareEdits(ctx context.Context, program string, p *place) ([]EditRow, error) {
	// Workers take mutations of topologies that run.
	for _, status := range []string{"deploying", "active"} {
		if _, err := p.conn.Exec(ctx, `UPDATE topologies SET status = $1`, status); err != nil {
			return nil, err
		}
	}
	p50, p99 := map[string][]float64{}, map[string][]float64{}
	for round := range c.Rounds {
		took, err := c.editsUnder(ctx, program, p, round)
		if err != nil {
			return nil, fmt.Errorf("edits: %w", err)
		}
		for at, times := range took {
			slices.Sort(times)
			half, most := times[len(times)/2], times[len(times)*99/100]
			c.Log("round %d of %d, edits, %s: p50 %s, p99 %s", round+1, c.Rounds, at, half.Round(time.Microsecond),
				most.Round(time.Microsecond))
			p50[at], p99[at] = append(p50[at], half.Seconds()*1e3), append(p99[at], most.Seconds()*1e3)
		}
	}
	var rows []EditRow
	for _, at := range []string{editsAtListen, editsAtClient} {
		rows = append(rows, EditRow{at, median(p50[at]), median(p99[at]), ratio(p50[at], p50[editsAtListen])})
	}
	return rows, nil
}

// editsUnder is one round.
func (c Config) editsUnder(ctx context.Context, program string, p *place, round int,
) (took map[string][]time.Duration, err error) {
	if err := p.use(ctx, setting.Notify); err != nil {
		return nil, err
	}
	s, err := startServer(ctx, program, p, setting.Notify, "--mutator")
	if err != nil {
		return nil, err
	}
	clientsCtx, stop := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(clientsCtx)
	defer func() {
		stop()
		err = errors.Join(g.Wait(), err, s.stop())
	}()
	var last int64
	if err := p.conn.QueryRow(ctx, `SELECT coalesce(max(position), 0) FROM mutations`).Scan(&last); err != nil {
		return nil, err
	}
	listener, client := newReceived(), newReceived()
	if err := errors.Join(listener.listen(gctx, g, p, p.topologies), client.follow(gctx, g, s, p.topologies)); err != nil {
		return nil, err
	}
	posted, err := c.post(gctx, s, p, round)
	if err != nil {
		return nil, err
	}
	applied, err := p.applied(gctx, last, posted)
	if err != nil {
		return nil, err
	}
	took = map[string][]time.Duration{}
	for at, who := range map[string]*received{editsAtListen: listener, editsAtClient: client} {
		// each edit has three events, each of which must have come once: mutation.enqueued, applying and applied
		if took[at], err = who.latencies(gctx, applied, 2*len(applied)); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	return took, nil
}

// post sends edits one after the other at a rate, and says when each went off.
func (c Config) post(ctx context.Context, s *server, p *place, round int) (map[string]time.Time, error) {
	posted := map[string]time.Time{}
	tick := time.NewTicker(time.Second / editRate)
	defer tick.Stop()
	for n := range max(1, int(c.Duration.Seconds()*editRate)) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		at := time.Now()
		body := fmt.Sprintf(`{"op":"add_lan","payload":{"name":"lan-%d-%d"}}`, round, n)
		id, err := s.edit(ctx, p.topologies[n%len(p.topologies)], body)
		if err != nil {
			return nil, err
		}
		posted[id] = at
	}
	return posted, nil
}

// edit enqueues a mutation and gives its id.
func (s *server) edit(ctx context.Context, topology, body string) (string, error) {
	url := s.url + "/api/v1/topologies/" + topology + "/mutations"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var answer struct {
		ID     string `json:"mutation_id"`
		Detail string `json:"detail"`
	}
	err = json.NewDecoder(res.Body).Decode(&answer)
	if err == nil && answer.ID == "" {
		err = errors.New(answer.Detail)
	}
	if err != nil {
		return "", fmt.Errorf("POST %s: %s: %w", url, res.Status, err)
	}
	return answer.ID, nil
}

// applied waits until no mutation is in flight, and gives the mutation.applied of each that was posted, with the time
// of its POST.
func (p *place) applied(ctx context.Context, last int64, posted map[string]time.Time) ([]sent, error) {
	const inFlight = `SELECT NOT EXISTS (SELECT FROM mutations WHERE state IN ('pending', 'applying'))`
	err := eventually(ctx, "the edits to be applied", func() (done bool, err error) {
		err = p.conn.QueryRow(ctx, inFlight).Scan(&done)
		return done, err
	})
	if err != nil {
		return nil, err
	}
	const applied = `
SELECT e.topology_id::text, e.seq, m.id::text FROM mutations m JOIN topology_events e
    ON e.topology_id = m.topology_id AND e.type = 'mutation.applied' AND e.payload ->> 'mutation_id' = m.id::text
 WHERE m.position > $1`
	rows, err := p.conn.Query(ctx, applied, last)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e sent, err error) {
		var id string
		err = row.Scan(&e.topology, &e.seq, &id)
		e.at = posted[id]
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	if len(all) != len(posted) {
		return nil, fmt.Errorf("%d edits were posted, %d of them applied", len(posted), len(all))
	}
	return all, nil
}
