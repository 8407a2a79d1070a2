package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/api/contract"
	"topostream/stream/auth"
)

// A contractStage has a server in each state that an answer needs.
type contractStage struct {
	t    *testing.T
	db   *pgtest.DB
	conn *pgx.Conn
	n    int // topologies so far

	plain     *testServer
	elsewhere *testServer // its metrics are
	slow      *testServer // with slow clients: a body has no time
	limited   *testServer // one request a minute
	broken    *testServer // the tables of its database have other columns
	away      *testServer // its database cannot be reached

	inBroken string // a topology
	ticket   string // of away
}

const contractCookie = "session"

func newContractStage(t *testing.T) *contractStage {
	t.Helper()
	s := &contractStage{t: t, db: pgtest.New(t)}
	s.conn = s.db.Conn(t)
	s.plain = serve(t, s.db.URL, func(c *serveCmd) { c.AuthCookie = contractCookie })
	s.elsewhere = serve(t, s.db.URL, func(c *serveCmd) { c.MetricsAddr = pgtest.FreeAddress(t) })
	s.slow = serve(t, s.db.URL, func(c *serveCmd) { c.bodyTime = 100 * time.Millisecond })
	s.limited = serve(t, s.db.URL, func(c *serveCmd) { c.RateLimit = 1 })
	broken, away := pgtest.New(t), pgtest.New(t)
	s.broken, s.away = serve(t, broken.URL, nil), serve(t, away.URL, nil)
	for _, server := range []*testServer{s.plain, s.broken, s.away} {
		pgtest.Eventually(t, "a server that is ready", func() bool {
			status, _, _ := get(t, server.url+"/readyz")
			return status == http.StatusOK
		})
	}
	s.inBroken = topology(t, broken.Conn(t), "broken")
	s.ticket = newOperator(t, s.away.url, "ada", stream.RoleAdmin).ticket()
	for _, statement := range []string{
		`ALTER TABLE topologies RENAME COLUMN id TO other`, `ALTER TABLE topology_events RENAME COLUMN seq TO other`,
		`ALTER TABLE sse_tickets RENAME COLUMN subject TO other`,
	} {
		broken.Exec(t, statement)
	}
	name := pgtest.Scan[string](t, away.Conn(t), `SELECT current_database()`)
	s.db.Exec(t, `ALTER DATABASE "`+name+`" ALLOW_CONNECTIONS false`)
	s.db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name)
	pgtest.Eventually(t, "a server that is not ready", func() bool {
		status, _, _ := get(t, s.away.url+"/readyz")
		return status == http.StatusServiceUnavailable
	})
	return s
}

// topology makes one and gives its id.
func (s *contractStage) topology(active bool) (id string) {
	s.n++
	id = topology(s.t, s.conn, fmt.Sprint("contract-", s.n))
	if active {
		pgtest.Exec(s.t, s.conn, `UPDATE topologies SET status = 'deploying' WHERE id = $1::text::uuid`, id)
		pgtest.Exec(s.t, s.conn, `UPDATE topologies SET status = 'active' WHERE id = $1::text::uuid`, id)
	}
	return id
}

// An asking is one request.
type asking struct {
	server  *testServer
	path    string // with {id} and {file}
	query   string
	id      string
	file    string
	token   string // Bearer; empty: none
	header  http.Header
	body    string
	endless bool // the body is
}

const (
	unknownTopology = "00000000-0000-4000-8000-000000000000"
	manyStreams     = "/api/v1/events"
)

func (s *contractStage) token(subject string, role stream.Role, topologies ...string) string {
	return newOperator(s.t, "", subject, role, topologies...).token
}

// asking gives the request that an operation answers with a status; false: nobody knows one.
func (s *contractStage) asking(o *contract.Operation, status int) (asking, bool) {
	mutations := strings.HasSuffix(o.Path, "/mutations")
	a := asking{
		server: s.plain, path: o.Path, id: s.topology(mutations), file: "console.js", header: http.Header{},
		token: s.token("ada", stream.RoleAdmin),
	}
	for _, example := range o.Examples {
		if example.Status == 0 {
			a.body = example.Body
		}
	}
	streams := strings.HasSuffix(o.Path, "/events")
	if o.Path == manyStreams {
		a.query, a.body = "topology="+a.id, ""
		if o.Method == http.MethodPost {
			a.query, a.body = "", `{"topologies":{"`+a.id+`":null},"list":true}`
		}
	}
	switch status {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
	case http.StatusPartialContent, http.StatusFound, http.StatusNotModified, http.StatusPreconditionFailed,
		http.StatusRequestedRangeNotSatisfiable:
		return s.ofFile(o, a, status), true
	case http.StatusBadRequest:
		a.query = map[string]string{
			"/readyz": "exclude=everything", "/api/v1/topologies/{id}/journal": "after=x",
			"/api/v1/topologies/events": "status=x", manyStreams: "topology=x",
		}[o.Path]
		a.query = cmp.Or(a.query, "limit=x")
		a.body = `{"op":`
	case http.StatusUnauthorized:
		a.token = ""
	case http.StatusForbidden:
		return s.forbidden(o, a), true
	case http.StatusNotFound:
		return s.missing(o, a), true
	case http.StatusRequestTimeout:
		a.server, a.endless = s.slow, true
	case http.StatusConflict:
		return s.conflicting(o, a), true
	case http.StatusRequestEntityTooLarge:
		a.body = `"` + strings.Repeat("x", 1<<20) + `"`
	case http.StatusUnsupportedMediaType:
		a.header.Set("Content-Type", "text/plain")
		a.body = cmp.Or(a.body, "{}")
	case http.StatusTooManyRequests:
		a.server = s.limited
		a.token = s.token(o.Method+o.Path, stream.RoleAdmin)
		status, _, _ := get(s.t, s.limited.url+"/api/v1/topologies", "Authorization", "Bearer "+a.token)
		if status != http.StatusOK {
			s.t.Errorf("the first request in a minute gets %d", status)
		}
	case http.StatusRequestHeaderFieldsTooLarge:
		a.header.Set("X-Large", strings.Repeat("x", 40<<10))
	case http.StatusInternalServerError:
		a.server, a.id = s.broken, s.inBroken
		return a, o.Protected && !streams
	case http.StatusServiceUnavailable:
		a.server = s.away
		if streams && o.Path != "/api/v1/topologies/{id}/events" && o.Method == http.MethodHead {
			a.token, a.query = "", "ticket="+s.ticket // else nothing is asked
		}
	default:
		return a, false
	}
	return a, true
}

// ofFile gives a request for a file with a condition, or for a part of it.
func (s *contractStage) ofFile(o *contract.Operation, a asking, status int) asking {
	switch status {
	case http.StatusPartialContent:
		a.header.Set("Range", "bytes=0-9")
	case http.StatusFound:
		a.file = "index.html"
	case http.StatusNotModified:
		_, header, _ := get(s.t, s.plain.url+strings.Replace(o.Path, "{file}", a.file, 1))
		a.header.Set("If-None-Match", header.Get("ETag"))
	case http.StatusPreconditionFailed:
		a.header.Set("If-Match", `"another"`)
	case http.StatusRequestedRangeNotSatisfiable:
		a.header.Set("Range", "bytes=999999999-")
	}
	return a
}

// missing gives a request for what is not there.
func (s *contractStage) missing(o *contract.Operation, a asking) asking {
	a.id, a.file = unknownTopology, "nothing.js"
	if o.Path == "/metrics" {
		a.server = s.elsewhere
	}
	if o.Path == manyStreams {
		a.query, a.body = "topology="+a.id, `{"topologies":{"`+a.id+`":null}}`
	}
	return a
}

// conflicting gives a request that the state of its topology does not allow.
func (s *contractStage) conflicting(o *contract.Operation, a asking) asking {
	switch o.Method + " " + o.Path {
	case "POST /api/v1/topologies":
		a.body = fmt.Sprintf(`{"name":"contract-%d"}`, s.n)
	case "PATCH /api/v1/topologies/{id}":
		a.body = `{"status":"active"}`
	default:
		a.id = s.topology(false)
	}
	return a
}

// forbidden gives a request that a token does not allow.
func (s *contractStage) forbidden(o *contract.Operation, a asking) asking {
	switch {
	case strings.Contains(o.Path, "{id}"), o.Path == manyStreams:
		a.token = s.token("ada", stream.RoleAdmin, unknownTopology)
	case o.Method == http.MethodPost && o.Path == "/api/v1/topologies":
		a.token = s.token("vic", stream.RoleViewer)
	default: // what every token may, but not from a page of somebody else
		a.header.Set("Cookie", contractCookie+"="+a.token)
		a.header.Set("Sec-Fetch-Site", "cross-site")
		a.token = ""
	}
	return a
}

// ask gives the status of the answer, the beginning of which is read.
func (s *contractStage) ask(method string, a asking) (int, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	var body io.Reader = strings.NewReader(a.body)
	if a.endless {
		reader, writer := io.Pipe()
		defer func() { _ = writer.Close() }() // a pipe's gives no error
		body = reader
	}
	if method == http.MethodGet || method == http.MethodHead || method == http.MethodDelete {
		body = http.NoBody
	}
	path := strings.NewReplacer("{id}", a.id, "{file}", a.file).Replace(a.path)
	req, err := http.NewRequestWithContext(ctx, method, a.server.url+path+"?"+a.query, body)
	if err != nil {
		return 0, err
	}
	req.Header = a.header
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	if a.body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := contracted(&http.Transport{DisableKeepAlives: true, DisableCompression: true}).RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }() // enough of it is read
	if res.Header.Get("Content-Type") != "text/event-stream" {
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	}
	if method == http.MethodHead {
		return res.StatusCode, nil
	}
	return res.StatusCode, firstFrame(res.Body)
}

// firstFrame reads a stream as far as the end of its first frame with data.
func firstFrame(stream io.Reader) error {
	var text strings.Builder
	part := make([]byte, 4<<10)
	for {
		n, err := stream.Read(part)
		text.Write(part[:n])
		if _, data, ok := strings.Cut(text.String(), "data:"); ok && strings.Contains(data, "\n\n") {
			return nil
		}
		if err != nil {
			return errors.Join(err, fmt.Errorf("after %q", text.String()))
		}
	}
}

// elsewhereProvoked says which test gets a status that no request of this one does.
func elsewhereProvoked(o *contract.Operation, status int) string {
	if status == http.StatusInternalServerError && (!o.Protected || strings.HasSuffix(o.Path, "/events")) {
		return "it takes a panic, as in TestAPanicIsA500AsDescribed of stream/api; what a stream cannot read it tries again"
	}
	return ""
}

func TestEveryStatusThatIsDescribedIsAnswered(t *testing.T) {
	t.Parallel()
	long(t)
	c, err := described()
	if err != nil {
		t.Fatal(err)
	}
	s := newContractStage(t)
	provoked, reasons := 0, map[string]int{}
	for _, o := range c.Operations() {
		for _, status := range o.Statuses {
			if why := elsewhereProvoked(o, status); why != "" {
				reasons[why]++
				continue
			}
			a, ok := s.asking(o, status)
			if !ok {
				t.Errorf("%s %s: %d is described, and no request is known that gets it", o.Method, o.Path, status)
				continue
			}
			if got, err := s.ask(o.Method, a); err != nil || got != status {
				t.Errorf("%s %s: %d, %v; want %d", o.Method, o.Path, got, err, status)
			}
			provoked++
		}
	}
	t.Logf("%d answers of %d operations, and not provoked: %v", provoked, len(c.Operations()), reasons)
}

func TestEveryExampleOfABodyIsTaken(t *testing.T) {
	t.Parallel()
	c, err := described()
	if err != nil {
		t.Fatal(err)
	}
	s := &contractStage{t: t, db: pgtest.New(t)}
	s.conn, s.plain = s.db.Conn(t), serve(t, s.db.URL, nil)
	n := 0
	for _, o := range c.Operations() {
		for _, example := range o.Examples {
			if example.Status != 0 {
				continue // of an answer: the description's own tests have it
			}
			n++
			a, _ := s.asking(o, http.StatusOK)
			a.body = strings.ReplaceAll(example.Body, "00000000-0000-4000-8000-000000000001", a.id)
			a.query = ""
			got, err := s.ask(o.Method, a)
			if err != nil || got >= http.StatusMultipleChoices {
				t.Errorf("%s %s: %s: %d, %v", o.Method, o.Path, a.body, got, err)
			}
		}
	}
	if n < 4 {
		t.Errorf("there are %d examples", n)
	}
}

func TestWhatEndsAStreamIsAsDescribed(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) { c.MaxStreamsPerUser = 1 })
	for _, path := range []string{"/topologies/" + id + "/events", "/topologies/events", "/events?topology=" + id} {
		claims := auth.Claims{Subject: path, Role: stream.RoleViewer, TTL: 3 * time.Second}
		token, err := auth.Sign([]byte(testSecret), claims, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		header := []string{"Authorization", "Bearer " + token}
		first := open(t, server.url+"/api/v1"+path, header...)
		if text, err := io.ReadAll(open(t, server.url+"/api/v1"+path, header...).Body); err != nil ||
			!strings.Contains(string(text), "event: unavailable\n") {
			t.Errorf("%s: a second stream of a user gets %v %s", path, err, text)
		}
		text, err := io.ReadAll(first.Body)
		if err != nil || !strings.Contains(string(text), "event: token_expired\n") {
			t.Errorf("%s: a stream at the end of its token gets %v %s", path, err, text)
		}
	}
}

func TestEveryFileOfTheConsoleIsAsDescribed(t *testing.T) {
	t.Parallel()
	server := serve(t, pgtest.New(t).URL, nil)
	files, err := os.ReadDir("../../stream/console/dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		status, _, body := get(t, server.url+"/console/"+file.Name())
		if status != http.StatusOK || body == "" { // index.html leads to the page
			t.Errorf("%s: %d with %d bytes", file.Name(), status, len(body))
		}
	}
}
