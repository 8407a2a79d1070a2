package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// received notes when each event came to where it was going.
type received struct {
	mu    sync.Mutex
	got   map[eventName]time.Time
	twice int
}

type eventName struct {
	topology string
	seq      uint64
}

func newReceived() *received { return &received{got: map[eventName]time.Time{}} }

func (r *received) take(topology string, seq uint64) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	name := eventName{topology, seq}
	if _, ok := r.got[name]; ok {
		r.twice++
	}
	r.got[name] = now
}

func (r *received) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// latencies waits until all events have come, each once, beside before others that came earlier, and gives the time of
// each from its COMMIT on.
func (r *received) latencies(ctx context.Context, events []sent, before int) ([]time.Duration, error) {
	want := before + len(events)
	if err := eventually(ctx, "the rest of the events",
		func() (bool, error) { return r.count() >= want, nil }); err != nil {
		return nil, fmt.Errorf("%d of %d events came: %w", r.count()-before, len(events), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.got) != want || r.twice > 0 {
		return nil, fmt.Errorf("%d events were committed, %d came, %d of them twice", want, len(r.got), r.twice)
	}
	out := make([]time.Duration, len(events))
	for i, s := range events {
		at, ok := r.got[eventName{s.topology, s.seq}]
		if !ok {
			return nil, fmt.Errorf("event %d of %s did not come", s.seq, s.topology)
		}
		out[i] = at.Sub(s.at)
	}
	return out, nil
}

// follow has a client on a socket of its own for each topology, and returns when all have their snapshots. The clients
// run in g until ctx ends.
func (r *received) follow(ctx context.Context, g *errgroup.Group, s *server, topologies []string) error {
	snapshots := make(chan struct{}, len(topologies))
	for _, id := range topologies {
		g.Go(func() error {
			if err := r.read(ctx, s, id, snapshots); err != nil && ctx.Err() == nil {
				return fmt.Errorf("the client of %s: %w", id, err)
			}
			return nil
		})
	}
	for range topologies {
		select {
		case <-snapshots:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// read reads one stream.
func (r *received) read(ctx context.Context, s *server, id string, snapshots chan<- struct{}) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/topologies/"+id+"/events", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	var last, seq uint64
	snapshot := false
	lines := bufio.NewReaderSize(res.Body, 16<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if name, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			snapshot = string(name) == "snapshot"
		}
		if digits, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			if seq, err = strconv.ParseUint(string(digits), 10, 64); err != nil {
				return err
			}
		}
		switch {
		case len(line) > 0 || seq == 0:
			continue
		case snapshot:
			snapshots <- struct{}{}
		case seq != last+1:
			return fmt.Errorf("event %d came after %d", seq, last)
		default:
			r.take(id, seq)
		}
		last, seq = seq, 0
	}
}

// listen LISTENs to the topologies by a bare connection: the shortest way that a NOTIFY has. It runs in g until ctx
// ends.
func (r *received) listen(ctx context.Context, g *errgroup.Group, p *place, topologies []string) error {
	conn, err := pgx.Connect(ctx, p.url)
	if err != nil {
		return err
	}
	channels := each(topologies, func(id string) string { return "topology." + id })
	if _, err := conn.Exec(ctx, listenTo(channels)); err != nil {
		return errors.Join(err, conn.Close(ctx))
	}
	g.Go(func() error {
		defer conn.Close(context.WithoutCancel(ctx))
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("LISTEN: %w", err)
			}
			// ~<key>:<seq> <json>
			_, rest, _ := strings.Cut(n.Payload, ":")
			digits, _, _ := strings.Cut(rest, " ")
			seq, err := strconv.ParseUint(digits, 10, 64)
			if err != nil {
				return fmt.Errorf("LISTEN: %q: %w", n.Payload, err)
			}
			r.take(strings.TrimPrefix(n.Channel, "topology."), seq)
		}
	})
	return nil
}
