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
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// share imports the server's /topostream-tabs.js and follows topologies, as one of the tabs of one user. It keeps in
// window: stream; events, those of each topology since its newest snapshot as "seq type"; began, the seq of that
// snapshot; snapshots, their number; wrong, whatever breaks the promise.
func (p *page) share(ids []string, token string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { events: {}, began: {}, snapshots: 0, wrong: [] });
		import('/topostream-tabs.js').then(({ TopologyStream }) => {
			window.stream = new TopologyStream({
				share: 'ada', topologies: %s, getToken: () => %q,
				onViolation: (violation) => wrong.push(JSON.stringify(violation)),
				onEvent: (e) => {
					if (e.kind === 'snapshot') [began[e.topology_id], events[e.topology_id]] = [e.seq, []];
					if (e.kind === 'snapshot') snapshots++;
					if (e.kind === 'event') events[e.topology_id].push(e.seq + ' ' + e.type);
				},
			});
		}, (error) => wrong.push(String(error)));
		true`
	list, err := json.Marshal(ids)
	if err != nil {
		p.t.Fatal(err)
	}
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(script, list, token))
	p.until(fmt.Sprintf(`Object.keys(window.began ?? {}).length === %d`, len(ids)))
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

// tabsEndEqual waits until each tab has all, and compares what came since its one snapshot with the journal's rows.
func tabsEndEqual(t *testing.T, conn *pgx.Conn, tabs []*page, heads map[string]uint64) {
	t.Helper()
	for i, tab := range tabs {
		for id, head := range heads {
			tab.until(fmt.Sprintf(`window.stream?.getSnapshot().topologies[%q]?.seq === %d`, id, head))
			began := chromeEval[uint64](t, tab.ctx, fmt.Sprintf(`window.began[%q]`, id))
			got := chromeEval[[]string](t, tab.ctx, fmt.Sprintf(`window.events[%q]`, id))
			if want := journalRows(t, conn, id, began); !slices.Equal(got, want) {
				t.Errorf("tab %d, %s: after its snapshot at %d it has %v, the journal %v", i, id, began, got, want)
			}
		}
		if n := chromeEval[int](t, tab.ctx, `window.snapshots`); n != len(heads) {
			t.Errorf("tab %d: %d snapshots of %d topologies", i, n, len(heads))
		}
		if wrong := chromeEval[[]string](t, tab.ctx, `window.wrong`); len(wrong) > 0 {
			t.Errorf("tab %d: %q", i, wrong)
		}
	}
}

// journalRows gives what the table of events has after a seq, as "seq type".
func journalRows(t *testing.T, conn *pgx.Conn, id string, after uint64) []string {
	t.Helper()
	const query = `SELECT coalesce(array_agg(seq || ' ' || type ORDER BY seq), '{}') FROM topology_events
		WHERE topology_id = $1::text::uuid AND seq > $2`
	return pgtest.Scan[[]string](t, conn, query, id, after)
}

func TestFiveTabsShareOneStreamThoughTheirLeaderIsClosedFrozenAndReloaded(t *testing.T) {
	t.Parallel()
	slow(t)
	fiveTabs(t, "http", 2)
}

func TestFiveTabsShareOneStreamOverHTTPS(t *testing.T) {
	t.Parallel()
	slow(t)
	fiveTabs(t, "https", 1)
}

// fiveTabs does each thing that can befall a leader so many times, in an order of chance.
func fiveTabs(t *testing.T, scheme string, times int) {
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
	first := openPage(t, address, chromedp.Flag("ignore-certificate-errors", true)) // the browser ends with this tab
	tabs := make([]*page, 5)
	for i := range tabs {
		tabs[i] = first.tab(address)
		tabs[i].share(ids, token)
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
	fates := slices.Repeat([]string{"closed", "frozen", "reloaded"}, times)
	random.Shuffle(len(fates), func(i, j int) { fates[i], fates[j] = fates[j], fates[i] })
	for _, fate := range fates {
		leader := slices.IndexFunc(tabs, func(p *page) bool { return p.role() == "leads" })
		if leader < 0 {
			t.Fatal("no tab leads")
		}
		t.Logf("the leader is tab %d; it is %s", leader, fate)
		load(20)
		others := slices.Delete(slices.Clone(tabs), leader, leader+1)
		// One event at a time: a tab that comes back asks for what it has missed, and the others keep 500 for it.
		anotherLeads := func() {
			t.Helper()
			pgtest.Eventually(t, "another tab to lead", func() bool {
				load(1)
				return slices.ContainsFunc(others, func(p *page) bool { return p.role() == "leads" })
			})
		}
		switch fate {
		case "closed":
			if err := chromedp.Cancel(tabs[leader].ctx); err != nil {
				t.Fatal(err)
			}
			anotherLeads()
			tabs[leader] = first.tab(address)
			tabs[leader].share(ids, token)
		case "frozen":
			tabs[leader].lifecycle(cdppage.SetWebLifecycleStateStateFrozen)
			anotherLeads()
			load(20)
			tabs[leader].lifecycle(cdppage.SetWebLifecycleStateStateActive)
			tabs[leader].until(`window.stream.getSnapshot().tabs.role === 'follows'`)
		case "reloaded":
			if _, err := chromedp.Run(tabs[leader].ctx, chromedp.Reload()); err != nil {
				t.Fatal(err)
			}
			anotherLeads()
			tabs[leader].share(ids, token)
		}
		load(20)
		tabsEndEqual(t, conn, tabs, heads)
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
		tab.until(fmt.Sprintf(
			`(({ role, count }) => role === 'alone' && count === %d)(window.stream.getSnapshot().tabs)`, n))
		if says := chromeEval[bool](t, tab.ctx, `window.stream.getSnapshot().tabs.problem !== null`); says != (n >= 5) {
			t.Errorf("with %d tabs it says so: %v", n, says)
		}
	}
	for _, tab := range tabs {
		tab.until(`window.stream.getSnapshot().tabs.problem?.includes('HTTP/2')`)
	}
}
