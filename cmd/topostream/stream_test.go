package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

func TestAStreamBeginsAsTheInterfaceSays(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'add_lan', '{"name": "a"}')`, id)
	server := serve(t, db.URL, func(c *serveCmd) { c.Keepalive = 50 * time.Millisecond })
	for _, path := range []string{"/events", "/events/"} {
		res := open(t, server.url+"/api/v1/topologies/"+strings.ToUpper(id)+path)
		for name, want := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no",
			"Content-Length": "",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		lines := bufio.NewReader(res.Body)
		want := []string{
			`: keepalive`,
			`retry: (2[0-9]{3}|3[0-9]{3}|4000)`,
			``,
			`event: snapshot`,
			`id: 2`,
			`data: {"topology_id":"` + id + `","status":"pending","reason":null,"version":0,"seq":2,"in_flight":\[{.*}\],` +
				`"in_flight_total":1}`,
			``,
			`: keepalive`,
			``,
		}
		if path == "/events/" {
			emit(t, conn, id)
			want = append(
				want[:7],
				`event: test`,
				`id: 3`,
				`data: {"topic":"topology.`+id+`.test","type":"test","ts":"20[0-9-]{8}T[0-9:]{8}\.[0-9]{6}Z","seq":3,`+
					`"journaled":true,"payload":{}}`,
				``,
			)
		}
		for i, pattern := range want {
			line, err := lines.ReadString('\n')
			// The event may take longer than a keepalive.
			for ; i == 7 && path == "/events/" && line == ": keepalive\n"; line, err = lines.ReadString('\n') {
				_, _ = lines.ReadString('\n') // its empty line; the next one tells
			}
			if err != nil || !regexp.MustCompile(`^`+pattern+`\n$`).MatchString(line) {
				t.Errorf("%q, %v, want %s", line, err, pattern)
			}
		}
		_ = res.Body.Close() // read as far as wanted
	}
}

func TestTheSnapshotHoldsTheGraphWhenAsked(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	pgtest.Exec(t, conn,
		`INSERT INTO lans (topology_id, name, subnet, is_dmz, x) VALUES ($1, 'lan-1', '10.0.0.0/24', true, 1.5)`, id)
	pgtest.Exec(t, conn,
		`INSERT INTO deckies (topology_id, name, services, ip) VALUES ($1, 'web-1', '["ssh"]', '10.0.0.2')`, id)
	pgtest.Exec(t, conn,
		`INSERT INTO edges (topology_id, decky_uuid, lan_id, ip) SELECT $1, d.uuid, l.id, '10.0.0.2' FROM deckies d, lans l`,
		id)
	server := startServer(t, db.URL)
	for query, want := range map[string]bool{"": false, "?graph=0": false, "?graph=1": true} {
		res := open(t, server+"/api/v1/topologies/"+id+"/events"+query)
		c := newClient(t, server, id, "")
		data := firstData(t, res.Body)
		var body struct {
			Seq     uint64
			Lans    []struct{ ID, Name, Subnet string }
			Deckies []struct {
				UUID, Name, IP string
				Services       []string
			}
			Edges []struct {
				DeckyUUID string `json:"decky_uuid"`
				LanID     string `json:"lan_id"`
			}
		}
		if err := json.Unmarshal([]byte(data), &body); err != nil || body.Seq != 4 {
			t.Fatalf("%s: %v", data, err)
		}
		has := len(body.Lans) == 1 && len(body.Deckies) == 1 && len(body.Edges) == 1
		if has != want ||
			has &&
				(body.Lans[0].Subnet != "10.0.0.0/24" || body.Deckies[0].Services[0] != "ssh" ||
					body.Edges[0].LanID != body.Lans[0].ID) {
			t.Errorf("%q: %s", query, data)
		}
		c.follow(t.Context(), 1)
	}
	// What somebody changes by hand makes no event, and a new client sees it all the same.
	pgtest.Exec(t, conn, `DELETE FROM edges`)
	res := open(t, server+"/api/v1/topologies/"+id+"/events?graph=1")
	if data := firstData(t, res.Body); !strings.Contains(data, `"edges":[]`) {
		t.Errorf("an old graph: %s", data)
	}
}

// firstData gives the first data line of a stream and ends it.
func firstData(t *testing.T, body io.ReadCloser) string {
	t.Helper()
	defer func() { _ = body.Close() }() // read as far as wanted
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			return data
		}
	}
	t.Fatal("the stream ended: ", lines.Err())
	return ""
}

func TestLimitsAnswerEventSourcesWithARetryAndOthersWith429(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id, other := demo(t, conn), topology(t, conn, "other")
	for name, change := range map[string]func(*serveCmd){
		"--max-streams":          func(c *serveCmd) { c.MaxStreams = 2 },
		"--max-streams-per-user": func(c *serveCmd) { c.MaxStreamsPerUser = 2 },
	} {
		server := serve(t, db.URL, change)
		url := server.url + "/api/v1/topologies/" + id + "/events"
		first, second := open(t, url), open(t, url)
		if status, header, body := get(t, url); status != http.StatusTooManyRequests || header.Get("Retry-After") == "" ||
			header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", name, status, body)
		}
		status, _, body := get(t, url, "Accept", "text/event-stream")
		retry := regexp.MustCompile(`retry: ([0-9]{5,})\n`).MatchString(body)
		if status != http.StatusOK || !retry || !strings.Contains(body, "event: unavailable\ndata: ") ||
			strings.Contains(body, "\nid: ") ||
			!strings.Contains(body, `"reason":"too many streams"`) {
			t.Errorf("%s: %d %q", name, status, body)
		}
		// One that resumes takes the place of the oldest of the same user and topology, which is told so.
		if status, _, body := get(t, server.url+"/api/v1/topologies/"+other+"/events", "Last-Event-ID",
			"1"); status != http.StatusTooManyRequests {
			t.Errorf("%s: of another topology: %d %s", name, status, body)
		}
		third := open(t, url, "Last-Event-ID", "1")
		if got := events(t, first.Body, ""); !slices.Equal(got, []string{"snapshot 1", "unavailable 1"}) {
			t.Errorf("%s: the oldest got %v", name, got)
		}
		_ = third.Body.Close()
		_, _ = first.Body.Close(), second.Body.Close()
		pgtest.Eventually(t, "a free place", func() bool { return metric(t, server.url, "topostream_streams") == 0 })
		_ = open(t, url).Body.Close()
	}
}

func TestADrainTellsEveryStreamToComeBackAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, func(c *serveCmd) { c.Drain = 2 * time.Second })
	url := server.url + "/api/v1/topologies/" + id + "/events"
	ended := make(chan []string)
	for range 10 {
		res := open(t, url)
		go func() { ended <- events(t, res.Body, "") }()
	}
	stopped := make(chan struct{})
	go func() { server.stop(); close(stopped) }()
	for range 10 {
		if got := <-ended; !slices.Equal(got, []string{"snapshot 1", "unavailable 1"}) {
			t.Errorf("a stream ended with %v", got)
		}
	}
	<-stopped
}

func TestAStreamEndsWhenItsTokenExpires(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	newClient(t, server, id, "").watch().awaitSeq(1) // so that the topology is attached, which may take longer
	token := signed(t, auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: 6 * time.Second})
	res := open(t, server+"/api/v1/topologies/"+id+"/events?token="+token, "Authorization", "Bearer "+token)
	if got := events(t, res.Body, ""); !slices.Equal(got, []string{"snapshot 1", "token_expired 1"}) {
		t.Errorf("%v", got)
	}
}

func TestAClientThatDoesNotReadCostsTheOthersNothingAndIsEnded(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := serve(t, db.URL, func(c *serveCmd) { c.WriteTimeout = 20 * time.Second; c.FeedMemory = 4 << 20 })
	stuck, err := net.Dial("tcp", strings.TrimPrefix(server.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stuck.Close() }() // the server has ended it
	if _, err := fmt.Fprintf(stuck, "GET /api/v1/topologies/%s/events?token=%s HTTP/1.1\r\nHost: x\r\n\r\n", id,
		testToken(t)); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, server.url, id, "").watch()
	var head uint64
	for range 40 { // far more than the sockets' buffers and the rings hold
		head = pgtest.Scan[uint64](t, conn, `SELECT topology_emit($1::text::uuid, 'test', to_jsonb(repeat('x', 1000000)))`,
			id)
	}
	c.awaitSeq(head)
	c.stayedConnected()
	pgtest.Eventually(t, "the end of the stream that nobody reads",
		func() bool { return metric(t, server.url, `topostream_streams_closed_total{reason="slow"}`) == 1 })
	if n := metric(t, server.url, "topostream_feed_bytes"); n > 5<<20 {
		t.Errorf("the rings hold %v bytes", n)
	}
}

func TestHealthSaysWhichPartFails(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	server := startServer(t, db.URL)
	until := func(path string, want int) (body string) {
		pgtest.Eventually(t, fmt.Sprint(path, " ", want), func() bool {
			var status int
			status, _, body = get(t, server+path)
			return status == want
		})
		return body
	}
	until("/livez", http.StatusOK)
	until("/readyz", http.StatusOK)
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	until("/api/v1/topologies", http.StatusServiceUnavailable)
	refused := time.Now()
	body := until("/readyz", http.StatusServiceUnavailable)
	inTime(t, "/readyz behind REST", time.Since(refused), time.Second)
	if !strings.Contains(body, "bus: ") {
		t.Errorf("not ready: %s", body)
	} else if strings.ContainsAny(body, "@/") || strings.Contains(body, "127.0.0.1") || strings.Contains(body, "user") {
		t.Errorf("anybody may read how the database is reached: %s", body)
	}
	until("/livez", http.StatusOK)
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	until("/readyz", http.StatusOK)
}

// A server and a worker may have other roles, with other settings, and what they say of one row is the same.
func TestNumbersAreTheSameWhicheverProgramWritesThem(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	const short = "extra_float_digits=0&bytea_output=escape&DateStyle=German"
	with := func(url, keywords string) string {
		return url + map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + keywords
	}
	servers := []string{serve(t, db.URL, withWorker).url, serve(t, with(db.URL, short), nil).url}
	id := live(t, conn, 1)[0]
	clients := make([]*client, 0, len(servers))
	for _, server := range servers {
		c := newClient(t, server, id, "").watch()
		c.await("its snapshot", func() bool { return len(c.snapshots) > 0 })
		clients = append(clients, c)
	}
	const x = "0.1234567890123456"
	awaitMutation(t, conn, enqueueOp(t, conn, id, "add_lan", `{"name":"a","x":`+x+`}`), "applied")
	head := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
	for i, c := range clients {
		c.awaitSeq(head)
		c.mu.Lock()
		if len(c.data) == 0 || !strings.Contains(c.data[len(c.data)-1], `"x": `+x+`,`) {
			t.Errorf("the event by server %d: %q", i, c.data)
		}
		c.mu.Unlock()
		var graph struct{ LANs []struct{ X json.Number } }
		getJSON(t, servers[i]+"/api/v1/topologies/"+id, &graph)
		if len(graph.LANs) != 1 || graph.LANs[0].X.String() != x {
			t.Errorf("the document by server %d: %v", i, graph)
		}
	}
}
