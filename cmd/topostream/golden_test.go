package main

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

var updateGolden = flag.Bool("update", false, "write testdata/golden anew")

const goldenDir = "../../testdata/golden"

// golden compares what came with a file of testdata/golden, or with -update writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join(goldenDir, file)
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what came (-update writes it anew):\n%s\nwant\n%s", path, got, want)
	}
}

// A goldenStage is a server on a database of its own.
type goldenStage struct {
	t   *testing.T
	db  *pgtest.DB
	url string
	ids []string // of topologies, in the order in which they were made
}

func newGoldenStage(t *testing.T, worker bool) *goldenStage {
	t.Helper()
	db := pgtest.New(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.Mutator, c.Keepalive = worker, time.Minute })
	awaitListen(t, server.url, 0)
	return &goldenStage{t: t, db: db, url: server.url}
}

// topology makes one, whose status is its first event, and activates it where that is asked for: two more.
func (s *goldenStage) topology(active bool) (id string) {
	s.t.Helper()
	conn := s.db.Conn(s.t)
	id = topology(s.t, conn, fmt.Sprint("golden-", len(s.ids)+1))
	for _, status := range []string{"deploying", "active"} {
		if active {
			pgtest.Exec(s.t, conn, `UPDATE topologies SET status = $2 WHERE id = $1::text::uuid`, id, status)
		}
	}
	s.ids = append(s.ids, id)
	return id
}

// do runs a statement of which $1 is a topology.
func (s *goldenStage) do(id, statement string) { s.t.Helper(); s.db.Exec(s.t, statement, id) }

const (
	goldenEmit   = `SELECT topology_emit($1::text::uuid, 'decky.service_added', '{"decky_name": "web-1"}')`
	goldenLAN    = `INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'lan-1', '10.0.0.0/24')`
	goldenDecky  = `INSERT INTO deckies (topology_id, name) VALUES ($1::text::uuid, 'web-1')`
	goldenDelete = `DELETE FROM topologies WHERE id = $1::text::uuid`
)

// A goldenStream is read as bytes. What is not read when the test ends is thrown away.
type goldenStream struct {
	t    *testing.T
	body *bufio.Reader
}

// open asks for a stream; body is empty for a GET.
func (s *goldenStage) open(path, body string) *goldenStream {
	s.t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken(s.t))
	transport := &http.Transport{}
	res, err := contracted(transport).RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = res.Body.Close(); transport.CloseIdleConnections() })
	if res.StatusCode != http.StatusOK {
		s.t.Fatal(res.Status)
	}
	return &goldenStream{s.t, bufio.NewReader(res.Body)}
}

// until reads frames up to one that holds last, or to the stream's end where that is empty.
func (g *goldenStream) until(last string) (frames []string) {
	g.t.Helper()
	var frame strings.Builder
	for {
		line, err := g.body.ReadString('\n')
		frame.WriteString(line)
		switch {
		case err == io.EOF && last == "" && line == "":
			return frames
		case err != nil:
			g.t.Fatalf("%v before %q: %q", err, last, frames)
		case line == "\n":
			frames = append(frames, frame.String())
			if frame.Reset(); last != "" && strings.Contains(frames[len(frames)-1], last) {
				return frames
			}
		}
	}
}

var (
	goldenUUID  = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	goldenTime  = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`)
	goldenRetry = regexp.MustCompile(`(?m)^retry: (2\d{3}|3\d{3}|4000)$`)
)

// normalised gives frames with the ids in the order of their first use, topologies first, and with one time. What has
// another form stays, and is seen.
func (s *goldenStage) normalised(frames []string) string {
	names := map[string]string{}
	name := func(id string) string {
		if names[id] == "" {
			names[id] = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(names)+1)
		}
		return names[id]
	}
	for _, id := range s.ids {
		name(id)
	}
	text := goldenUUID.ReplaceAllStringFunc(strings.Join(frames, ""), name)
	text = goldenTime.ReplaceAllString(text, "2026-11-23T19:30:00.123456Z")
	return goldenRetry.ReplaceAllString(text, "retry: 3000")
}

// byTopology puts the frames of each topology together: how they are mixed is nobody's promise.
func (s *goldenStage) byTopology(frames []string) []string {
	whose := func(frame string) int {
		return slices.IndexFunc(s.ids, func(id string) bool { return strings.Contains(frame, id) })
	}
	slices.SortStableFunc(frames, func(a, b string) int { return cmp.Compare(whose(a), whose(b)) })
	return frames
}

// goldenStreams give the frames of each file of testdata/golden.
func goldenStreams() map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"snapshot": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			id := s.topology(true)
			s.do(id, goldenLAN)
			s.do(id, goldenDecky)
			s.do(id, `INSERT INTO mutations (topology_id, op, payload)
				VALUES ($1::text::uuid, 'remove_decky', '{"name": "web-1"}')`)
			return s.normalised(s.open("/topologies/"+id+"/events?graph=1", "").until("event: snapshot"))
		},
		"resume": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			id := s.topology(true)
			s.do(id, goldenEmit)
			return s.normalised(s.open("/topologies/"+id+"/events?last_event_id=1", "").until("id: 4\n"))
		},
		"notify": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			id := s.topology(false)
			g := s.open("/topologies/"+id+"/events?last_event_id=1", "")
			frames := g.until("retry: ")
			for _, text := range []string{`{"type":"decky.seen","payload":{"by":"hand"}}`, `{"type":"deleted"}`, "any\ntext"} {
				s.db.Exec(t, `SELECT pg_notify('topology.' || $1::text, $2::text)`, id, text)
			}
			return s.normalised(append(frames, g.until(`any\ntext`)...))
		},
		"graph": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			id := s.topology(false)
			s.do(id, goldenLAN)
			s.do(id, goldenDecky)
			s.do(id, `INSERT INTO edges (topology_id, decky_uuid, lan_id, ip) SELECT l.topology_id, d.uuid, l.id, '10.0.0.2'
				FROM lans l, deckies d WHERE l.topology_id = $1::text::uuid`)
			s.do(id, `UPDATE deckies SET state = 'running', x = 1.5 WHERE topology_id = $1::text::uuid`)
			s.do(id, `DELETE FROM deckies WHERE topology_id = $1::text::uuid`) // with its edge
			return s.normalised(s.open("/topologies/"+id+"/events?last_event_id=1", "").until("id: 6\n"))
		},
		"changeset": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, true)
			id := s.topology(true)
			s.do(id, `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'changeset', '{"ops": [
				{"op": "add_lan", "payload": {"name": "lan-1"}},
				{"op": "add_decky", "payload": {"name": "web-1", "lan": "lan-1", "services": ["ssh"]}}]}')`)
			return s.normalised(s.open("/topologies/"+id+"/events?last_event_id=3", "").until("id: 6\n"))
		},
		"deleted": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			id := s.topology(false)
			g := s.open("/topologies/"+id+"/events", "")
			frames := g.until("event: snapshot")
			s.do(id, goldenEmit)
			s.do(id, goldenDelete)
			return s.normalised(append(frames, g.until("")...))
		},
		"many": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			a, b := s.topology(false), s.topology(true)
			s.ids = append(s.ids, "00000000-0000-4000-8000-0000000000ff") // which the server does not know
			g := s.open("/events", fmt.Sprintf(`{"topologies":{%q:null,%q:null,%q:9}}`, a, b, s.ids[2]))
			var frames []string
			for strings.Count(strings.Join(frames, ""), "event: snapshot") < 2 {
				frames = append(frames, g.until("event: snapshot")...)
			}
			return s.endsOf(frames, g)
		},
		"list": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			a, b := s.topology(false), s.topology(true)
			g := s.open("/topologies/events", "")
			frames := g.until("event: list")
			s.do(b, `INSERT INTO mutations (topology_id, op, payload)
				VALUES ($1::text::uuid, 'remove_decky', '{"name": "web-1"}')`)
			frames = append(frames, g.until(`"in_flight":1`)...)
			s.do(b, `UPDATE topologies SET status = 'degraded', reason = 'by hand' WHERE id = $1::text::uuid`)
			frames = append(frames, g.until("by hand")...)
			s.do(a, goldenDelete)
			return s.normalised(append(frames, g.until("event: removed")...))
		},
		"vector": func(t *testing.T) string {
			t.Helper()
			s := newGoldenStage(t, false)
			a, b := s.topology(false), s.topology(true)
			g := s.open("/events", fmt.Sprintf(`{"topologies":{%q:1,%q:2}}`, a, b))
			return s.endsOf(g.until("id: 3\n"), g)
		},
	}
}

// endsOf gives a stream of two topologies to its end: each gets another event and is deleted.
func (s *goldenStage) endsOf(frames []string, g *goldenStream) string {
	s.t.Helper()
	for _, id := range s.ids[:2] {
		s.do(id, goldenEmit)
		s.do(id, goldenDelete)
	}
	return s.normalised(s.byTopology(append(frames, g.until("")...)))
}

func TestTheServersBytesAreTheGoldenStreams(t *testing.T) {
	t.Parallel()
	for name, frames := range goldenStreams() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name+".sse", frames(t))
		})
	}
}

func TestTailPrintsTheGoldenStreams(t *testing.T) {
	t.Parallel()
	const id = "00000000-0000-4000-8000-00000000000"
	for name, c := range map[string]struct {
		topologies []string
		since      string
	}{
		"snapshot": {[]string{id + "1"}, ""}, "resume": {[]string{id + "1"}, "1"}, "notify": {[]string{id + "1"}, "1"},
		"graph": {[]string{id + "1"}, "1"}, "changeset": {[]string{id + "1"}, "3"}, "deleted": {[]string{id + "1"}, ""},
		"many": {[]string{id + "1", id + "2", id + "3"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := os.ReadFile(filepath.Join(goldenDir, name+".sse"))
			if err != nil {
				t.Fatal(err)
			}
			f := startTail(t, tailCmd{Topology: c.topologies, Since: c.since, URL: once(t, body), Token: "x"})
			<-f.ended
			if over := strings.Contains(string(body), "event: deleted\nid: "); over != (f.result == nil) ||
				!over && !strings.Contains(f.result.Error(), "the server knows no such topology") {
				t.Error(f.result)
			}
			golden(t, name+".tail", f.out.String())
		})
	}
}

// once is a server that gives one stream, and then knows nothing of it.
func once(t *testing.T, body []byte) string {
	t.Helper()
	first := make(chan struct{}, 1)
	first <- struct{}{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-first:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write(body) // who does not read it fails the test
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}
