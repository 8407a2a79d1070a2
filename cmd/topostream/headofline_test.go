package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	gosse "github.com/tmaxmax/go-sse"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// What the large topologies of the head-of-line test hold, and how many clients open them again and again.
const (
	manyInFlight  = 200_000
	largeInFlight = 120
	largePatch    = 4_000_000
	holClients    = 20
)

// A document holds at most this much of what is in flight: a prefix by position, which may be empty.
const (
	documentMutations = 1000
	documentPayloads  = 1 << 20
)

// inFlight makes a topology of status pending, whose mutations no worker claims.
func inFlight(t *testing.T, conn *pgx.Conn, name string, total, atOnce, patch int) (id string) {
	t.Helper()
	id = topology(t, conn, name)
	const insert = `INSERT INTO mutations (topology_id, op, payload)
		SELECT $1::text::uuid, 'update_decky',
		       jsonb_build_object('decky', 'web-' || i, 'patch', jsonb_build_object('blob', repeat('x', $4::int)))
		  FROM generate_series($2::int, $3::int) i`
	for first := 1; first <= total; first += atOnce {
		pgtest.Exec(t, conn, insert, id, first, min(first+atOnce-1, total), patch)
	}
	return id
}

// latencies measures how long each event takes from before it is written until it has come to a stream: n events or
// more, in two seconds or more, so that much else can happen meanwhile. Where they take long it ends with fewer.
func latencies(t *testing.T, conn *pgx.Conn, id string, live *reader, n int) (all []time.Duration) {
	t.Helper()
	for start := time.Now(); len(all) < n && time.Since(start) < 8*time.Second || time.Since(start) < 2*time.Second; {
		begun := time.Now()
		seq := emit(t, conn, id)
		if err := live.until(seq); err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Since(begun))
	}
	return all
}

func percentile(all []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// openAgain opens the streams of topologies again and again, all clients at once and each time when no feed is left,
// until ctx ends. Each client reads up to the end of its first event. It gives how many got a snapshot, and what else
// came.
func openAgain(ctx context.Context, t *testing.T, server string, ids []string) (opened int, other map[string]int) {
	t.Helper()
	address, token := strings.TrimPrefix(server, "http://"), testToken(t)
	other = map[string]int{}
	for ctx.Err() == nil {
		var (
			mu sync.Mutex
			wg sync.WaitGroup
		)
		for i := range holClients {
			path := "/api/v1/topologies/" + ids[i%len(ids)] + "/events"
			if i/len(ids)%2 == 1 {
				path += "?graph=1"
			}
			wg.Go(func() {
				event, err := firstWhole(ctx, address, path, token)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case ctx.Err() != nil:
				case err != nil:
					other[err.Error()]++
				case event != "snapshot":
					other[event]++
				default:
					opened++
				}
			})
		}
		wg.Wait()
		pgtest.Eventually(t, "the feeds to go", func() bool {
			return ctx.Err() != nil || metric(t, server, "topostream_feeds") == 1
		})
	}
	return opened, other
}

// firstWhole opens a stream and gives the name of its first event when all of that has come.
func firstWhole(ctx context.Context, address, path, token string) (event string, err error) {
	r, err := dial(address, path, token, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // it is read as far as wanted
	defer context.AfterFunc(ctx, func() { _ = r.Close() })()
	for {
		line, err := r.lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return "", err
		case event == "" && bytes.HasPrefix(line, []byte("event: ")):
			event = strings.TrimSpace(string(line[len("event: "):]))
		case event != "" && len(line) == 1:
			return event, nil
		}
	}
}

// A document is the data of a snapshot.
type document struct {
	Seq      uint64
	InFlight []struct {
		Position int64
		Payload  json.RawMessage
	} `json:"in_flight"`
	InFlightTotal *int `json:"in_flight_total"`
}

// openDocument opens a stream and reads its snapshot.
func openDocument(t *testing.T, server, id string) (d document, ok bool) {
	t.Helper()
	r, err := dial(strings.TrimPrefix(server, "http://"), "/api/v1/topologies/"+id+"/events", testToken(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // it is read as far as wanted
	for line := ""; line != "\r\n"; {
		if line, err = r.lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	for e, err := range gosse.Read(io.Reader(r.lines), &gosse.ReadConfig{MaxEventSize: 1 << 30}) {
		if err != nil {
			t.Error(err)
			return d, false
		}
		if e.Type != "snapshot" {
			t.Errorf("the topology cannot be opened: %s %s", e.Type, e.Data)
			return d, false
		}
		if err := json.Unmarshal([]byte(e.Data), &d); err != nil {
			t.Error(err)
			return d, false
		}
		return d, true
	}
	t.Error("a stream without an event")
	return d, false
}

// opensBounded fails unless a topology with total mutations in flight opens, with a bounded document that says so.
func opensBounded(t *testing.T, server, id, what string, positions []int64, total int) {
	t.Helper()
	d, ok := openDocument(t, server, id)
	if !ok {
		return
	}
	payloads := 0
	for i, m := range d.InFlight {
		payloads += len(m.Payload)
		if i < len(positions) && m.Position != positions[i] {
			t.Errorf("%s: in_flight[%d] is at position %d, want %d: no prefix", what, i, m.Position, positions[i])
			break
		}
	}
	if len(d.InFlight) > documentMutations || payloads > documentPayloads {
		t.Errorf("%s: the document holds %d mutations with %d bytes of payloads", what, len(d.InFlight), payloads)
	}
	switch {
	case d.InFlightTotal == nil:
		t.Errorf("%s: the document has no in_flight_total", what)
	case *d.InFlightTotal != total:
		t.Errorf("%s: in_flight_total is %d, want %d", what, *d.InFlightTotal, total)
	}
}

// Nothing that one topology holds may make another one wait: neither on the LISTEN connection, nor in the poll loop,
// nor in the readers of the journal.
func TestTopologiesThatHoldMuchAndAreOpenedAgainAndAgainMakeNoOtherWait(t *testing.T) { //nolint:tparallel // as below
	t.Parallel()
	alone(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	small := topology(t, conn, "small")
	many := inFlight(t, conn, "many", manyInFlight, 20_000, 1)
	large := inFlight(t, conn, "large", largeInFlight, 1, largePatch)
	pgtest.Exec(t, conn, `ANALYZE`)
	const first = `SELECT array_agg(position ORDER BY position) FROM
		(SELECT position FROM mutations WHERE topology_id = $1::text::uuid ORDER BY position LIMIT 1000) m`
	positions := map[string][]int64{}
	for _, id := range []string{many, large} {
		positions[id] = pgtest.Scan[[]int64](t, conn, first, id)
	}
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} { //nolint:paralleltest // it is about time
		t.Run(bus, func(t *testing.T) {
			setBus(t, db.URL, bus)
			server := serve(t, db.URL, func(c *serveCmd) {
				c.MaxStreamsPerUser, c.linger = 0, time.Millisecond
				c.WriteTimeout = time.Minute
				if bus == setting.Poll {
					c.Bus = bus
				}
			})
			awaitBus(t, server.url, bus)
			live, err := dial(strings.TrimPrefix(server.url, "http://"), "/api/v1/topologies/"+small+"/events", testToken(t), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = live.Close() }() // it is read as far as wanted
			writer := db.Conn(t)
			if err := live.until(emit(t, writer, small)); err != nil {
				t.Fatal(err)
			}
			rounds, samples := 3, 100
			if bus == setting.Poll { // an event takes up to the poll's interval
				samples = 15
			}
			idle, busy := make([]time.Duration, 0, rounds*samples), make([]time.Duration, 0, rounds*samples)
			opened, other := 0, map[string]int{}
			for range rounds { // by turns, so that another load on the machine is in both
				idle = append(idle, latencies(t, writer, small, live, samples)...)
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					n, others := openAgain(ctx, t, server.url, []string{many, large})
					opened += n
					for what, times := range others {
						other[what] += times
					}
				})
				busy = append(busy, latencies(t, writer, small, live, samples)...)
				stop()
				wg.Wait()
			}
			bound := max(2*percentile(idle, 99), 50*time.Millisecond)
			t.Logf(
				"idle p50 %v, p99 %v; while %d clients opened large topologies %d times: p50 %v, p99 %v, max %v, bound %v; else %v",
				percentile(idle, 50),
				percentile(idle, 99),
				holClients,
				opened,
				percentile(busy, 50),
				percentile(busy, 99),
				slices.Max(busy),
				bound,
				other,
			)
			if p99 := percentile(busy, 99); p99 > bound {
				t.Errorf("an unrelated topology's events took %v (p99), idle %v", p99, percentile(idle, 99))
			}
			if opened == 0 || len(other) > 0 {
				t.Errorf("the large topologies were opened %d times; else they got %v", opened, other)
			}
			opensBounded(t, server.url, many, fmt.Sprint(manyInFlight, " mutations"), positions[many], manyInFlight)
			opensBounded(t, server.url, large, fmt.Sprint(largeInFlight, " large mutations"), positions[large], largeInFlight)
		})
	}
}
