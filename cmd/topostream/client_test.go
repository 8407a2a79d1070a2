package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// topologyStream imports the server's /topostream.js and follows topologies; getToken is JavaScript. It keeps in
// window: stream; events, those of each topology as "seq type"; opens, the number of connections; snapshots, that of
// snapshots; wrong, whatever breaks the promise.
func (p *page) topologyStream(ids []string, getToken string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { events: {}, opens: 0, snapshots: 0, wrong: [] });
		import('/topostream.js').then(({ TopologyStream }) => {
			window.stream = new TopologyStream({
				topologies: %s,
				getToken: %s,
				onConnection: ({ state }) => { if (state === 'open') opens++; },
				onViolation: (violation) => wrong.push(JSON.stringify(violation)),
				onEvent: (e) => {
					if (e.kind === 'snapshot') snapshots++;
					if (e.kind === 'event') (events[e.topology_id] ??= []).push(e.seq + ' ' + e.type);
				},
			});
		}, (error) => wrong.push(String(error)));
		true`
	list, err := json.Marshal(ids)
	if err != nil {
		p.t.Fatal(err)
	}
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(script, list, getToken))
}

func seqOf(id string) string {
	return fmt.Sprintf(`window.stream?.getSnapshot().topologies[%q]?.seq`, id)
}

// began waits for the first snapshots and gives their seqs.
func (p *page) began(ids []string) map[string]uint64 {
	p.t.Helper()
	seqs := make(map[string]uint64, len(ids))
	for _, id := range ids {
		p.until(seqOf(id) + ` > 0`)
		seqs[id] = chromeEval[uint64](p.t, p.ctx, seqOf(id))
	}
	return seqs
}

// endsEqual waits until the page has all, and compares what came since its first snapshots with the journal's rows.
// The client resumes by what it has of each: there is no second snapshot of any.
func (p *page) endsEqual(t *testing.T, conn *pgx.Conn, began map[string]uint64) {
	t.Helper()
	for id, first := range began {
		p.until(fmt.Sprintf(`%s === %d`, seqOf(id), emit(t, conn, id)))
		want := journalRows(t, conn, id, first)
		if got := chromeEval[[]string](t, p.ctx, fmt.Sprintf(`window.events[%q]`, id)); !slices.Equal(got, want) {
			t.Errorf("%s: the page has %v, the journal %v", id, got, want)
		}
	}
	if wrong := chromeEval[[]string](t, p.ctx, `window.wrong`); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	if n := chromeEval[int](t, p.ctx, `window.snapshots`); n != len(began) {
		t.Errorf("%d snapshots of %d topologies", n, len(began))
	}
}

// killable gives the address of a server and what starts it there: the binary, again each time it was killed.
func killable(t *testing.T, databaseURL string) (address string, start func() *process) {
	t.Helper()
	address = pgtest.FreeAddress(t)
	return address, func() *process {
		cmd := exec.Command(buildProgram(t), "serve", "--database-url", databaseURL, "--addr", address)
		cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
		server := startProcess(t, cmd)
		server.err.await(t, "msg=serving", server.ended)
		return server
	}
}

func TestThePackagedClientInARealBrowserEndsEqualToTheJournalThoughTheServerIsKilled(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 5)
	address, start := killable(t, db.URL)
	server := start()
	page := openPage(t, "http://"+address+"/")
	page.topologyStream(ids, fmt.Sprintf(`() => %q`, testToken(t)))
	began := page.began(ids)
	for range 2 {
		for i, id := range ids {
			for range i + 1 {
				emit(t, conn, id)
			}
		}
		<-server.signal(syscall.SIGKILL) // some of it may have been sent, some not
		for _, id := range ids {
			emit(t, conn, id) // nobody listens
		}
		server = start()
		for _, id := range ids {
			page.until(fmt.Sprintf(`%s === %d`, seqOf(id), emit(t, conn, id)))
		}
	}
	page.endsEqual(t, conn, began)
	if n := chromeEval[int](t, page.ctx, `window.opens`); n != 3 {
		t.Errorf("%d connections, with a server that was killed twice", n)
	}
}

// A tokenProxy stands before a server, counts what is asked for streams, and gives tokens at /token.
type tokenProxy struct {
	url      string
	ttl      atomic.Int64 // of the next tokens, as a time.Duration
	given    atomic.Int64 // tokens
	requests atomic.Int64 // for a stream
	refused  atomic.Int64 // with 401
}

func newTokenProxy(t *testing.T, server string, ttl time.Duration) *tokenProxy {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p := new(tokenProxy)
	p.ttl.Store(int64(ttl))
	transport := new(http.Transport)
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // streams end when their page does
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(res *http.Response) error {
			if res.StatusCode == http.StatusUnauthorized {
				p.refused.Add(1)
			}
			return nil
		},
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/token":
			claims := auth.Claims{Subject: "ada", Role: stream.RoleViewer, TTL: time.Duration(p.ttl.Load())}
			token, err := auth.Sign([]byte(testSecret), claims, time.Now())
			if err != nil {
				t.Error(err)
			}
			p.given.Add(1)
			_, _ = io.WriteString(w, token)
			return
		case "/api/v1/events":
			p.requests.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		transport.CloseIdleConnections()
	})
	p.url = front.URL
	return p
}

// A page that keeps its token until the client says that it is rejected.
const keepsToken = `async (rejected) => {
	if (!window.kept || rejected === window.kept) window.kept = await (await fetch('/token')).text();
	return window.kept;
}`

func TestThePackagedClientInARealBrowserRenewsItsToken(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 3)
	proxy := newTokenProxy(t, serve(t, db.URL, nil).url, 6*time.Second)
	page := openPage(t, proxy.url+"/")
	page.topologyStream(ids, keepsToken)
	began := page.began(ids)
	pgtest.Eventually(t, "three renewals", func() bool {
		for _, id := range ids {
			emit(t, conn, id)
		}
		return proxy.given.Load() >= 4
	})
	page.endsEqual(t, conn, began)
}

func TestThePackagedClientInARealBrowserIsRefusedForGoodBy401(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 2)
	proxy := newTokenProxy(t, serve(t, db.URL, nil).url, 6*time.Second)
	page := openPage(t, proxy.url+"/")
	page.topologyStream(ids, keepsToken)
	began := page.began(ids)
	page.until(`topostream.state === 'refused'`) // the console in whose page this runs, which has no token
	before := proxy.refused.Load()
	proxy.ttl.Store(int64(-time.Hour))
	const state = `window.stream.getSnapshot().connection`
	page.until(state + `.state === 'refused'`)
	if status := chromeEval[int](t, page.ctx, state+`.status`); status != http.StatusUnauthorized {
		t.Errorf("refused with %d", status)
	}
	// One with the token that has been given instead of the expired one, one with that which getToken gives then.
	if n := proxy.refused.Load() - before; n != 2 {
		t.Errorf("%d requests were refused", n)
	}
	asked := proxy.requests.Load()
	for _, id := range ids {
		emit(t, conn, id)
	}
	// A client that tries again does so after 2.5 seconds at most, or when its network is back.
	page.until(`dispatchEvent(new Event('online')) && performance.now() > (window.since ??= performance.now()) + 5000`)
	if n := proxy.requests.Load(); n != asked {
		t.Errorf("after it was refused it asked %d times more", n-asked)
	}
	proxy.ttl.Store(int64(time.Hour))
	chromeEval[bool](t, page.ctx, `stream.reconnect(), true`)
	page.endsEqual(t, conn, began)
}
