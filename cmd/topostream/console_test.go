package main

import (
	"encoding/json"
	"fmt"
	"slices"
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
	token, err := auth.Sign([]byte(testSecret), auth.Claims{Subject: "operator", Role: stream.RoleAdmin, TTL: time.Hour}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func withWorker(c *serveCmd) { c.Mutator = true }

func TestTheConsoleEnqueuesAnOpAndShowsItMove(t *testing.T) {
	t.Parallel()
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

// BenchmarkPostToBrowser is the way of one edit on an idle machine, from the page's fetch to its EventSource's mutation.applied, in a real Chromium, and a raw
// NOTIFY's way to a LISTEN beside it in the same run. An iteration is 50 of each.
func BenchmarkPostToBrowser(b *testing.B) {
	db := pgtest.New(b)
	conn, listener := db.Conn(b), db.Conn(b)
	id := live(b, conn, 1)[0]
	server := serve(b, db.URL, withWorker)
	page := openPage(b, server.url+"/livez")
	const script = `(async () => {
		const es = new EventSource('/api/v1/topologies/%[1]s/events?token=%[2]s');
		await new Promise((open) => es.addEventListener('snapshot', open, { once: true }));
		let applied;
		es.addEventListener('mutation.applied', (e) => applied(JSON.parse(e.data).payload.mutation_id));
		const times = [];
		for (let i = 0; i < 50; i++) {
			const body = JSON.stringify(i %% 2 ? { op: 'remove_lan', payload: { name: 'l' } } : { op: 'add_lan', payload: { name: 'l' } });
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
		answer, err := chromedp.Run(page.ctx, chromedp.Evaluate[string](fmt.Sprintf(script, id, operatorToken(b)), chromedp.EvalAwaitPromise))
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
