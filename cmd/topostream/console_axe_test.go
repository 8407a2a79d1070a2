package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// axe is what `npm ci` in stream/console/web brings: the gate runs this test after it.
const axe = "../../stream/console/web/node_modules/axe-core/axe.min.js"

// An axeLook has axe-core look at a page as it is, dark and light.
type axeLook struct {
	*page

	script string
}

// at waits for a condition and then looks; name is the state's.
func (a axeLook) at(name, reached string) {
	a.t.Helper()
	a.until(reached)
	if !chromeEval[bool](a.t, a.ctx, `!!window.axe`) {
		chromeEval[bool](a.t, a.ctx, a.script+"\n;true")
	}
	for _, scheme := range []string{"dark", "light"} {
		a.media("prefers-color-scheme", scheme)
		a.until(`document.getAnimations().length === 0`)
		a.until(reached)
		chromeEval[bool](a.t, a.ctx, `(window.found = null, axe.run(document, { resultTypes: ['violations'] })
			.then(({ violations }) => { window.found = violations.flatMap((v) => v.nodes.map((node) =>
				v.id + ': ' + node.target.join(' ') + ': ' + node.failureSummary)); },
				(error) => { window.found = [String(error)]; }), true)`)
		a.until(`window.found !== null`)
		for _, violation := range chromeEval[[]string](a.t, a.ctx, `window.found`) {
			a.t.Errorf("%s, %s: %s", name, scheme, violation)
		}
	}
}

// panel looks at what the address opens by name.
func (a axeLook) panel(name, selector string) {
	a.t.Helper()
	a.look("panel", name)
	a.at(name, fmt.Sprintf(`!!document.querySelector(%q)`, selector))
	a.look("panel")
	a.until(fmt.Sprintf(`!document.querySelector(%q)`, selector))
}

// TestAxeFindsNothingInAnyStateOfTheConsole has axe-core look at the page: names, roles, contrast, order of headings.
func TestAxeFindsNothingInAnyStateOfTheConsole(t *testing.T) {
	t.Parallel()
	long(t)
	script, err := os.ReadFile(axe)
	if err != nil {
		t.Skipf("axe-core is not here: run `npm ci` in stream/console/web: %v", err)
	}
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	ids := live(t, conn, 3)
	id := ids[0]
	server := serve(t, db.URL, withWorker)
	editGraph(t, conn, id)
	pgtest.Exec(t, conn, `UPDATE deckies SET state = 'failed' WHERE name = 'db'`)
	page := axeLook{openConsole(t, server.url, operatorToken(t), id), string(script)}

	page.at("the topology", `true`)
	page.choose("web")
	page.at("a decky", `document.querySelector('aside[aria-label=Inspector] h2')?.textContent === 'web'`)
	page.with(chromedp.ModifierShift, kb.F10)
	page.at("the menu", `!!document.querySelector('[role=menu]')`)
	page.keys(kb.Escape)
	page.choose("plant")
	page.at("a LAN without members", `!!document.querySelector('aside[aria-label=Inspector] [data-line]')`)
	page.look("sel", "event:2")
	page.at("an event", `!!document.querySelector('[data-event="2"]')`)
	page.press(shellEvents, "Enter")
	page.at("an open payload", `!!document.querySelector('.timeline-payload')`)
	page.fill("#timeline-filter", "colour:red")
	page.at("a wrong filter", `document.getElementById('timeline-filter').ariaInvalid === 'true'`)
	page.fill("#timeline-filter", "")
	page.look("sel")
	page.look("view", "table")
	page.at("the table", `!!document.querySelector('table')`)
	page.look("view")
	for _, name := range []string{"commands", "keys", "licences", "signin", "create", "delete", "status-tearing_down"} {
		page.panel(name, "dialog[open]")
	}
	page.panel("inject", "aside[aria-label=psql]")
	page.look("at", "5")
	page.at("the past", `window.topostream.past && window.topostream.view.seq === 5`)
	page.look("at")
	page.command("Find in the graph")
	page.keys("we")
	page.at("what was found", `document.querySelectorAll('[aria-label=Found] [role=option]').length === 1`)
	page.keys(kb.Escape)

	page.command("Add a subnet…")
	page.at("the form of a LAN", `!!document.querySelector('dialog[open] input')`)
	page.keys(kb.Enter)
	page.at("staged edits", `window.topostream.staged.length === 1`)
	enqueueLAN(t, conn, id, "lab")
	page.until(`window.topostream.head.graph.lans.length === 3`)
	page.command("Apply what is staged")
	page.at("a conflict", `window.topostream.sending === 'conflict'`)
	page.command("Discard what is staged")
	// Triggers refuse what the page cannot foresee: as it is applied, and as it is asked for.
	stage := func() {
		t.Helper()
		page.command("Add a subnet…")
		page.until(`!!document.querySelector('dialog[open] input')`)
		page.keys(kb.Enter)
		page.until(`window.topostream.staged.length === 1`)
	}
	pgtest.Exec(t, conn, `CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'not on Sundays'; END $$`)
	pgtest.Exec(t, conn, `CREATE TRIGGER forbid BEFORE INSERT ON lans FOR EACH ROW EXECUTE FUNCTION forbid()`)
	stage()
	page.command("Apply what is staged")
	page.at("staged edits that failed", `window.topostream.sending === 'failed'`)
	page.command("Discard what is staged")
	pgtest.Exec(t, conn, `DROP TRIGGER forbid ON lans`)
	stage()
	pgtest.Exec(t, conn, `CREATE TRIGGER forbid BEFORE INSERT ON mutations FOR EACH ROW EXECUTE FUNCTION forbid()`)
	page.command("Apply what is staged")
	page.at("staged edits that are refused", `window.topostream.sending === 'refused'`)
	page.command("Discard what is staged")
	pgtest.Exec(t, conn, `DROP TRIGGER forbid ON mutations`)
	enqueueOp(t, conn, id, "remove_lan", `{"name":"nowhere"}`)
	page.at("an edit that failed", `!!document.querySelector('[aria-label="Failed edits"] [data-reason]')`)
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `LOCK TABLE lans IN ACCESS EXCLUSIVE MODE`)
	page.open(ids[1])
	page.at("a topology whose snapshot is coming", `!!document.querySelector('main[data-state=loading]')`)
	pgtest.Exec(t, conn, `ROLLBACK`)
	page.open("00000000-0000-4000-8000-000000000000")
	page.at("a topology that is not there", `!!document.querySelector('main[data-state=unknown]')`)

	page.load(server.url, testToken(t), id)
	page.at("a viewer's", `typeof window.topostream.editable === 'string'`)
	small := func(tab string) {
		t.Helper()
		page.until(`!!document.querySelector('#tab-` + tab + `')`)
		at := page.centre("#tab-" + tab)
		page.editDo(chromedp.MouseClickXY(at.x, at.y))
		page.at("390 px, "+tab, `document.querySelector('#tab-`+tab+`').ariaSelected === 'true'`)
	}
	page.editDo(chromedp.EmulateViewport(390, 844))
	for _, tab := range []string{"list", "graph", "timeline", "inspector"} {
		small(tab)
	}
	page.editDo(chromedp.EmulateViewport(1440, 900))

	only, ok := stream.ParseTopologyID(ids[1])
	if !ok {
		t.Fatal(ids[1])
	}
	limited, err := auth.Sign([]byte(testSecret), auth.Claims{
		Subject: "x", Role: stream.RoleViewer, TTL: time.Hour, Topologies: []stream.TopologyID{only},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	page.editDo(chromedp.Navigate(server.url + "/#token=" + limited + "&topology=" + id))
	page.at("403", `!!document.querySelector('main[data-state=forbidden]')`)

	ending := signed(t, auth.Claims{Subject: "x", Role: stream.RoleAdmin, TTL: 3 * time.Second})
	page.editDo(chromedp.Navigate(server.url + "/#token=" + ending + "&topology=" + id)) // it may end before a snapshot
	page.at("a token that has ended",
		`document.querySelector('dialog[open]')?.textContent.includes('The token has ended')`)

	page.load(server.url, operatorToken(t), ids[2])
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, ids[2])
	page.at("deleted while it is open", `!!document.querySelector('main[data-state=deleted]')`)
	pgtest.Exec(t, conn, `DELETE FROM topologies`)
	page.open("")
	page.at("no topology", `!!document.querySelector('main[data-state=empty]')`)
	again := live(t, conn, 1)[0]
	page.open(again)
	page.at("a topology with nothing in it", `!!document.querySelector('.graph-stage [data-line=insert-lan]')`)

	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	page.at("the database is away", `window.topostream.words.startsWith('database away')`)
	server.stop()
	page.at("the server is away", `window.topostream.state === 'waiting' && !!document.querySelector('.stale')`)
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	after, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = after.Close(t.Context()) })
	server = serve(t, db.URL, nil)
	chromeEval[bool](t, page.ctx, `(sessionStorage.clear(), true)`)
	page.editDo(chromedp.Navigate(server.url))
	page.at("signed out", `document.querySelector('dialog[open]')?.ariaLabel === 'Sign in'`)
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	page.editDo(chromedp.Navigate(server.url + "/#token=" + operatorToken(t) + "&topology=" + again))
	page.at("the database is away and nothing has come",
		`document.querySelector('main[data-state=away] h2')?.textContent === 'The database is away'`)
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
}
