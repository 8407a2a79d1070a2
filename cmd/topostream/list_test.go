package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// A listRow is a topology's row in the list.
type listRow struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Status   string `json:"status"`
	Version  int    `json:"version"`
	Seq      uint64 `json:"seq"`
	InFlight int    `json:"in_flight"`
}

// A lister follows the list, and begins anew when its stream ends. It fails its test where a row goes back to an older
// state, or where a frame says what is not so.
type lister struct {
	t     *testing.T
	url   string
	token string

	mu      sync.Mutex
	rows    map[string]listRow
	known   map[string]uint64 // the newest seq of each row, also of those that are gone
	whole   bool              // the last frame of the list has come
	streams int
	frames  int
}

func newLister(t *testing.T, server, query, token string) *lister {
	t.Helper()
	l := &lister{
		t: t, url: server + "/api/v1/topologies/events" + query, token: token, known: map[string]uint64{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			l.follow(ctx)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l
}

func (l *lister) follow(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		l.t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return // the server is away
	}
	defer func() { _ = res.Body.Close() }() // it was read as far as it goes
	l.mu.Lock()
	l.rows, l.whole = map[string]listRow{}, false
	l.streams++
	l.mu.Unlock()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<24)
	event := ""
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := l.take(event, data); err != nil {
				l.t.Errorf("%s: %v: %s", event, err, data)
			}
		}
	}
}

func (l *lister) take(event, data string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames++
	switch event {
	case "list":
		var page struct {
			Data []listRow `json:"data"`
			More bool      `json:"more"`
		}
		if err := json.Unmarshal([]byte(data), &page); err != nil {
			return err
		}
		if l.whole || len(page.Data) > 500 {
			return fmt.Errorf("%d rows, behind the end: %v", len(page.Data), l.whole)
		}
		l.whole = !page.More
		for _, row := range page.Data {
			if err := l.set(row); err != nil {
				return err
			}
		}
		return nil
	case "topology":
		var row listRow
		if err := json.Unmarshal([]byte(data), &row); err != nil {
			return err
		}
		return l.set(row)
	case "removed":
		var gone struct {
			ID string `json:"id"`
		}
		err := json.Unmarshal([]byte(data), &gone)
		if _, ok := l.rows[gone.ID]; !ok && err == nil {
			err = errors.New("there was no row")
		}
		delete(l.rows, gone.ID)
		return err
	case "unavailable":
		return nil
	}
	return errors.New("an event that is none of the list's")
}

func (l *lister) set(row listRow) error {
	if row.Seq < l.known[row.ID] {
		return fmt.Errorf("it went back from %d", l.known[row.ID])
	}
	if row == l.rows[row.ID] {
		return errors.New("nothing has changed")
	}
	l.rows[row.ID], l.known[row.ID] = row, row.Seq
	return nil
}

// awaitTable waits until the rows are those of the table that where shows.
func (l *lister) awaitTable(conn *pgx.Conn, where string) {
	l.t.Helper()
	const table = `SELECT coalesce(jsonb_object_agg(t.id, jsonb_build_object('id', t.id, 'name', t.name,
		'status', t.status, 'version', t.version, 'in_flight', (SELECT count(*) FROM mutations m WHERE m.topology_id = t.id
		AND m.state IN ('pending', 'applying')))), '{}')::text FROM topologies t WHERE `
	want := map[string]listRow{}
	if err := json.Unmarshal([]byte(pgtest.Scan[string](l.t, conn, table+where)), &want); err != nil {
		l.t.Fatal(err)
	}
	pgtest.Eventually(l.t, "the list to be the table's", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		have := maps.Clone(l.rows)
		for id, row := range have {
			row.Seq = 0
			have[id] = row
		}
		return l.whole && maps.Equal(have, want)
	})
}

func TestTheListIsTheTableWhateverHappensAndNoRowGoesBack(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"notify", "wal", "poll"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			if bus == "wal" {
				setBus(t, db.URL, "wal")
			}
			mine := []string{topology(t, conn, "mine"), topology(t, conn, "mine, too")}
			own := make([]stream.TopologyID, 0, len(mine))
			for _, id := range mine {
				own = append(own, stream.TopologyID(id))
			}
			limited := signed(t, auth.Claims{
				Subject: "limited", Role: stream.RoleViewer, TTL: time.Hour, Topologies: own,
			})
			server := serve(t, db.URL, func(c *serveCmd) {
				if bus == "poll" {
					c.Bus = bus
				}
				c.heartbeat = time.Second // finds what is no event
			})
			all := newLister(t, server.url, "", testToken(t))
			active := newLister(t, server.url, "?status=active&status=degraded", testToken(t))
			few := newLister(t, server.url, "", limited)
			same := func() {
				t.Helper()
				all.awaitTable(conn, "true")
				active.awaitTable(conn, "t.status IN ('active', 'degraded')")
				few.awaitTable(conn, "t.name LIKE 'mine%' AND t.id IN ('"+strings.Join(mine, "', '")+"')")
			}
			same()
			rng := rand.New(rand.NewPCG(1, 2))
			for round := range 5 {
				for range 40 {
					changeSomeRow(t, conn, rng, round)
				}
				if round == 2 {
					pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
						WHERE datname = current_database() AND pid <> pg_backend_pid()`)
				}
				same()
			}
			pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying' WHERE status = 'pending'`)
			pgtest.Exec(t, conn, `UPDATE topologies SET name = name || ' renamed' WHERE name NOT LIKE 'mine%'`)
			same()
			pgtest.Exec(t, conn, `DELETE FROM topologies WHERE name NOT LIKE 'mine%'`)
			same()
			before := metric(t, server.url, "topostream_streams")
			if before != 3 {
				t.Errorf("%v streams", before)
			}
		})
	}
}

// By the channel topologies, or by the WAL, before anybody would look by himself.
func TestWhoFollowsTheListIsWoken(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"notify", "wal"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			setBus(t, db.URL, bus)
			id := demo(t, conn)
			server := serve(t, db.URL, func(c *serveCmd) { c.heartbeat = time.Hour }).url
			awaitBus(t, server, bus)
			l := newLister(t, server, "", testToken(t))
			l.awaitTable(conn, "true")
			statements := []string{
				`INSERT INTO topologies (name) SELECT 'one of many ' || i FROM generate_series(1, 3) i`,
				`UPDATE topologies SET status = 'deploying' WHERE name = 'demo'`,
				`UPDATE topologies SET status = 'deploying' WHERE name <> 'demo'`,
				`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies
					WHERE name = 'demo'`,
				`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies`,
			}
			if bus == "notify" { // a new name is no event, which the WAL would tell
				statements = append(statements, `UPDATE topologies SET name = 'renamed' WHERE name = 'demo'`,
					`UPDATE topologies SET name = name || '!' WHERE name <> 'renamed'`)
			}
			for _, statement := range append(statements, `DELETE FROM topologies WHERE id <> '`+id+`'`) {
				pgtest.Exec(t, conn, statement)
				l.awaitTable(conn, "true")
			}
		})
	}
}

// changeSomeRow does one thing to a topology, or to many.
func changeSomeRow(t *testing.T, conn *pgx.Conn, rng *rand.Rand, round int) {
	t.Helper()
	const some = `(SELECT id FROM topologies ORDER BY hashtext(id::text || $1) LIMIT 1)`
	statements := []string{
		`INSERT INTO topologies (name) VALUES ('topology ' || $1)`,
		`INSERT INTO topologies (name) SELECT 'one of many ' || $1 || i FROM generate_series(1, 3) i`,
		`UPDATE topologies SET name = name || '.' WHERE id = ` + some,
		`UPDATE topologies SET status = 'deploying' WHERE status = 'pending' AND id = ` + some,
		`UPDATE topologies SET status = 'active' WHERE status = 'deploying' AND hashtext($1) IS NOT NULL`,
		`UPDATE topologies SET status = 'degraded', reason = $1 WHERE status = 'active' AND id = ` + some,
		`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies WHERE id = ` +
			some,
		`INSERT INTO mutations (topology_id, op, payload) SELECT id, 'add_lan', '{"name": "x"}' FROM topologies
			WHERE hashtext($1) IS NOT NULL`,
		`SELECT topology_emit(id, 'test', to_jsonb($1::text)) FROM topologies WHERE id = ` + some,
		`DELETE FROM topologies WHERE name NOT LIKE 'mine%' AND id = ` + some,
	}
	what := statements[rng.IntN(len(statements))]
	pgtest.Exec(t, conn, what, fmt.Sprintf("%d-%d", round, rng.Uint64()))
}

func TestTheListComesOnTheStreamOfManyTopologies(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := serve(t, db.URL, nil)
	body := fmt.Sprintf(`{"topologies": {%q: null}, "list": true}`, id)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.url+"/api/v1/events",
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken(t))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read as far as wanted
	var seen []string
	lines := bufio.NewScanner(res.Body)
	until := func(events ...string) {
		t.Helper()
		for !slices.ContainsFunc([][]string{seen}, func(s []string) bool {
			for _, e := range events {
				if !slices.Contains(s, e) {
					return false
				}
			}
			return true
		}) {
			if !lines.Scan() {
				t.Fatalf("the stream ended behind %q: %v", seen, lines.Err())
			}
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				seen = append(seen, name)
			}
		}
	}
	until("list", "snapshot")
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	until("topology", "status")
	pgtest.Exec(t, conn, `DELETE FROM topologies`)
	until("removed", "deleted")
}
