package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// manySource opens a native EventSource of many topologies on the page. It keeps in window: last, the newest seq of
// each topology; snapshots, how many each got; opens, the number of connections; wrong, whatever breaks the promise.
func (p *page) manySource(ids []string, token string) {
	p.t.Helper()
	const script = `
		Object.assign(window, { last: {}, snapshots: {}, opens: 0, wrong: [] });
		window.es = new EventSource('/api/v1/events?topology=%s&token=%s');
		es.onopen = () => opens++;
		const take = (e) => {
			const body = JSON.parse(e.data);
			if (e.type === 'snapshot') {
				const id = body.topology_id;
				if (last[id] > body.seq) wrong.push(id + ' went back to ' + body.seq + ' from ' + last[id]);
				snapshots[id] = (snapshots[id] ?? 0) + 1;
				last[id] = body.seq;
				return;
			}
			if (!body.journaled) return;
			const id = body.topic.split('.')[1];
			if (body.seq !== last[id] + 1) wrong.push(id + ': ' + body.seq + ' came after ' + last[id]);
			last[id] = body.seq;
		};
		for (const type of ['snapshot', 'test', 'unavailable']) es.addEventListener(type, take);
		true`
	code := fmt.Sprintf(script, strings.Join(ids, "&topology="), token)
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](code)); err != nil {
		p.t.Fatal(err)
	}
}

func TestARealBrowserFollowsManyTopologiesOnOneConnectionThroughServerRestarts(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 20)
	server := serve(t, db.URL, nil)
	page := openPage(t, server.url+"/")
	page.manySource(ids, testToken(t))
	page.until(`Object.keys(window.last).length === 20`)
	heads := func() string {
		all := make([]string, 0, len(ids))
		for i, id := range ids {
			var head uint64
			for range i%3 + 1 {
				head = emit(t, conn, id)
			}
			all = append(all, fmt.Sprintf(`window.last[%q] === %d`, id, head))
		}
		return strings.Join(all, " && ")
	}
	page.until(heads())
	for restart := range 2 {
		server.stop()
		heads() // nobody listens
		server = serve(t, db.URL, func(c *serveCmd) { c.Addr = server.url[len("http://"):] })
		page.until(fmt.Sprintf(`window.opens === %d && %s`, restart+2, heads()))
	}
	if wrong := chromeEval[[]string](t, page.ctx, `window.wrong`); len(wrong) > 0 {
		t.Errorf("%q", wrong)
	}
	// A native EventSource cannot say what it has of each: it gets a snapshot of each again.
	if n := chromeEval[int](t, page.ctx, `Object.values(window.snapshots).filter((n) => n === 3).length`); n != 20 {
		t.Errorf("%d of 20 topologies got a snapshot on each of 3 connections", n)
	}
}
