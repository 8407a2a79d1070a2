package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// An operator calls the REST API.
type operator struct {
	t     *testing.T
	base  string // up to /api/v1
	token string
}

// newOperator makes one with a token of a role, limited to topologies if some are given.
func newOperator(t *testing.T, server string, subject string, role stream.Role, topologies ...string) *operator {
	t.Helper()
	claims := auth.Claims{Subject: subject, Role: role, TTL: time.Hour}
	for _, id := range topologies {
		claims.Topologies = append(claims.Topologies, stream.TopologyID(id))
	}
	return &operator{t, server + "/api/v1", signed(t, claims)}
}

// A reply is an answer that has been read.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends one request; header is pairs.
func (o *operator) do(method, path, body string, header ...string) reply {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), method, o.base+path, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
		if header[i] == "Content-Type" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	read, err := io.ReadAll(res.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(read)}
}

// into decodes a body strictly, so that a field which the interface does not name is an error.
func (r reply) into(t *testing.T, want int, v any) reply {
	t.Helper()
	if r.status != want {
		t.Fatalf("%d %s, want %d", r.status, r.body, want)
	}
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return r
}

// refused fails unless the reply is a problem with that status whose detail holds want.
func (r reply) refused(t *testing.T, what string, status int, want string) {
	t.Helper()
	var p struct {
		Title, Detail string
		Status        int
	}
	err := json.Unmarshal([]byte(r.body), &p)
	if err != nil || r.status != status || p.Status != status || p.Title != http.StatusText(status) ||
		!strings.Contains(p.Detail, want) ||
		r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %d %s, want %d with %q", what, r.status, r.body, status, want)
	}
}

// create makes an active topology.
func (o *operator) create(body string) (id string) {
	o.t.Helper()
	var made stream.Topology
	o.do("POST", "/topologies", body).into(o.t, http.StatusCreated, &made)
	for _, status := range []string{"deploying", "active"} {
		o.do("PATCH", "/topologies/"+string(made.ID), `{"status":"`+status+`"}`).into(o.t, http.StatusOK, &made)
	}
	return string(made.ID)
}

type enqueued struct {
	ID    string `json:"mutation_id"`
	State string `json:"state"`
}

func TestATopologyLivesOverRESTFromItsMakingToItsDeletion(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := startServer(t, db.URL)
	admin, viewer := newOperator(t, server, "ada", stream.RoleAdmin), newOperator(t, server, "vic", stream.RoleViewer)

	var made stream.Topology
	r := admin.do(
		"POST",
		"/topologies/",
		`{"name":"demo","lans":[{"name":"dmz","is_dmz":true},{"name":"office","subnet":"10.0.0.0/24"}],`+
			`"deckies":[{"name":"web-1","lan":"dmz","services":["http"],"x":1.5}]}`,
	)
	r.into(t, http.StatusCreated, &made)
	if made.Name != "demo" || made.Status != "pending" || made.Reason != nil || made.Version != 0 ||
		r.header.Get("Location") != "/api/v1/topologies/"+string(made.ID) {
		t.Errorf("%+v %v", made, r.header)
	}
	for name, at := range map[string]string{
		"created_at": made.CreatedAt, "updated_at": made.UpdatedAt, "status_changed_at": made.StatusChangedAt,
	} {
		if _, err := time.Parse("2006-01-02T15:04:05.000000Z", at); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := "/topologies/" + strings.ToUpper(string(made.ID))

	watched := open(t, server+"/api/v1"+path+"/events")
	admin.do("PATCH", path, `{"status":"deploying"}`).into(t, http.StatusOK, &made)
	admin.do("PATCH", path+"/", `{"status":"active","reason":"all is well"}`).into(t, http.StatusOK, &made)
	if made.Status != "active" || *made.Reason != "all is well" {
		t.Errorf("%+v", made)
	}
	var queued enqueued
	admin.do("POST", path+"/mutations/", `{"op":"add_lan","payload":{"name":"lan-9"},"expected_version":0}`).into(t,
		http.StatusAccepted, &queued)
	if queued.State != "pending" {
		t.Errorf("%+v", queued)
	}

	var graph struct {
		Topology stream.Topology
		Seq      uint64
		Lans     []struct {
			ID, Name, Subnet string
			TopologyID       string `json:"topology_id"`
			IsDMZ            bool   `json:"is_dmz"`
			X, Y             *float64
		}
		Deckies []struct {
			UUID, Name, IP, State string
			TopologyID            string `json:"topology_id"`
			Services              []string
			Config                map[string]any `json:"decky_config"`
			X, Y                  *float64
		}
		Edges []struct {
			ID, IP     string
			TopologyID string `json:"topology_id"`
			DeckyUUID  string `json:"decky_uuid"`
			LanID      string `json:"lan_id"`
			IsBridge   bool   `json:"is_bridge"`
			ForwardsL3 bool   `json:"forwards_l3"`
		}
	}
	viewer.do("GET", path, "").into(t, http.StatusOK, &graph)
	if graph.Seq != 8 || graph.Topology.Status != "active" || len(graph.Lans) != 2 || len(graph.Deckies) != 1 ||
		len(graph.Edges) != 1 ||
		graph.Edges[0].LanID != graph.Lans[0].ID ||
		*graph.Deckies[0].X != 1.5 {
		t.Errorf("%+v", graph)
	}

	var rows []mutationRow
	viewer.do("GET", path+"/mutations", "").into(t, http.StatusOK, &rows)
	if len(rows) != 1 || rows[0].ID != queued.ID || rows[0].TopologyID != string(made.ID) || rows[0].Op != "add_lan" ||
		rows[0].State != "pending" ||
		rows[0].AppliedAt != nil ||
		rows[0].Reason != nil ||
		rows[0].Payload["name"] != "lan-9" {
		t.Errorf("%+v", rows)
	}

	if r := admin.do("DELETE", path, ""); r.status != http.StatusNoContent || r.body != "" {
		t.Errorf("%d %s", r.status, r.body)
	}
	if got := events(t, watched.Body, ""); !slices.Equal(got,
		[]string{"snapshot 5", "status 6", "status 7", "mutation.enqueued 8", "deleted 9"}) {
		t.Errorf("a stream got %v", got)
	}
	for _, request := range []string{"GET ", "GET /mutations", "POST /mutations", "PATCH ", "DELETE "} {
		method, rest, _ := strings.Cut(request, " ")
		body := map[string]string{
			"POST": `{"op":"remove_lan","payload":{"name":"x"}}`, "PATCH": `{"status":"active"}`,
		}[method]
		admin.do(method, path+rest, body).refused(t, request, http.StatusNotFound, "no such topology")
	}
}

type mutationRow struct {
	ID, Op, State string
	Position      int64
	RequestedBy   *string `json:"requested_by"`
	TopologyID    string  `json:"topology_id"`
	Payload       map[string]any
	RequestedAt   string  `json:"requested_at"`
	AppliedAt     *string `json:"applied_at"`
	Reason        *string
}

func TestTopologiesAreListedByNameInPages(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := startServer(t, db.URL)
	viewer := newOperator(t, server, "vic", stream.RoleViewer)
	var page struct {
		Total, Limit, Offset int
		Data                 []stream.Topology
	}
	if r := viewer.do("GET", "/topologies", "").into(t, http.StatusOK, &page); !strings.Contains(r.body, `"data":[]`) {
		t.Errorf("without topologies: %s", r.body)
	}
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 't' || to_char(i, '000') FROM generate_series(1, 60) i`)
	for query, want := range map[string][4]int{
		"": {50, 0, 50, 1}, "?limit=7&offset=55": {7, 55, 5, 56}, "?limit=200": {200, 0, 60, 1},
		"?offset=60": {50, 60, 0, 0}, "?offset=9007199254740992": {50, 1 << 53, 0, 0},
	} {
		viewer.do("GET", "/topologies"+query, "").into(t, http.StatusOK, &page)
		if got := [4]int{
			page.Limit,
			page.Offset,
			len(page.Data),
			want[3],
		}; page.Total != 60 || got != want ||
			len(page.Data) > 0 && page.Data[0].Name != fmt.Sprintf("t %03d", want[3]) {
			t.Errorf("%q: %d %v %v", query, page.Total, got, page.Data)
		}
		if !slices.IsSortedFunc(page.Data, func(a, b stream.Topology) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%q is not sorted", query)
		}
	}
	id := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 't 042'`)
	for _, limited := range []*operator{
		newOperator(t, server, "x", stream.RoleViewer, id), newOperator(t, server, "x", stream.RoleAdmin, id),
	} {
		limited.do("GET", "/topologies", "").into(t, http.StatusOK, &page)
		if page.Total != 1 || len(page.Data) != 1 || string(page.Data[0].ID) != id {
			t.Errorf("a limited token lists %+v", page)
		}
	}
}

func TestMutationsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload)
		SELECT $1, 'remove_lan', jsonb_build_object('name', i) FROM generate_series(1, 250) i`, id)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position IN (3, 5)`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'failed', reason = 'no' WHERE position = 3`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE position = 5`)
	viewer := newOperator(t, startServer(t, db.URL), "vic", stream.RoleViewer)
	for query, want := range map[string][]int{
		"": {250, 249, 200}, "?limit=2": {250, 249, 2}, "?state=failed": {3, 0, 1}, "?state=applied&limit=1": {5, 0, 1},
		"?state=applying": {0, 0, 0}, "?state=pending": {250, 249, 200},
	} {
		var rows []mutationRow
		r := viewer.do("GET", "/topologies/"+id+"/mutations"+query, "").into(t, http.StatusOK, &rows)
		if len(rows) != want[2] || len(rows) == 0 && strings.TrimSpace(r.body) != "[]" {
			t.Errorf("%q: %d rows", query, len(rows))
		}
		for i := range min(2, len(rows)) {
			if n := rows[i].Payload["name"]; n != float64(want[i]) {
				t.Errorf("%q: row %d is %v, want %d", query, i, n, want[i])
			}
		}
		if query == "?state=failed" && (*rows[0].Reason != "no" || rows[0].AppliedAt != nil) ||
			query == "?state=applied&limit=1" && rows[0].AppliedAt == nil {
			t.Errorf("%q: %s", query, r.body)
		}
	}
}

func TestEveryRouteChecks401Then403Then404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	mine, other := demo(t, conn), topology(t, conn, "other")
	const unknown = "00000000-0000-4000-8000-000000000000"
	server := startServer(t, db.URL)
	type route struct {
		method, path, body string
		admin              bool
	}
	routes := []route{
		{"GET", "/topologies/%s", "", false},
		{"PATCH", "/topologies/%s", `{"status":"deploying"}`, true},
		{"DELETE", "/topologies/%s", "", true},
		{"GET", "/topologies/%s/mutations", "", false},
		{"POST", "/topologies/%s/mutations", `{"op":"remove_lan","payload":{"name":"x"}}`, true},
		{"GET", "/topologies/%s/journal", "", false},
		{"GET", "/topologies/%s/events", "", false},
	}
	expired := signed(t, auth.Claims{Role: stream.RoleAdmin, TTL: -time.Hour})
	foreign, err := auth.Sign([]byte(strings.Repeat("x", 32)), auth.Claims{Role: stream.RoleAdmin, TTL: time.Hour},
		time.Now())
	if err != nil {
		t.Fatal(err)
	}
	nobody := newOperator(t, server, "x", stream.RoleAdmin)
	viewer, admin := newOperator(t, server, "x", stream.RoleViewer), newOperator(t, server, "x", stream.RoleAdmin)
	limited := newOperator(t, server, "x", stream.RoleAdmin, mine)
	for _, r := range routes {
		for _, id := range []string{mine, unknown, "no-id"} {
			path := fmt.Sprintf(r.path, id)
			for _, token := range []string{"", "x", expired, foreign} {
				nobody.token = token
				got := nobody.do(r.method, path, r.body)
				got.refused(t, r.method+path, http.StatusUnauthorized, "valid token")
				if got.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s: no WWW-Authenticate", r.method, path)
				}
			}
			if r.admin {
				viewer.do(r.method, path, r.body).refused(t, "a viewer: "+r.method+path, http.StatusForbidden, "role admin")
			}
		}
		for _, id := range []string{other, unknown, "no-id"} {
			limited.do(r.method, fmt.Sprintf(r.path, id), r.body).refused(t, "limited: "+r.method+r.path+id,
				http.StatusForbidden, "does not cover this topology")
		}
		for _, id := range []string{unknown, "no-id", "{" + unknown[1:], strings.ReplaceAll(unknown, "-", "")} {
			admin.do(r.method, fmt.Sprintf(r.path, id), r.body).refused(t, r.method+r.path+id, http.StatusNotFound,
				"no such topology")
		}
	}
	nobody.token = ""
	nobody.do("GET", "/topologies", "").refused(t, "list", http.StatusUnauthorized, "valid token")
	nobody.do("POST", "/topologies", "not read").refused(t, "create", http.StatusUnauthorized, "valid token")
	viewer.do("POST", "/topologies", "not read").refused(t, "create", http.StatusForbidden, "role admin")
	limited.do("POST", "/topologies", "not read").refused(t, "create", http.StatusForbidden, "limited to some topologies")
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topologies WHERE status = 'pending'`); n != 2 {
		t.Errorf("%d topologies are as they were", n)
	}
}

func TestEveryMalformedRequestIsA400ThatNamesTheFieldAndStoresNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	admin := newOperator(t, startServer(t, db.URL), "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	const good = `{"op":"remove_lan","payload":{"name":"x"}}`
	before := pgtest.Scan[string](t, conn, `SELECT string_agg(e::text, '|' ORDER BY seq) FROM topology_events e`)
	for _, c := range []struct {
		what, body string
		header     []string
		status     int
		want       string
	}{
		{"POST /topologies/" + id + "/mutations", ``, nil, 400, "body: is not one JSON value: unexpected end"},
		{"POST /topologies/" + id + "/mutations", good + good, nil, 400, "after top-level value"},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"explode","payload":{}}`, nil, 400,
			`op: "explode" is no op: use one of add_decky, add_lan`,
		},
		{"POST /topologies/" + id + "/mutations", `{"op":"add_lan"}`, nil, 400, "payload: is missing: give a JSON object"},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"add_lan","payload":{"name":"a","colour":1}}`, nil, 400,
			"payload.colour: is no field of this object: remove it",
		},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"add_lan","payload":{"name":1}}`, nil, 400,
			"payload.name: give a string",
		},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"add_lan","payload":{"name":"a"},"op":"add_lan"}`, nil, 400,
			"op: is given twice: remove one",
		},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"add_lan","payload":{"name":"\u0000"}}`, nil, 400,
			"payload.name: holds the character",
		},
		{
			"POST /topologies/" + id + "/mutations", `{"op":"add_lan","payload":{"name":"a"},"expected_version":"0"}`, nil, 400,
			"expected_version: give a whole number",
		},
		{
			"POST /topologies/" + id + "/mutations",
			`{"op":"update_decky","payload":{"decky":"a","patch":{"a":"` + strings.Repeat("x", 1<<20) + `"}}}`, nil, 413,
			"body: is larger than 1048576 bytes (1 MiB): make it smaller",
		},
		{
			"POST /topologies/" + id + "/mutations",
			`{"op":"update_decky","payload":{"decky":"a","patch":{"a":[1e300` + strings.Repeat(",1e300", 1e5) + `]}}}`, nil,
			400, "payload: is too large for an event (16 MiB): give less",
		},
		{
			"POST /topologies/" + id + "/mutations", good, []string{"Content-Type", "text/plain"}, 415,
			`Content-Type: "text/plain" is not understood here: send application/json`,
		},
		{"POST /topologies/" + id + "/mutations", good, []string{"Content-Type", "a b"}, 415, "send application/json"},
		{
			"POST /topologies/" + id + "/mutations", good, []string{"Idempotency-Key", ""}, 400,
			"Idempotency-Key: give one key of 1 to 200 printable ASCII characters",
		},
		{
			"POST /topologies/" + id + "/mutations", good, []string{"Idempotency-Key", strings.Repeat("k", 201)}, 400,
			"Idempotency-Key: give one key",
		},
		{
			"POST /topologies/" + id + "/mutations", good, []string{"Idempotency-Key", "schlüssel"}, 400,
			"Idempotency-Key: give one key",
		},
		{
			"POST /topologies/" + id + "/mutations", good, []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}, 400,
			"Idempotency-Key: give one key",
		},
		{"POST /topologies", `{}`, nil, 400, "name: is missing: give a string"},
		{
			"POST /topologies", `{"name":"x","lans":[{"name":"a","subnet":"10.0.0.0/8"},{"name":"b","subnet":"10.1.0.0/16"}]}`,
			nil, 400, "lans[1]: subnet 10.1.0.0/16 overlaps 10.0.0.0/8",
		},
		{
			"POST /topologies", `{"name":"x","lans":[{"name":"a","is_dmz":true},{"name":"b","is_dmz":true}]}`, nil, 400,
			"lans[1]: ",
		},
		{
			"POST /topologies", `{"name":"x","lans":[{"name":"a"}],"deckies":[{"name":"d","lan":"b"}]}`, nil, 400,
			"deckies[0].lan: none of lans has that name",
		},
		{
			"POST /topologies",
			`{"name":"x","lans":[{"name":"a","subnet":"10.0.0.0/24"}],"deckies":[{"name":"d","lan":"a","ip":"10.0.1.1"}]}`, nil,
			400, "deckies[0]: ",
		},
		{"POST /topologies", `{"name":"x"}`, []string{"Content-Type", "text/plain"}, 415, "send application/json"},
		{"PATCH /topologies/" + id, `{"status":"odd"}`, nil, 400, `status: "odd" is no status: use one of pending`},
		{"PATCH /topologies/" + id, `{"reason":"x"}`, nil, 400, "status: is missing: give a string"},
		{"PATCH /topologies/" + id, `{"status":"degraded","reason":["x"]}`, nil, 400, "reason: give a string or null"},
		{
			"GET /topologies/" + id + "/mutations?state=odd", "", nil, 400,
			`state: "odd" is no state: use one of pending, applying, applied, failed`,
		},
		{"GET /topologies/" + id + "/mutations?limit=201", "", nil, 400, "limit: give a number from 1 to 200"},
		{"GET /topologies/" + id + "/mutations?limit=0", "", nil, 400, "limit: give a number from 1 to 200"},
		{"GET /topologies/" + id + "/journal?limit=1001", "", nil, 400, "limit: give a number from 1 to 1000"},
		{"GET /topologies/" + id + "/journal?after=-1", "", nil, 400, "after: give the seq of an event, 1 to 16 digits"},
		{"GET /topologies?limit=x", "", nil, 400, "limit: give a number from 1 to 200"},
		{"GET /topologies?offset=-1", "", nil, 400, "offset: give a number from 0 to "},
	} {
		method, path, _ := strings.Cut(c.what, " ")
		admin.do(
			method,
			path,
			c.body,
			c.header...).refused(
			t,
			fmt.Sprintf("%s %.200s %v", c.what, c.body, c.header),
			c.status,
			c.want,
		)
	}
	if after := pgtest.Scan[string](t, conn,
		`SELECT string_agg(e::text, '|' ORDER BY seq) FROM topology_events e`); after != before {
		t.Error("something was stored")
	}
}

func TestAnAddressThatTakesAnotherMethodSaysWhich(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	admin := newOperator(t, startServer(t, db.URL), "ada", stream.RoleAdmin)
	for path, allow := range map[string]string{
		"/topologies": "GET, HEAD, POST", "/topologies/": "GET, HEAD, POST", "/topologies/x": "GET, HEAD, PATCH, DELETE",
		"/topologies/x/mutations/": "GET, HEAD, POST", "/topologies/x/events": "GET, HEAD",
	} {
		r := admin.do("PUT", path, "{}")
		r.refused(t, path, http.StatusMethodNotAllowed, "takes "+allow)
		if got := r.header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %s", path, got)
		}
	}
	admin.do("GET", "/nothing", "").refused(t, "nothing", http.StatusNotFound, "there is nothing here")
}

func TestEveryConflictIsA409ThatSaysWhy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	admin := newOperator(t, startServer(t, db.URL), "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	path := "/topologies/" + id
	const add = `{"op":"add_lan","payload":{"name":"a"}%s}`

	admin.do("POST", "/topologies", `{"name":"demo"}`).refused(t, "create", http.StatusConflict,
		`there is a topology "demo" already: choose another name`)
	admin.do("PATCH", path, `{"status":"pending"}`).refused(t, "status", http.StatusConflict,
		"topologies.status: active cannot become pending: from active it may become degraded or tearing_down")

	admin.do("POST", path+"/mutations", fmt.Sprintf(add, `,"expected_version":1`)).refused(t, "version",
		http.StatusConflict, "expected_version is 1, but the topology is at 0: version 0 and 0 mutations in flight")
	var queued enqueued
	for n := range 3 {
		admin.do("POST", path+"/mutations", fmt.Sprintf(add, fmt.Sprintf(`,"expected_version":%d`, n))).into(t,
			http.StatusAccepted, &queued)
	}
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position = 1`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE position = 1`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE position = 2`)
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, `,"expected_version":2`)).refused(t, "version",
		http.StatusConflict, "expected_version is 2, but the topology is at 3: version 1 and 2 mutations in flight")
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'failed' WHERE position = 2`)
	// It counts as finished: an editor that counts its own edits is right, whatever becomes of them.
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, `,"expected_version":3`)).into(t, http.StatusAccepted, &queued)

	admin.do("POST", path+"/mutations", fmt.Sprintf(add, ``), "Idempotency-Key", "k").into(t, http.StatusAccepted, &queued)
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, ` `), "Idempotency-Key", "k").refused(t, "key",
		http.StatusConflict, "the Idempotency-Key was used with another body for mutation "+queued.ID)

	pending := topology(t, conn, "pending")
	admin.do("POST", "/topologies/"+pending+"/mutations", fmt.Sprintf(add, ``)).refused(t, "pending", http.StatusConflict,
		"the topology is pending: it takes mutations while it is active or degraded")
	var changed stream.Topology
	admin.do("PATCH", path, `{"status":"degraded"}`).into(t, http.StatusOK, &changed)
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, ``)).into(t, http.StatusAccepted, &queued)
	admin.do("PATCH", path, `{"status":"tearing_down"}`).into(t, http.StatusOK, &changed)
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, ``)).refused(t, "tearing_down", http.StatusConflict,
		"the topology is tearing_down")
	var same enqueued
	admin.do("POST", path+"/mutations", fmt.Sprintf(add, ``), "Idempotency-Key", "k").into(t, http.StatusAccepted, &same)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 6 {
		t.Errorf("%d mutations", n)
	}
}

func TestAnIdempotencyKeyIsOfOneSubjectAndOneTopologyForADay(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := startServer(t, db.URL)
	ada, bob := newOperator(t, server, "ada", stream.RoleAdmin), newOperator(t, server, "bob", stream.RoleAdmin)
	one, two := ada.create(`{"name":"one"}`), ada.create(`{"name":"two"}`)
	const body = `{"op":"add_lan","payload":{"name":"a"}}`
	key := strings.Repeat("a ~", 66) + "z"
	send := func(o *operator, id string) string {
		var queued enqueued
		o.do("POST", "/topologies/"+id+"/mutations", body, "Idempotency-Key", key).into(t, http.StatusAccepted, &queued)
		return queued.ID
	}
	first := send(ada, one)
	if again := send(ada, one); again != first {
		t.Errorf("the same request got %s, then %s", first, again)
	}
	if send(bob, one) == first || send(ada, two) == first {
		t.Error("another subject or topology got the mutation of the first")
	}
	pgtest.Exec(t, conn, `UPDATE mutation_keys SET created_at = created_at - interval '24 hours'`)
	later := send(ada, one)
	if later == first || send(ada, one) != later {
		t.Error("a day later the key does not stand for a new mutation")
	}
	if by := pgtest.Scan[string](t, conn,
		`SELECT string_agg(requested_by, ',' ORDER BY position) FROM mutations`); by != "ada,bob,ada,ada" {
		t.Errorf("requested by %s", by)
	}
}

func TestTwentyRequestsWithOneIdempotencyKeyEnqueueOneMutation(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	servers := []string{startServer(t, db.URL), startServer(t, db.URL)}
	id := newOperator(t, servers[0], "ada", stream.RoleAdmin).create(`{"name":"demo"}`)
	ids := make([]string, 20)
	var wg sync.WaitGroup
	for i := range ids {
		admin := newOperator(t, servers[i%2], "ada", stream.RoleAdmin)
		wg.Go(func() {
			var queued enqueued
			r := admin.do("POST", "/topologies/"+id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`, "Idempotency-Key",
				"k")
			if err := json.Unmarshal([]byte(r.body), &queued); err != nil || r.status != http.StatusAccepted {
				t.Errorf("%d %s", r.status, r.body)
			}
			ids[i] = queued.ID
		})
	}
	wg.Wait()
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 1 || len(slices.Compact(ids)) != 1 {
		t.Errorf("%d mutations; the answers are %v", n, ids)
	}
}

func TestOfTwentyRequestsThatExpectOneVersionOneIsAccepted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	servers := []string{startServer(t, db.URL), startServer(t, db.URL)}
	id := newOperator(t, servers[0], "ada", stream.RoleAdmin).create(`{"name":"demo"}`)
	got := make([]int, 20)
	var wg sync.WaitGroup
	for i := range got {
		admin := newOperator(t, servers[i%2], "ada", stream.RoleAdmin)
		wg.Go(func() {
			got[i] = admin.do("POST", "/topologies/"+id+"/mutations",
				`{"op":"add_lan","payload":{"name":"a"},"expected_version":0}`).status
		})
	}
	wg.Wait()
	slices.Sort(got)
	if got[0] != http.StatusAccepted || got[1] != http.StatusConflict || got[19] != http.StatusConflict {
		t.Errorf("%v", got)
	}
}

func TestALockThatSomebodyForgotIsA503After5sAndTheLogNamesTheBackend(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	server := serve(t, db.URL, nil)
	admin := newOperator(t, server.url, "ada", stream.RoleAdmin)
	id, other := admin.create(`{"name":"demo"}`), admin.create(`{"name":"other"}`)
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(3)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `UPDATE topologies SET reason = 'forgotten' WHERE id = $1`, id)
	pid := pgtest.Scan[int](t, holder, `SELECT pg_backend_pid()`)

	var wg sync.WaitGroup
	busy := func(method, path, body string) {
		wg.Go(func() {
			begun := time.Now()
			r := admin.do(method, path, body)
			r.refused(t, method+path, http.StatusServiceUnavailable, "another transaction holds the topology: try again")
			took := time.Since(begun)
			if took < 4900*time.Millisecond || r.header.Get("Retry-After") == "" {
				t.Errorf("%s %s took %s, Retry-After %q", method, path, took, r.header.Get("Retry-After"))
			}
			inTime(t, method+" "+path, took, 8*time.Second)
		})
	}
	for range 12 { // more than the pool has connections
		busy("POST", "/topologies/"+id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`)
	}
	busy("PATCH", "/topologies/"+id, `{"status":"degraded"}`)
	busy("DELETE", "/topologies/"+id, "")
	// Nobody else waits: not who reads, not who writes another topology, not who streams.
	begun := time.Now()
	for range 20 {
		var queued enqueued
		admin.do("POST", "/topologies/"+other+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`).into(t,
			http.StatusAccepted, &queued)
		if r := admin.do("GET", "/topologies/"+id, ""); r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	newClient(t, server.url, other, "").follow(t.Context(), 23)
	inTime(t, "what the others did", time.Since(begun), 4*time.Second)
	wg.Wait()
	if want := fmt.Sprintf(`blocked_by="[pid %d]"`, pid); !strings.Contains(server.log.String(), want) {
		t.Errorf("the log does not say %s", want)
	}
	pgtest.Exec(t, holder, `ROLLBACK`)
	var queued enqueued
	admin.do("POST", "/topologies/"+id+"/mutations", `{"op":"add_lan","payload":{"name":"a"}}`).into(t,
		http.StatusAccepted, &queued)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE topology_id = $1`, id); n != 1 {
		t.Errorf("%d mutations: a request that got 503 has stored one", n)
	}
}

func TestAHeldTableIsA503ForWhoReadsToo(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	holder := db.Conn(t)
	admin := newOperator(t, startServer(t, db.URL), "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `LOCK TABLE topologies, mutations`)
	var wg sync.WaitGroup
	for _, request := range []string{
		"GET /topologies", "GET /topologies/" + id, "GET /topologies/" + id + "/mutations", `POST /topologies {"name":"x"}`,
	} {
		wg.Go(func() {
			method, rest, _ := strings.Cut(request, " ")
			path, body, _ := strings.Cut(rest, " ")
			begun := time.Now()
			admin.do(method, path, body).refused(t, request, http.StatusServiceUnavailable, "try again")
			inTime(t, request, time.Since(begun), 8*time.Second)
		})
	}
	wg.Wait()
	pgtest.Exec(t, holder, `ROLLBACK`)
	if r := admin.do("GET", "/topologies/"+id, ""); r.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", r.status, r.body)
	}
}

func TestADatabaseThatIsAwayIsA503WithRetryAfter(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	admin := newOperator(t, startServer(t, db.URL), "ada", stream.RoleAdmin)
	id := admin.create(`{"name":"demo"}`)
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"GET /topologies", "GET /topologies/" + id, "GET /topologies/" + id + "/mutations", `POST /topologies {"name":"x"}`,
		"POST /topologies/" + id + `/mutations {"op":"remove_lan","payload":{"name":"x"}}`,
		"PATCH /topologies/" + id + ` {"status":"degraded"}`, "DELETE /topologies/" + id,
	} {
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		r := admin.do(method, path, body)
		r.refused(t, request, http.StatusServiceUnavailable, "the database is away")
		if r.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", request)
		}
	}
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if r := admin.do("GET", "/topologies/"+id, ""); r.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", r.status, r.body)
	}
}

// TestNoEnqueueBodyIsA500 sends bodies that are good ones broken at random, to a real database.
func TestNoEnqueueBodyIsA500(t *testing.T) {
	t.Parallel()
	slow(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	db := pgtest.New(t)
	server := startServer(t, db.URL)
	admin := newOperator(t, server, "ada", stream.RoleAdmin)
	path := "/topologies/" + admin.create(`{"name":"demo"}`) + "/mutations"
	met := map[int]int{}
	tries := fewer(1500)
	graph := newModel()
	for range tries {
		body := brokenBody(graph, rng)
		r := admin.do("POST", path, body)
		met[r.status]++
		var p struct{ Detail string }
		err := json.Unmarshal([]byte(r.body), &p)
		switch {
		case r.status != http.StatusAccepted && r.status != http.StatusBadRequest && r.status != http.StatusConflict,
			err != nil:
			t.Errorf("seed %d: %q: %d %s", seed, body, r.status, r.body)
		case r.status != http.StatusAccepted && !strings.Contains(p.Detail, ": ") && r.status != http.StatusConflict:
			t.Errorf("seed %d: %q: %s names no field", seed, body, r.body)
		}
	}
	if met[http.StatusAccepted] < tries/30 || met[http.StatusBadRequest] < tries/30 || met[http.StatusConflict] == 0 {
		t.Errorf("seed %d: the bodies are too much alike: %v", seed, met)
	}
	var rows []mutationRow
	admin.do("GET", path, "").into(t, http.StatusOK, &rows)
}

// brokenBody is a body for a mutation of a graph, one in four of them as it should be.
func brokenBody(m *model, rng *rand.Rand) string {
	op, fields := m.randomEdit(rng)
	m.apply(op, fields)
	switch {
	case rng.IntN(9) == 0:
		op, fields = "frobnicate it", map[string]any{}
	case op == "update_decky" && rng.IntN(2) == 0:
		fields["patch"] = json.RawMessage(`{"os":{"name":"linux","kernels":[6,null,1e3]}}`)
	}
	payload, err := json.Marshal(fields)
	if err != nil {
		panic(err) // it holds nothing that JSON lacks
	}
	body := fmt.Appendf(nil, `{"op":%q,"payload":%s}`, op, payload)
	if rng.IntN(8) == 0 {
		body = fmt.Appendf(nil, `{"op":%q,"payload":%s,"expected_version":%d}`, op, payload, rng.IntN(3))
	}
	pieces := []string{
		`"`,
		`\`,
		`{`,
		`}`,
		`[`,
		`]`,
		`,`,
		`:`,
		`null`,
		`true`,
		`0`,
		`-`,
		`1e308`,
		`1e309`,
		`1e-400`,
		`1e131071`,
		`0.` + strings.Repeat("0", 300) + `1`,
		strings.Repeat("9", 400),
		`\u0000`,
		`\ud800`,
		`\udc00\ud800`,
		`\u202e`,
		`é`,
		"\xff",
		"\x00",
		"\r\n",
		`"name":"x",`,
		`"a":1,"a":2`,
		strings.Repeat(`[`, 80),
		strings.Repeat("x", 300),
		`10.0.0.0/33`,
		`fe80::1%eth0`,
		` `,
		`\n`,
	}
	for range rng.IntN(4) {
		at := rng.IntN(len(body) + 1)
		switch rng.IntN(3) {
		case 0:
			body = slices.Insert(body, at, []byte(pieces[rng.IntN(len(pieces))])...)
		case 1:
			body = slices.Delete(body, at, min(at+1+rng.IntN(4), len(body)))
		default:
			// Within a string: what is there is still JSON, more often than not.
			if quote := bytes.LastIndexByte(body[:at], '"'); quote >= 0 {
				body = slices.Insert(body, quote, []byte(pieces[rng.IntN(len(pieces))])...)
			}
		}
	}
	return string(body)
}

// The flag reaches the loop; pgbus tests what goes.
func TestFinishedMutationsGoAfterMutationRetention(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	finish(t, conn, id)
	server := serve(t, db.URL,
		func(c *serveCmd) { c.MutationRetention = time.Millisecond; c.pruneEvery = 20 * time.Millisecond })
	pgtest.Eventually(t, "the end of the mutation",
		func() bool { return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`) == 0 })
	newClient(t, server.url, id, "0").follow(t.Context(), 4) // the journal keeps what happened
}

// finish makes a mutation that is applied.
func finish(t *testing.T, conn *pgx.Conn, id string) {
	t.Helper()
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'remove_lan', '{"name":"x"}')`, id)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE state = 'pending'`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applied' WHERE state = 'applying'`)
}

func TestChecksComeInTheOrder401Then403Then404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	const unknown = "00000000-0000-4000-8000-000000000000"
	var limited, errOut bytes.Buffer
	if code := run(t.Context(), []string{"token", "--jwt-secret", testSecret, "--topology", unknown}, &limited,
		&errOut); code != exitOK {
		t.Fatal(errOut.String())
	}
	for _, c := range []struct {
		token, id string
		want      int
	}{
		{"", id, 401}, {"", unknown, 401}, {"", "x", 401},
		{strings.TrimSpace(limited.String()), id, 403}, {strings.TrimSpace(limited.String()), unknown, 404},
		{testToken(t), unknown, 404}, {testToken(t), "x", 404},
	} {
		for _, path := range []string{"/events", "/journal", "/events/"} {
			res, err := http.Get(server + "/api/v1/topologies/" + c.id + path + "?token=" + c.token)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != c.want || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s%s: %s %s", c.id, path, res.Status, body)
			}
		}
	}
	// Also where the request is malformed: 404 comes first.
	for _, path := range []string{"/journal?after=x", "/mutations?state=x", "/mutations?limit=x"} {
		if status, _, body := get(t, server+"/api/v1/topologies/"+unknown+path); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if status, _, body := get(t, server+"/api/v1/topologies/"+id+path); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for method, path := range map[string]string{http.MethodPost: "/mutations", http.MethodPatch: ""} {
		for of, want := range map[string]int{unknown: http.StatusNotFound, id: http.StatusBadRequest} {
			req, err := http.NewRequestWithContext(t.Context(), method, server+"/api/v1/topologies/"+of+path,
				strings.NewReader(`{"op":`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+operatorToken(t))
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s %s: %s, want %d", method, of, res.Status, want)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
