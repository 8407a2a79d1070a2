package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

type chromeContext = context.Context

// A page is a tab in a real Chromium.
type page struct {
	t   testing.TB
	ctx chromeContext
}

// openPage starts a Chromium without a window and opens the address.
func openPage(t testing.TB, address string, flags ...chromedp.ExecAllocatorOption) *page {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine: install it, for example `apt-get install chromium`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, append(options, flags...)...)
	t.Cleanup(cancelAllocator)
	ctx, cancelContext := chromedp.NewContext(ctx)
	t.Cleanup(cancelContext)
	if _, err := chromedp.Run(ctx, chromedp.Navigate(address)); err != nil {
		t.Fatal(err)
	}
	return &page{t, ctx}
}

// tab opens the address in another tab of the same browser.
func (p *page) tab(address string) *page {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	p.t.Cleanup(cancel)
	if _, err := chromedp.Run(ctx, chromedp.Navigate(address)); err != nil {
		p.t.Fatal(err)
	}
	return &page{p.t, ctx}
}

// until waits until an expression is true.
func (p *page) until(js string) {
	p.t.Helper()
	if _, err := chromedp.Run(
		p.ctx,
		chromedp.Poll[bool](
			// What throws is not so yet: the page may show later what its state says now.
			"(() => { try { return ("+js+") } catch (e) { window.thrown = String(e); return false } })()",
			chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(2*time.Minute)),
	); err != nil {
		state, _ := chromedp.Run(
			p.ctx,
			chromedp.Evaluate[string](
				// Not what is in the field: it may be a token.
				`JSON.stringify({focus: document.activeElement?.cloneNode(false).outerHTML
						.replace(/ value="[^"]*"/, '').slice(0, 200),
					outline: getComputedStyle(document.activeElement).outline,
					got: window.got?.slice(-5), last: window.last, opens: window.opens, wrong: window.wrong,
					thrown: window.thrown,
					connection: window.stream?.getSnapshot().connection, tabs: window.stream?.getSnapshot().tabs,
					console: { ...window.topostream, events: window.topostream?.events?.slice(-5), head: 0, view: 0,
						preview: 0 },
					text: document.getElementById('console')?.innerText?.slice(0, 2000)})`),
		)
		p.t.Fatalf("%s: %v; the page has %s", js, err, state)
	}
}

// eventSource opens an EventSource on the page. It keeps in window: got, every event as "type id"; data, the journaled
// events' JSON; raw, the number of others; last, the newest id; opens, the number of connections; wrong, whatever
// breaks the promise.
func (p *page) eventSource(id, token string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { got: [], data: [], raw: 0, last: 0, opens: 0, wrong: [] });
		window.es = new EventSource('/api/v1/topologies/%s/events?token=%s');
		es.onopen = () => opens++;
		es.onmessage = (e) => wrong.push('an event without a name: ' + e.data);
		const take = (e) => {
			got.push(e.type + ' ' + e.lastEventId);
			let body;
			try { body = JSON.parse(e.data); } catch { wrong.push('no JSON: ' + e.data); return; }
			if (e.type === 'snapshot') { last = body.seq; return; }
			if (body.type !== e.type) wrong.push(e.type + ' holds ' + e.data);
			if (!body.journaled) { raw++; return; }
			if (body.seq !== last + 1 || e.lastEventId !== String(body.seq)) wrong.push(body.seq + ' came after ' + last);
			last = body.seq;
			data.push(e.data);
		};
		for (const type of ['snapshot', 'status', 'deleted', 'test', 'x', 'notify', 'unavailable', 'token_expired',
			'mutation.applied']) es.addEventListener(type, take);
		true`
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](fmt.Sprintf(script, id, token))); err != nil {
		p.t.Fatal(err)
	}
}

func TestARealBrowserGetsTheSnapshotAndWhatPsqlInjects(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	token := testToken(t)
	page := openPage(t, server+"/#token="+token+"&topology="+id)
	page.until(`!!window.topostream && window.topostream.lastSeq === 1`)
	page.until(`document.querySelector('[data-words]').textContent === 'live'`)
	page.eventSource(id, token)
	page.until(`window.got.includes('snapshot 1')`)
	const emit = `
SELECT topology_emit(id, 'test', '{"by": "psql"}') FROM topologies, generate_series(1, 3) WHERE name = 'demo'`
	if out, err := db.Psql(t, emit); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	page.until(`window.got.length === 4 && window.topostream.lastSeq === 4`)
	if got := chromeEval[[]string](t, page.ctx, `window.got`); !slices.Equal(got,
		[]string{"snapshot 1", "test 2", "test 3", "test 4"}) {
		t.Errorf("the page got %v", got)
	}
	page.until(`document.querySelector('[role=option][data-seq="4"]')?.textContent.includes('{"by":"psql"}')`)
}

func TestWhatTheReadmeShowsForAPageWorksAsPrinted(t *testing.T) {
	t.Parallel()
	long(t)
	_, script, found := strings.Cut(chapter(t, "README.md", "In a page of yours"), `<script type="module">`)
	script, _, ended := strings.Cut(script, "</script>")
	if !found || !ended {
		t.Fatal("README.md shows no script")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	page := openPage(t, startServer(t, db.URL)+"/")
	script = strings.NewReplacer( // what is evaluated is no module
		"0190f3a2-…", id, "import { TopologyStream } from '/topostream.js'",
		"const { TopologyStream } = await import('/topostream.js')").Replace(script)
	printed := "sessionStorage.token = '" + testToken(t) + "'; window.printed = [];\n" +
		"console.log = (...words) => printed.push(words.map((w) => w?.by ?? w).join(' '));\n"
	shown := "(async () => {" + printed + script + "window.stream = stream; window.source = source;})(); true"
	if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](shown)); err != nil {
		t.Fatal(err)
	}
	page.until(`window.stream?.getSnapshot().connection.state === 'open' && window.source?.readyState === 1`)
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'decky.service_added', '{"by": "psql"}')`, id)
	page.until(`window.printed.some((line) => line.includes('decky.service_added psql'))`)
	page.until(`window.printed.some((line) => line.startsWith('2 {') && line.includes('"by": "psql"'))`)
}

func TestARealBrowserResumesByItselfAfterAServerRestart(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := serve(t, db.URL, nil)
	page := openPage(t, server.url+"/#token="+testToken(t)+"&topology="+id)
	page.eventSource(id, testToken(t))
	page.until(`window.last === 1 && window.topostream.lastSeq === 1`)
	var head uint64
	for restart := range 2 {
		for range 5 {
			head = emit(t, conn, id)
		}
		page.until(fmt.Sprintf(`window.last === %d`, head))
		server.stop()
		for range 5 {
			emit(t, conn, id) // nobody listens
		}
		server = serve(t, db.URL, func(c *serveCmd) { c.Addr = server.url[len("http://"):] })
		head = emit(t, conn, id)
		page.until(
			fmt.Sprintf(`window.last === %d && window.opens === %d && window.topostream.lastSeq === %[1]d`, head, restart+2))
	}
	if wrong := chromeEval[[]string](t, page.ctx, `window.wrong`); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	if got := chromeEval[[]string](t, page.ctx, `window.got.filter((e) => e.startsWith('snapshot'))`); len(got) != 1 {
		t.Errorf("snapshots: %v", got)
	}
	if got, want := chromeEval[[]string](t, page.ctx, `window.data`), journal(t, server.url, id, 1); !slices.Equal(got,
		want) {
		t.Errorf("the page has %d events, the journal %d", len(got), len(want))
	}
}

// chromeEval evaluates an expression in the page.
func chromeEval[T any](t testing.TB, ctx chromeContext, js string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](js))
	if err != nil {
		t.Fatalf("%s: %v", js, err)
	}
	return v
}
