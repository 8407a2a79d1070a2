package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// What a server holds at most when every heavy route is open at once, beside the kernel's socket buffers, is
//
//	48 MiB of program
//	+ --feed-memory: the rings of all feeds, documents that are read or sent, answers (a quarter at most)
//	+ 16 pages that were read last, of 512 KiB
//	+ 4 reads under way, five times the largest event: the wire (a power of two), the text, the bytes, the frame
//	+ half of --feed-memory: answers while they are read
//	+ 60 KiB for each stream
//	+ for each stream that is behind its ring and does not read: one page, of 256 KiB or one event
//
// In a control group of version 2, socket buffers come on top: 256 KiB for each connection that does not read.
const (
	heavyFeeds   = 64 * mib
	heavyEvent   = 1_200_000
	heavyAnswers = heavyFeeds / 2
)

func heavyBound(streams, behind int64) int64 {
	return boundProgram + heavyFeeds + boundRecent + 4*5*heavyEvent + heavyAnswers + streams*boundStream + behind*boundPage
}

// heavyRoutes makes what is large to ask for, and gives the addresses by what they are.
func heavyRoutes(t *testing.T, conn *pgx.Conn) map[string]string {
	t.Helper()
	const (
		graph = `INSERT INTO deckies (topology_id, name, decky_config) SELECT $1::text::uuid, 'decky-' || i,
			jsonb_build_object('blob', repeat('x', 200000)) FROM generate_series(1, 100) i`
		events = `SELECT count(topology_emit($1::text::uuid, 'test', to_jsonb(repeat('x', 16000))))
			FROM generate_series(1, 2000) i`
		listed = `INSERT INTO topologies (name) SELECT 'listed-' || i FROM generate_series(1, 200) i`
		reason = `UPDATE topologies SET reason = repeat('r', 4000) WHERE name LIKE 'listed-%'`
	)
	routes := map[string]string{"list": "/topologies?limit=200"}
	for i := range 3 {
		id := inFlight(t, conn, fmt.Sprint("document-", i), 60, 10, 1_000_000)
		routes[fmt.Sprint("document ", i)] = "/topologies/" + id + "/events"
		id = topology(t, conn, fmt.Sprint("graph-", i))
		pgtest.Exec(t, conn, graph, id)
		routes[fmt.Sprint("document with graph ", i)] = "/topologies/" + id + "/events?graph=1"
		routes[fmt.Sprint("graph ", i)] = "/topologies/" + id
		id = inFlight(t, conn, fmt.Sprint("mutations-", i), 200, 50, 100_000)
		routes[fmt.Sprint("mutations ", i)] = "/topologies/" + id + "/mutations?limit=200"
		id = topology(t, conn, fmt.Sprint("journal-", i))
		pgtest.Exec(t, conn, events, id)
		routes[fmt.Sprint("journal ", i)] = "/topologies/" + id + "/journal?limit=1000"
		routes[fmt.Sprint("resume ", i)] = "/topologies/" + id + "/events?last_event_id=1"
	}
	pgtest.Exec(t, conn, listed)
	pgtest.Exec(t, conn, reason)
	return routes
}

// readHeavy reads an answer: all of it, of a stream its first large event. It gives whether it was served, and an error
// for what is neither that nor a refusal with a time to come back at.
func readHeavy(ctx context.Context, server, path, token string) (served bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/api/v1"+path, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	stream := strings.Contains(path, "/events")
	if stream {
		req.Header.Set("Accept", "text/event-stream")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = res.Body.Close() }() // it is read as far as wanted
	switch {
	case res.StatusCode == http.StatusServiceUnavailable && res.Header.Get("Retry-After") != "":
		return false, nil
	case res.StatusCode != http.StatusOK:
		body, _ := io.ReadAll(res.Body)
		return false, fmt.Errorf("%s %v: %s", res.Status, res.Header, body[:min(len(body), 200)])
	case !stream:
		n, err := io.Copy(io.Discard, res.Body)
		if err == nil && n < 100_000 {
			err = fmt.Errorf("an answer of %d bytes", n)
		}
		return err == nil, err
	}
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(res.Body, head)
	if strings.Contains(string(head[:n]), "event: unavailable\n") && strings.Contains(string(head[:n]), "retry: ") {
		return false, nil
	}
	return err == nil, err
}

// rushHeavy has many clients ask for everything at once, some times, and gives how often each kind of route was served
// and refused, and what else came.
func rushHeavy(
	t *testing.T, server string, routes map[string]string, clients, times int,
) (served, refused map[string]int, other error) {
	t.Helper()
	token := testToken(t)
	served, refused = map[string]int{}, map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for name, path := range routes {
		kind := strings.TrimRight(name, " 0123456789")
		for range clients {
			wg.Go(func() {
				for range times {
					ok, err := readHeavy(ctx, server, path, token)
					mu.Lock()
					switch {
					case err != nil:
						other = errors.Join(other, fmt.Errorf("%s: %w", name, err))
					case ok:
						served[kind]++
					default:
						refused[kind]++
					}
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	}
	wg.Wait()
	return served, refused, other
}

// over tells whether the server has ended.
func (s *boundedServer) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func TestEveryHeavyRouteAtOnceStaysBelowTheSizingFormula(t *testing.T) {
	t.Parallel()
	alone(t)
	const clients, times, stuck = 3, 2, 3
	db := pgtest.New(t)
	conn := db.Conn(t)
	routes := heavyRoutes(t, conn)
	streams := int64((clients + stuck) * len(routes))
	server := startBoundedWith(t, db.URL, heavyBound(streams, stuck*3), heavyFeeds)
	url := "http://" + server.address
	check := func(what string, all bool) {
		t.Helper()
		served, refused, other := rushHeavy(t, url, routes, clients, times)
		if other != nil { // one that was killed for its memory has ended in a moment
			_ = eventually(time.Second, server.over)
		}
		server.stayedBelow(fmt.Sprintf("%s: served %v, refused %v", what, served, refused))
		if other != nil {
			t.Errorf("%s: %v", what, other)
		}
		for kind := range refused {
			if all && served[kind] == 0 {
				t.Errorf("%s: no %s was served", what, kind)
			}
		}
	}
	check("all at once", true)
	if t.Failed() {
		return
	}

	readers := make([]*reader, 0, stuck*len(routes))
	for range stuck {
		for _, name := range slices.Sorted(maps.Keys(routes)) {
			r, err := dial(server.address, "/api/v1"+routes[name], testToken(t), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }() // it is not read
			readers = append(readers, r)
		}
	}
	check(fmt.Sprint("beside ", len(readers), " that do not read"), false)
	all := make([]error, 0, len(readers))
	for _, r := range readers {
		all = append(all, r.Close())
	}
	if err := errors.Join(all...); err != nil {
		t.Error(err)
	}
	// Who did not read has given back what was held for him.
	token := testToken(t)
	for name, path := range routes {
		pgtest.Eventually(t, name+" to be served", func() bool {
			ok, err := readHeavy(t.Context(), url, path, token)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return ok || err != nil
		})
	}
	server.stayedBelow("at the end")
}
