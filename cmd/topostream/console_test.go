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
	token, err := auth.Sign([]byte(testSecret), auth.Claims{Subject: "operator", Role: stream.RoleAdmin, TTL: time.Hour},
		time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func withWorker(c *serveCmd) { c.Mutator = true }

func TestTheConsoleEnqueuesAnOpAndShowsItMove(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := live(t, db.Conn(t), 1)[0]
	server := serve(t, db.URL, withWorker)
	page := openPage(t, server.url+"/#token="+operatorToken(t)+"&topology="+id)
	page.until(`!!window.topostream && window.topostream.state === 'open'`)
	fill := func(op, payload string) {
		t.Helper()
		js := fmt.Sprintf(`document.getElementById('op').value = %q; document.getElementById('payload').value = %q;
			document.getElementById('enqueue').requestSubmit(); true`, op, payload)
		if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](js)); err != nil {
			t.Fatal(err)
		}
	}
	fill("add_lan", `{"name":"dmz","is_dmz":true}`)
	page.until(`document.querySelector('#mutations td[data-state="applied"]') !== null`)
	states := chromeEval[[]string](t, page.ctx, `window.topostream.events.map((e) => e.type)`)
	if !slices.Equal(states, []string{"mutation.enqueued", "mutation.applying", "mutation.applied"}) {
		t.Errorf("the page saw %v", states)
	}
	fill("remove_lan", `{"name":"nowhere"}`)
	page.until(`document.querySelector('#mutations td[data-state="failed"]') !== null`)
	if row, err := chromedp.Run(page.ctx, chromedp.Text("#mutations tr")); err != nil || len(row) == 0 {
		t.Errorf("%q, %v", row, err)
	}
	fill("add_lan", `{"name":7}`)
	page.until(`document.getElementById('answer').textContent.startsWith('400: payload.name')`)
}

func TestTheConsoleRunsNothingThatIsNotItsOwnAndShowsMarkupAsText(t *testing.T) {
	t.Parallel()
	long(t)
	const markup = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := topology(t, conn, markup)
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+testToken(t)+"&topology="+id)
	page.until(`!!window.topostream && window.topostream.state === 'open'`)
	if violated := chromeEval[int](
		t,
		page.ctx,
		`(() => { window.violations = []; addEventListener('securitypolicyviolation', (e) => `+
			`violations.push(e.violatedDirective)); return violations.length; })()`,
	); violated != 0 {
		t.Error("the page broke its own policy")
	}
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object($2::text, $2::text))`, id,
		markup)
	pgtest.Exec(t, conn, `SELECT pg_notify('topology.' || $1::text, $2)`, id, markup)
	pgtest.Exec(t, conn,
		`INSERT INTO mutations (topology_id, op, payload) VALUES ($1, 'remove_lan', jsonb_build_object('name', $2::text))`,
		id, markup)
	page.until(`window.topostream.events.length === 3`)
	if n := chromeEval[int](
		t,
		page.ctx,
		`document.querySelectorAll('#events img, #events script, #mutations img, #mutations script, #snapshot img').length`,
	); n != 0 {
		t.Errorf("%d elements out of a payload", n)
	}
	if text := chromeEval[string](t, page.ctx, `document.getElementById('events').textContent`); strings.Count(text,
		"<script>window.hacked=1</script>") < 3 {
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
			'<img src="/nothing.png" onerror="window.hacked=1"><p style="color:red">x</p>');
		return true;
	})()`
	chromeEval[bool](t, page.ctx, inject)
	page.until(`['script-src-elem', 'img-src', 'style-src-attr'].every((d) => window.violations.includes(d))`)
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
	short, err := auth.Sign([]byte(testSecret), auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: 6 * time.Second},
		time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+short+`'`)
	page.until(`window.topostream.events.some((e) => e.type === 'token_expired') && window.topostream.state === 'closed'`)
	if said := chromeEval[string](t, page.ctx, `document.getElementById('message').textContent`); !strings.Contains(said,
		"has expired: give a new one") {
		t.Errorf("the page says %q", said)
	}
	head := emit(t, conn, id)
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+testToken(t)+`'`)
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && window.topostream.state === 'open'`, head))
	if got := chromeEval[[]string](t, page.ctx, `window.topostream.events.map((e) => e.type)`); !slices.Equal(got,
		[]string{"token_expired", "test"}) {
		t.Errorf("the page got %v", got)
	}
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
	page := openPage(t, server.url+"/#token="+token+"&topology="+id)
	page.until(`!!window.topostream && window.topostream.state === 'open'`)
	others := fmt.Sprintf(`window.others = Array.from({ length: 5 }, () => new EventSource(
		'/api/v1/topologies/%s/events?token=%s')); true`, id, token)
	if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](others)); err != nil {
		t.Fatal(err)
	}
	page.until(`window.others.every((other) => other.readyState === EventSource.OPEN)`)
	const enqueue = `document.getElementById('op').value = 'add_lan';
		document.getElementById('payload').value = '{"name":"a"}';
		document.getElementById('enqueue').requestSubmit(); true`
	if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](enqueue)); err != nil {
		t.Fatal(err)
	}
	page.until(`document.getElementById('message').textContent.includes('six connections')`)
	if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](`window.others[0].close(); true`)); err != nil {
		t.Fatal(err)
	}
	page.until(`document.getElementById('answer').textContent.startsWith('queued') &&
		document.getElementById('message').textContent === ''`)
}
