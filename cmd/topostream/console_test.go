package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// operatorToken is a token that may enqueue.
func operatorToken(t testing.TB) string {
	t.Helper()
	return signed(t, auth.Claims{Subject: "operator", Role: stream.RoleAdmin, TTL: time.Hour})
}

func withWorker(c *serveCmd) { c.Mutator = true }

func TestTheConsoleRunsNothingThatIsNotItsOwnAndShowsMarkupAsText(t *testing.T) {
	t.Parallel()
	long(t)
	const markup = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := topology(t, conn, markup)
	server := startServer(t, db.URL)
	page := openPage(t, "about:blank")
	page.beforeLoading(`window.violations = [];
		addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective))`)
	page.load(server, testToken(t), id)
	if violated := chromeEval[string](t, page.ctx, `window.violations.join()`); violated != "" {
		t.Errorf("the page broke its own policy as it was loaded: %s", violated)
	}
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object($2::text, $2::text))`, id,
		markup)
	awaitListen(t, server, 1)
	pgtest.Exec(t, conn, `SELECT pg_notify('topology.' || $1::text, $2)`, id, markup)
	pgtest.Exec(t, conn,
		`INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'remove_lan', jsonb_build_object('name', $2::text))`,
		id, markup)
	page.until(`window.topostream.events.filter((e) => e.type !== 'status').length === 3`)
	page.until(`document.querySelectorAll('[aria-label=Events] [role=option]').length === 4`)
	for _, kind := range []string{"test", "notify", "mutation.enqueued"} { // its payload, opened and in the inspector
		page.click(`[role=option][data-type="` + kind + `"]`)
		page.press(`[role=listbox][aria-label=Events]`, "Enter")
		page.until(`document.querySelector('[aria-label^="Payload of ` + kind + `"]')?.textContent.includes('<script>')`)
		page.press(`[role=listbox][aria-label=Events]`, "Enter")
	}
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll(
		'#console img, #console script, #console iframe').length`); n != 0 {
		t.Errorf("%d elements out of a payload", n)
	}
	// The name is in the list, in the bar and in the title; the payloads are in the timeline and the inspector.
	if text := chromeEval[string](t, page.ctx, `document.getElementById('console').textContent + document.title`); strings.
		Count(text, "<script>window.hacked=1</script>") < 6 {
		t.Errorf("the page shows %q", text)
	}
	if n := chromeEval[int](t, page.ctx, `window.violations.length`); n != 0 {
		t.Errorf("%d violations by what the page shows", n)
	}
	// What gets into the page all the same does not run.
	const inject = `(() => {
		const script = document.createElement('script');
		script.textContent = 'window.hacked = 1';
		document.body.append(script);
		document.body.insertAdjacentHTML('beforeend',
			'<img src="https://elsewhere.invalid/x.png" onerror="window.hacked=1"><p style="color:red">x</p>');
		return true;
	})()`
	chromeEval[bool](t, page.ctx, inject)
	page.until(`['script-src-elem', 'script-src-attr', 'img-src', 'style-src-attr'].every((d) =>
		window.violations.includes(d))`)
	if hacked := chromeEval[bool](t, page.ctx, `!!window.hacked`); hacked {
		t.Error("an injected script ran")
	}
}

func TestTheConsoleLeavesNoTokenInTheAddressAndGoesOnWithANewOne(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+testToken(t)+"&topology="+id)
	page.until(`!!window.topostream && window.topostream.lastSeq === 1`)
	if hash := chromeEval[string](t, page.ctx, `location.hash`); strings.Contains(hash, "token") ||
		!strings.Contains(hash, id) {
		t.Errorf("the address bar shows %q", redact(hash))
	}
	if kept := chromeEval[string](t, page.ctx, `JSON.stringify(Object.values(localStorage)) + document.cookie`); strings.
		Contains(kept, "eyJ") {
		t.Error("the token outlives the tab")
	}
	short := signed(t, auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: 6 * time.Second})
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+short+`'`)
	page.until(`/token ends in [1-6] s/.test(window.topostream.words)`)
	page.until(`document.querySelector('dialog[open]')?.textContent.includes('The token has ended')`)
	head := emit(t, conn, id)
	ended := signed(t, auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: -time.Minute}) // by each of two clocks
	page.fill(`#signin-token`, ended)
	page.click(`dialog[open] [type=submit]`)
	page.until(`document.querySelector('dialog[open] #signin-problem').textContent === 'This token has ended.'`)
	page.fill(`#signin-token`, " Bearer "+testToken(t)+"\n")
	page.click(`dialog[open] [type=submit]`)
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && window.topostream.state === 'open'`, head))
	page.until(`!document.querySelector('dialog[open]')`)
	head = emit(t, conn, id)
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+testToken(t)+`'`) // a link, opened in this tab
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && window.topostream.open.id === '%s'`, head, id))
	page.holdsThePromise(2)
	if requested := chromeEval[string](t, page.ctx,
		`performance.getEntriesByType('resource').map((e) => e.name).join(' ')`); !strings.Contains(requested, id) ||
		strings.Contains(requested, "eyJ") {
		t.Errorf("the page requested %s", redact(requested))
	}
	if href := chromeEval[string](t, page.ctx, `location.href`); strings.Contains(href, "eyJ") {
		t.Errorf("the address bar shows %q", redact(href))
	}
}

// BenchmarkPostToBrowser is the way of one edit on an idle machine, from the page's fetch to its EventSource's
// mutation.applied, in a real Chromium, and a raw NOTIFY's way to a LISTEN beside it in the same run. An iteration is
// 50 of each.
func BenchmarkPostToBrowser(b *testing.B) {
	db := pgtest.New(b)
	conn, listener := db.Conn(b), db.Conn(b)
	id := live(b, conn, 1)[0]
	server := serve(b, db.URL, withWorker)
	page := openPage(b, server.url+"/")
	const script = `(async () => {
		const es = new EventSource('/api/v1/topologies/%[1]s/events?token=%[2]s');
		await new Promise((open) => es.addEventListener('snapshot', open, { once: true }));
		let applied;
		es.addEventListener('mutation.applied', (e) => applied(JSON.parse(e.data).payload.mutation_id));
		const times = [];
		for (let i = 0; i < 50; i++) {
			const body = JSON.stringify(i %% 2 ? { op: 'remove_lan', payload: { name: 'l' } }
				: { op: 'add_lan', payload: { name: 'l' } });
			const heard = new Promise((done) => { applied = done; });
			const start = performance.now();
			const answer = await fetch('/api/v1/topologies/%[1]s/mutations',
				{ method: 'POST', body, headers: { 'Content-Type': 'application/json', Authorization: 'Bearer %[2]s' } });
			if (answer.status !== 202) throw new Error(await answer.text());
			await heard;
			times.push(performance.now() - start);
		}
		es.close();
		return JSON.stringify(times);
	})()`
	pgtest.Exec(b, listener, `LISTEN raw`)
	var edits, raws []float64 // milliseconds
	for b.Loop() {
		var times []float64
		answer, err := chromedp.Run(page.ctx,
			chromedp.Evaluate[string](fmt.Sprintf(script, id, operatorToken(b)), chromedp.EvalAwaitPromise))
		if err != nil {
			b.Fatal(err)
		}
		if err := json.Unmarshal([]byte(answer), &times); err != nil {
			b.Fatal(err)
		}
		edits = append(edits, times...)
		for range times {
			start := time.Now()
			pgtest.Exec(b, conn, `NOTIFY raw`)
			if _, err := listener.WaitForNotification(b.Context()); err != nil {
				b.Fatal(err)
			}
			raws = append(raws, time.Since(start).Seconds()*1000)
		}
	}
	for name, times := range map[string][]float64{"post-to-browser": edits, "raw-notify": raws} {
		slices.Sort(times)
		b.ReportMetric(times[len(times)/2], name+"-p50-ms")
		b.ReportMetric(times[len(times)*99/100], name+"-p99-ms")
	}
}

// A browser opens six connections to one address over HTTP/1.1: what comes then waits, and the console says for what.
func TestTheConsoleSaysThatOtherTabsHoldAllConnections(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := live(t, db.Conn(t), 1)[0]
	server := serve(t, db.URL, withWorker)
	token := operatorToken(t)
	page := openPage(t, server.url+"/")
	page.until(`window.topostream?.state === 'refused'`)
	others := fmt.Sprintf(`window.others = Array.from({ length: 6 }, () => new EventSource(
		'/api/v1/topologies/%s/events?token=%s')); true`, id, token)
	chromeEval[bool](t, page.ctx, others)
	page.until(`window.others.every((other) => other.readyState === EventSource.OPEN)`)
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+token+`&topology=`+id+`'`)
	page.until(`window.topostream.words === 'no answer yet' &&
		document.querySelector('[aria-label^="Connection:"]').title.includes('six connections')`)
	chromeEval[bool](t, page.ctx, `window.others[0].close(); true`)
	page.until(`window.topostream.state === 'open' && window.topostream.words === 'live'`)
	page.holdsThePromise(0)
}
