package main

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// A mintedTicket is what POST /auth/sse-ticket answers.
type mintedTicket struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expires_in"`
}

func (o *operator) ticket() string {
	o.t.Helper()
	var m mintedTicket
	pgtest.Eventually(o.t, "a ticket", func() bool { // a machine that does much else may take longer than a request may
		a := o.do("POST", "/auth/sse-ticket", "")
		if a.status == http.StatusServiceUnavailable {
			return false
		}
		a.into(o.t, http.StatusOK, &m)
		return true
	})
	return m.Ticket
}

// openTicket asks for a stream with a ticket alone. Close the answer's body.
func openTicket(t *testing.T, server, id, ticket string) *http.Response {
	t.Helper()
	return openAddress(t, server+"/api/v1/topologies/"+id+"/events?ticket="+ticket)
}

// openAddress asks as a native EventSource does, without an Authorization.
func openAddress(t *testing.T, address string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := (&http.Client{Transport: contracted(&http.Transport{DisableKeepAlives: true})}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// whole is all of an answer that is not a stream, but for its time.
func whole(t *testing.T, res *http.Response) string {
	t.Helper()
	if res.StatusCode == http.StatusOK {
		_ = res.Body.Close() // it would go on
		return res.Status
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close() // it is read
	header := maps.Clone(res.Header)
	header.Del("Date")
	var all strings.Builder
	all.WriteString(res.Status + "\n")
	if err := header.Write(&all); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(all.String()+string(body), res.Header.Get("X-Request-ID"), "its id")
}

func TestAThousandWhoRaceForOneTicketOnTwoServersGetOneStream(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	servers := []*testServer{serve(t, db.URL, nil), serve(t, db.URL, nil)}
	for _, s := range servers {
		attachFirst(t, s.url, id)
	}
	ticket := newOperator(t, servers[0].url, "ada", stream.RoleViewer).ticket()
	const clients = 1000
	var (
		ready, done sync.WaitGroup
		start       = make(chan struct{})
		answers     = make(chan *http.Response, clients)
	)
	// The first request of each server finds the ticket, and neither can use it before the others come.
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `SELECT FROM sse_tickets FOR UPDATE`)
	ready.Add(clients)
	for i := range clients {
		done.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
				servers[i%2].url+"/api/v1/topologies/"+id+"/events?ticket="+ticket, nil)
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			if i >= len(servers) {
				<-start
			}
			client := &http.Client{Transport: contracted(&http.Transport{DisableKeepAlives: true})}
			for try := 1; ; try++ {
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				// A busy machine may answer 503 when a request has waited for 5 s: come back, as a client does.
				if res.StatusCode != http.StatusServiceUnavailable || try == 20 {
					answers <- res
					return
				}
				_ = res.Body.Close() // nobody reads it
			}
		})
	}
	ready.Wait()
	watcher := db.Conn(t)
	pgtest.Eventually(t, "both servers to wait", func() bool {
		return pgtest.Scan[int](t, watcher,
			`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == len(
			servers,
		)
	})
	close(start)
	pgtest.Exec(t, conn, `COMMIT`)
	done.Wait()
	close(answers)
	streams, refusals := 0, map[string]int{}
	for res := range answers {
		if res.StatusCode != http.StatusOK {
			refusals[whole(t, res)]++
			continue
		}
		streams++
		if got := events(t, res.Body, "1"); !slices.Equal(got, []string{"snapshot 1"}) {
			t.Errorf("the stream: %v", got)
		}
	}
	if streams != 1 || len(refusals) != 1 || refusals[whole(t, openTicket(t, servers[1].url, id, ticket))] != clients-1 {
		t.Errorf("%d streams; refusals: %v", streams, refusals)
	}
	for _, s := range servers {
		if strings.Contains(s.log.String(), ticket) {
			t.Error("the log holds the ticket")
		}
	}
}

func TestNobodyCanTellWhyATicketIsNotGood(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	const unknown = "00000000-0000-4000-8000-000000000000"
	server := serve(t, db.URL, nil)
	ada := newOperator(t, server.url, "ada", stream.RoleViewer)
	expired := ada.ticket()
	pgtest.Exec(t, conn, `UPDATE sse_tickets SET expires = clock_timestamp()`)
	used, good := ada.ticket(), ada.ticket()
	_ = openTicket(t, server.url, id, used).Body.Close() // a stream
	want := whole(t, openAddress(t, server.url+"/api/v1/topologies/"+id+"/events"))
	if !strings.HasPrefix(want, "401 ") || !strings.Contains(want, "Www-Authenticate: Bearer") {
		t.Fatal(want)
	}
	for name, ticket := range map[string]string{
		"expired": expired, "used": used, "unknown": strings.Repeat("A", 43), "garbage": "x", "hostile": "%00%ff'%22",
		"cut": good[1:],
	} {
		for _, of := range []string{id, unknown, "no-id"} {
			if got := whole(t, openTicket(t, server.url, of, ticket)); got != want {
				t.Errorf("%s for %s: %s\nwant %s", name, of, got, want)
			}
		}
		if strings.Contains(server.log.String(), ticket) && len(ticket) > 1 {
			t.Errorf("the log holds the one that is %s", name)
		}
	}
	if got := whole(t, openAddress(t, server.url+"/api/v1/topologies/"+id+"?ticket="+good)); got != want {
		t.Errorf("on another route: %s", got)
	}
	res := openTicket(t, server.url, id, good)
	if got := events(t, res.Body, "1"); !slices.Equal(got, []string{"snapshot 1"}) {
		t.Errorf("the good one, which is not used by all that: %v", got)
	}
}

func TestATicketCoversWhatItsTokenCovers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	mine, other := demo(t, conn), topology(t, conn, "other")
	const unknown = "00000000-0000-4000-8000-000000000000"
	server := serve(t, db.URL, nil)
	limited := newOperator(t, server.url, "ada", stream.RoleViewer, mine)
	for _, id := range []string{other, unknown, "no-id"} {
		if got := whole(t, openTicket(t, server.url, id, limited.ticket())); !strings.HasPrefix(got, "403 ") ||
			!strings.Contains(got, "does not cover this topology") {
			t.Errorf("%s: %s", id, got)
		}
	}
	if got := whole(t,
		openTicket(t, server.url, unknown, newOperator(t, server.url, "ada", stream.RoleAdmin).ticket())); !strings.HasPrefix(
		got,
		"404 ",
	) {
		t.Errorf("an admin's for an unknown topology: %s", got)
	}
	if got := events(t, openTicket(t, server.url, mine, limited.ticket()).Body, "1"); !slices.Equal(got,
		[]string{"snapshot 1"}) {
		t.Errorf("its own: %v", got)
	}
	var m mintedTicket
	limited.do("POST", "/auth/sse-ticket/", "{}").into(t, http.StatusOK, &m)
	if len(m.Ticket) != 43 || m.ExpiresIn != 60 {
		t.Errorf("%d characters, %d s", len(m.Ticket), m.ExpiresIn)
	}
}

func TestAStreamThatATicketOpenedEndsWithTheTokenThatMintedIt(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := serve(t, db.URL, nil)
	newClient(t, server.url, id, "").watch().awaitSeq(1) // so that the topology is attached, which may take longer
	short := newOperator(t, server.url, "ada", stream.RoleViewer)
	short.token = signed(t, auth.Claims{Subject: "ada", Role: stream.RoleViewer, TTL: 8 * time.Second})
	var first mintedTicket
	short.do("POST", "/auth/sse-ticket", "").into(t, http.StatusOK, &first)
	if first.ExpiresIn > 8 {
		t.Errorf("the ticket has %d s", first.ExpiresIn)
	}
	second := short.ticket()
	begun := openTicket(t, server.url, id, first.Ticket)
	emit(t, conn, id)
	resumed := openAddress(t, server.url+"/api/v1/topologies/"+id+"/events?last_event_id=1&ticket="+second)
	// token_expired has no id of its own: a parser gives the last one.
	if got := events(t, resumed.Body, ""); !slices.Equal(got, []string{"test 2", "token_expired 2"}) {
		t.Errorf("the one that resumed: %v", got)
	}
	got := events(t, begun.Body, "")
	if len(got) < 2 || got[0] != "snapshot 1" && got[0] != "snapshot 2" || got[len(got)-1] != "token_expired 2" {
		t.Errorf("the first one: %v", got)
	}
	if got := short.do("POST", "/auth/sse-ticket", ""); got.status != http.StatusUnauthorized {
		t.Errorf("the token afterwards: %d %s", got.status, got.body)
	}
}

func TestTicketsWorkThroughATransactionPooler(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	pooled := newBouncer(t, db.URL).url
	servers := []*testServer{serve(t, pooled, nil), serve(t, pooled, nil)}
	ada := newOperator(t, servers[0].url, "ada", stream.RoleViewer)
	for range 20 {
		ticket := ada.ticket()
		if got := events(t, openTicket(t, servers[1].url, id, ticket).Body, "1"); !slices.Equal(got, []string{"snapshot 1"}) {
			t.Errorf("%v", got)
		}
		if got := whole(t, openTicket(t, servers[0].url, id, ticket)); !strings.HasPrefix(got, "401 ") {
			t.Errorf("again: %s", got)
		}
	}
}

func TestADatabaseThatIsAwayLeavesATicketForTheNextTry(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	id := demo(t, db.Conn(t))
	server := serve(t, db.URL, nil)
	ticket := newOperator(t, server.url, "ada", stream.RoleViewer).ticket()
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	res := openTicket(t, server.url, id, ticket)
	if got := events(t, res.Body, ""); res.StatusCode != http.StatusOK || !slices.Equal(got, []string{"unavailable "}) {
		t.Errorf("an EventSource: %s %v", res.Status, got)
	}
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	var got []string
	pgtest.Eventually(t, "a stream", func() bool {
		got = events(t, openTicket(t, server.url, id, ticket).Body, "1")
		return !slices.Equal(got, []string{"unavailable "})
	})
	if !slices.Equal(got, []string{"snapshot 1"}) {
		t.Errorf("the next try: %v", got)
	}
}
