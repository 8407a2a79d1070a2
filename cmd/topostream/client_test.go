package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// topologyStream imports the server's /topostream.js and follows topologies. It keeps in window: stream; events, those
// of each topology as "seq type"; opens, the number of connections; snapshots; wrong, whatever breaks the promise.
func (p *page) topologyStream(ids []string, token string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { events: {}, opens: 0, snapshots: 0, wrong: [] });
		import('/topostream.js').then(({ TopologyStream }) => {
			window.stream = new TopologyStream({
				topologies: %s,
				getToken: () => %q,
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
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](fmt.Sprintf(script, list, token))); err != nil {
		p.t.Fatal(err)
	}
}

func TestThePackagedClientInARealBrowserEndsEqualToTheJournalThoughTheServerIsKilled(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 5)
	address := pgtest.FreeAddress(t)
	start := func() *process {
		cmd := exec.Command(buildProgram(t), "serve", "--database-url", db.URL, "--addr", address)
		cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
		server := startProcess(t, cmd)
		server.err.await(t, "msg=serving", server.ended)
		return server
	}
	server := start()
	page := openPage(t, "http://"+address+"/")
	page.topologyStream(ids, testToken(t))
	seqOf := func(id string) string { return fmt.Sprintf(`window.stream?.getSnapshot().topologies[%q]?.seq`, id) }
	for _, id := range ids {
		page.until(seqOf(id) + ` > 0`)
	}
	first := make(map[string]uint64, len(ids))
	for _, id := range ids {
		first[id] = chromeEval[uint64](t, page.ctx, seqOf(id))
	}
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
	for _, id := range ids {
		var want []string
		for _, text := range journal(t, "http://"+address, id, first[id]) {
			var e struct {
				Seq  uint64
				Type string
			}
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("%d %s", e.Seq, e.Type))
		}
		if got := chromeEval[[]string](t, page.ctx, fmt.Sprintf(`window.events[%q]`, id)); !slices.Equal(got, want) {
			t.Errorf("%s: the page has %v, the journal %v", id, got, want)
		}
	}
	if wrong := chromeEval[[]string](t, page.ctx, `window.wrong`); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	// It resumes by what it has of each: no second snapshot of any.
	if n := chromeEval[int](t, page.ctx, `window.snapshots`); n != len(ids) {
		t.Errorf("%d snapshots of %d topologies", n, len(ids))
	}
	if n := chromeEval[int](t, page.ctx, `window.opens`); n != 3 {
		t.Errorf("%d connections, with a server that was killed twice", n)
	}
}
