package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// share imports the server's /topostream-tabs.js and follows topologies, as one of the tabs of one user. It keeps in
// window: stream; events, those of each topology as seqs since its newest snapshot; began, the seq of that snapshot;
// states, those of the connection; wrong, whatever breaks the promise.
func (p *page) share(ids []string, token string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { events: {}, began: {}, states: [], wrong: [] });
		import('/topostream-tabs.js').then(({ TopologyStream }) => {
			window.stream = new TopologyStream({
				share: 'ada', topologies: %s, getToken: () => %q,
				onConnection: ({ state }) => states.push(state),
				onViolation: (violation) => wrong.push(JSON.stringify(violation)),
				onEvent: (e) => {
					if (e.kind === 'snapshot') [began[e.topology_id], events[e.topology_id]] = [e.seq, []];
					if (e.kind === 'event') events[e.topology_id].push(e.seq);
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

func (p *page) role() string {
	p.t.Helper()
	return chromeEval[string](p.t, p.ctx, `window.stream?.getSnapshot().tabs?.role ?? ''`)
}

func (p *page) lifecycle(state cdppage.SetWebLifecycleStateState) {
	p.t.Helper()
	params := cdppage.SetWebLifecycleStateParams{State: state}
	if _, err := chromedp.Run(p.ctx, chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, cdppage.SetWebLifecycleState, params)
		return err
	})); err != nil {
		p.t.Fatal(err)
	}
}

// tabsEndEqual waits until each tab has all, and compares what came since its snapshot with the journal's
// numbers, which have no gaps.
func tabsEndEqual(t *testing.T, tabs []*page, heads map[string]uint64) {
	t.Helper()
	for i, tab := range tabs {
		for id, head := range heads {
			tab.until(fmt.Sprintf(`window.stream?.getSnapshot().topologies[%q]?.seq === %d`, id, head))
			began := chromeEval[uint64](t, tab.ctx, fmt.Sprintf(`window.began[%q]`, id))
			got := chromeEval[[]uint64](t, tab.ctx, fmt.Sprintf(`window.events[%q]`, id))
			var want []uint64
			for seq := began + 1; seq <= head; seq++ {
				want = append(want, seq)
			}
			if !slices.Equal(got, want) {
				t.Errorf("tab %d, %s: after its snapshot at %d it has %v, of what goes on to %d", i, id, began, got, head)
			}
		}
		if wrong := chromeEval[[]string](t, tab.ctx, `window.wrong`); len(wrong) > 0 {
			t.Errorf("tab %d: %q", i, wrong)
		}
	}
}

func TestFiveTabsShareOneStreamThoughTheirLeaderIsClosedFrozenAndReloaded(t *testing.T) {
	t.Parallel()
	long(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			fiveTabs(t, scheme)
		})
	}
}

func fiveTabs(t *testing.T, scheme string) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 3)
	server := serve(t, db.URL, func(c *serveCmd) {
		if scheme == "https" {
			c.TLSCert, c.TLSKey = selfSigned(t)
		}
	})
	address := strings.Replace(server.url, "http:", scheme+":", 1) + "/"
	token := testToken(t)
	first := openPage(t, address, chromedp.Flag("ignore-certificate-errors", true))
	tabs := []*page{first.tab(address)} // the browser ends with its first tab
	for range 4 {
		tabs = append(tabs, first.tab(address))
	}
	for _, tab := range tabs {
		tab.share(ids, token)
		tab.until(fmt.Sprintf(`Object.keys(window.began ?? {}).length === %d`, len(ids)))
	}
	heads := make(map[string]uint64)
	load := func(n int) {
		for range n {
			id := ids[random.IntN(len(ids))]
			heads[id] = emit(t, conn, id)
		}
	}
	for _, id := range ids {
		heads[id] = emit(t, conn, id)
	}
	for range 6 {
		leader := slices.IndexFunc(tabs, func(p *page) bool { return p.role() == "leads" })
		if leader < 0 {
			t.Fatal("no tab leads")
		}
		load(20)
		others := slices.Delete(slices.Clone(tabs), leader, leader+1)
		leads := func() {
			t.Helper()
			pgtest.Eventually(t, "another tab to lead", func() bool {
				load(5)
				return slices.ContainsFunc(others, func(p *page) bool { return p.role() == "leads" })
			})
		}
		what := []string{"closed", "frozen", "reloaded"}[random.IntN(3)]
		t.Logf("the leader is tab %d; it is %s", leader, what)
		switch what {
		case "closed":
			if err := chromedp.Cancel(tabs[leader].ctx); err != nil {
				t.Fatal(err)
			}
			leads()
			tabs[leader] = first.tab(address)
			tabs[leader].share(ids, token)
		case "frozen":
			tabs[leader].lifecycle(cdppage.SetWebLifecycleStateStateFrozen)
			leads()
			load(20)
			tabs[leader].lifecycle(cdppage.SetWebLifecycleStateStateActive)
			tabs[leader].until(`window.stream.getSnapshot().tabs.role === 'follows'`)
		case "reloaded":
			if _, err := chromedp.Run(tabs[leader].ctx, chromedp.Reload()); err != nil {
				t.Fatal(err)
			}
			leads()
			tabs[leader].share(ids, token)
		}
		load(20)
		tabsEndEqual(t, tabs, heads)
	}
	if scheme == "http" {
		pgtest.Eventually(t, "one stream", func() bool { return metric(t, server.url, "topostream_streams") == 1 })
	}
}

func TestOverPlainHTTPTheFifthTabSaysThatHTTP2WouldHelp(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	ids := live(t, db.Conn(t), 1)
	server := serve(t, db.URL, nil)
	address := strings.Replace(server.url, "127.0.0.1", "topo.test", 1) + "/"
	first := openPage(t, address, chromedp.Flag("host-resolver-rules", "MAP topo.test 127.0.0.1"))
	var tabs []*page
	for n := 1; n <= 5; n++ {
		tab := first.tab(address)
		tabs = append(tabs, tab)
		tab.share(ids, testToken(t))
		tab.until(fmt.Sprintf(`Object.keys(window.began ?? {}).length === 1 && window.stream.getSnapshot().tabs.role ===
			'alone' && window.stream.getSnapshot().tabs.count === %d`, n))
		if says := chromeEval[bool](t, tab.ctx, `window.stream.getSnapshot().tabs.problem !== null`); says != (n >= 5) {
			t.Errorf("with %d tabs it says so: %v", n, says)
		}
	}
	for _, tab := range tabs {
		tab.until(`window.stream.getSnapshot().tabs.problem?.includes('HTTP/2')`)
	}
}
