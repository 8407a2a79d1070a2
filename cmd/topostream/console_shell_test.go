package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// The journeys of the console's shell: list, signature, timeline, and the states of the page.

const (
	shellList   = `[role=listbox][aria-label=Topologies]`
	shellEvents = `[role=listbox][aria-label=Events]`
)

// click clicks on the first element that is shown for a selector, once it is there.
func (p *page) click(selector string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`!!document.querySelector(%q)`, selector))
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`(document.querySelector(%q).click(), true)`, selector))
}

// press gives the focus to the element of a selector and presses a key, as KeyboardEvent.key names it.
func (p *page) press(selector, key string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`!!document.querySelector(%q)`, selector))
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`(() => {
		const element = document.querySelector(%q);
		element.focus();
		return element.dispatchEvent(new KeyboardEvent('keydown', { key: %q, bubbles: true, cancelable: true })) || true;
	})()`, selector, key))
}

// fill types a text into the field of a selector, in place of what is in it.
func (p *page) fill(selector, text string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`!!document.querySelector(%q)`, selector))
	quoted, err := json.Marshal(text)
	if err != nil {
		p.t.Fatal(err)
	}
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`(() => {
		const field = document.querySelector(%q);
		field.focus();
		field.value = %s;
		return field.dispatchEvent(new InputEvent('input', { bubbles: true }));
	})()`, selector, quoted))
}

// holdsThePromise fails unless the page says that nothing is missing, and has received so many events.
func (p *page) holdsThePromise(received int) {
	p.t.Helper()
	const counters = `JSON.stringify((({ received, missing, twice, late, violations }) =>
		({ received, missing, twice, late, violations }))(window.topostream))`
	want := fmt.Sprintf(`{"received":%d,"missing":0,"twice":0,"late":0,"violations":0}`, received)
	if got := chromeEval[string](p.t, p.ctx, counters); got != want {
		p.t.Errorf("the page counts %s, not %s", got, want)
	}
	p.until(`/^([\d,·]+) of \1, none missing$/.test(document.querySelector('[data-count]').textContent)`)
	p.until(`document.querySelector('[data-count]').dataset.holds === 'true'`)
}

// shellOpen opens the console with a token, and one topology unless id is empty.
func shellOpen(t *testing.T, server, token, id string, more ...chromedp.ExecAllocatorOption) *page {
	t.Helper()
	address := server + "/#token=" + token
	if id != "" {
		address += "&topology=" + id
	}
	p := openPage(t, address, more...)
	p.until(`window.topostream?.state === 'open' && window.topostream.rows !== null`)
	if id != "" {
		p.until(`window.topostream.lastSeq > 0`)
	}
	return p
}

// shellRows gives the names in the list as they are shown, from above.
func (p *page) shellRows() []string {
	p.t.Helper()
	const names = `[...document.querySelectorAll('[aria-label=Topologies] [role=option]')]
		.sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((row) => row.firstChild.textContent)`
	return chromeEval[[]string](p.t, p.ctx, names)
}

// shellUntilRows waits until the list shows these names in this order.
func (p *page) shellUntilRows(names ...string) {
	p.t.Helper()
	pgtest.Eventually(p.t, strings.Join(names, " "), func() bool { return slices.Equal(p.shellRows(), names) })
}

func shellPsql(t *testing.T, db *pgtest.DB, script string) {
	t.Helper()
	if out, err := db.Psql(t, script); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

func TestTheConsolesListFollowsPsqlAndIsSearchedSortedAndOpenedByKeys(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	server := startServer(t, db.URL)
	page := shellOpen(t, server, testToken(t), "")
	page.until(`document.querySelector('[data-state=empty]')?.textContent.includes('INSERT INTO topologies')`)
	shellPsql(t, db, `INSERT INTO topologies (name) SELECT 'site-' || i FROM generate_series(1, 11) i`)
	page.until(`window.topostream.rows === 11 && !!document.querySelector('[data-state=nothing]')`)
	names := make([]string, 11)
	for i := range names {
		names[i] = fmt.Sprint("site-", i+1) // 10 after 9, not after 1
	}
	page.shellUntilRows(names...)
	shellPsql(t, db, `UPDATE topologies SET status = 'deploying' WHERE name = 'site-3';
		UPDATE topologies SET status = 'failed', reason = 'no route' WHERE name = 'site-3';
		DELETE FROM topologies WHERE name = 'site-1'; UPDATE topologies SET name = 'a-new-name' WHERE name = 'site-2'`)
	page.shellUntilRows(append([]string{"a-new-name"}, names[2:]...)...)
	// State is colour and shape and word.
	page.until(`(() => {
		const row = document.querySelector('[role=option][data-status=failed]');
		const status = row?.querySelector('[data-status]');
		return row?.title === 'site-3: no route' && status.textContent === 'failed' && !!status.querySelector('svg path') &&
			getComputedStyle(status).color !== getComputedStyle(row).color;
	})()`)
	page.click(`[title^="Sort by status"]`)
	pgtest.Eventually(t, "what failed first", func() bool { return page.shellRows()[0] == "site-3" })
	chromeEval[bool](t, page.ctx, `(dispatchEvent(new KeyboardEvent('keydown', { key: '/' })), true)`)
	page.until(`document.activeElement?.id === 'list-search'`)
	page.fill("#list-search", "site-1")
	page.shellUntilRows("site-10", "site-11")
	page.until(`location.hash.includes('q=site-1') && location.hash.includes('sort=status')`)
	page.press("#list-search", "ArrowDown")
	page.press("#list-search", "ArrowDown")
	page.press("#list-search", "Enter")
	page.until(`window.topostream.open?.id === document.querySelector('[aria-posinset="2"]').dataset.id &&
		window.topostream.lastSeq === 1`)
	page.until(`document.querySelector('h1').textContent === 'site-11' && document.title.startsWith('site-11')`)
	page.press(shellList, "Home")
	page.press(shellList, "Enter")
	page.until(`document.querySelector('h1').textContent === 'site-10'`)
	chromeEval[bool](t, page.ctx, `(history.back(), true)`)
	page.until(`document.querySelector('h1').textContent === 'site-11'`)
	if _, err := chromedp.Run(page.ctx, chromedp.Reload()); err != nil { // all of it is in the address
		t.Fatal(err)
	}
	page.until(`document.querySelector('h1')?.textContent === 'site-11' && window.topostream.lastSeq === 1`)
	page.shellUntilRows("site-10", "site-11")
}

func TestTheConsolesTimelineShowsWhatPsqlInjectsWhoAskedAndWhatTheJournalHas(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	for range 1200 { // three pages of the journal
		emit(t, conn, id)
	}
	server := serve(t, db.URL, withWorker)
	page := shellOpen(t, server.url, operatorToken(t), id)
	page.until(`window.topostream.kept === 500`) // one page, unless somebody scrolls
	const strip = `.histogram[role=img][aria-label^=%q]`
	page.until(fmt.Sprintf(`!!document.querySelector('`+strip+` .unread')`, "Since "))
	head := emit(t, conn, id)
	page.until(fmt.Sprintf(`!!document.querySelector('[role=option][data-seq="%d"]')`, head)) // it follows

	const deep = `{"by": "psql", "deep": [1, {"two": 2}]}`
	shellPsql(t, db, fmt.Sprintf(`SELECT topology_emit('%s', 'decky.seen', '%s')`, id, deep))
	awaitListen(t, server.url, 1)
	shellPsql(t, db, fmt.Sprintf(`NOTIFY "topology.%s", 'typed by hand'`, id))
	page.until(`document.querySelector('[data-tone=raw]')?.textContent.match(/^.?raw.*notify.*typed by hand/) !== null`)
	shellPsql(t, db, fmt.Sprintf(`INSERT INTO mutations (topology_id, op, payload, requested_by)
		VALUES ('%s', 'remove_lan', '{"name": "nowhere"}', 'alice')`, id))
	page.until(`(() => {
		const row = document.querySelector('[role=option][data-type="mutation.failed"]');
		return row?.dataset.tone === 'failed' && row.textContent.endsWith('alice') && row.textContent.includes('nowhere');
	})()`)
	if n := chromeEval[int](t, page.ctx, `performance.getEntriesByType('resource').filter((e) =>
		e.name.includes('/mutations?')).length`); n != 1 {
		t.Errorf("%d requests to know who asked for three events of one mutation", n)
	}

	// A filter, a wrong one, and no filter.
	page.fill("#timeline-filter", "type:mutation.* -type:*.applying by:alice")
	page.until(`window.topostream.events.map((e) => e.type).join() === 'mutation.enqueued,mutation.failed'`)
	page.fill("#timeline-filter", "colour:red")
	page.until(`document.getElementById('timeline-filter').ariaInvalid === 'true' &&
		document.querySelector('.timeline [role=alert]').textContent.startsWith('there is no field colour')`)
	page.fill("#timeline-filter", "decky.seen")
	page.until(`window.topostream.shown === 1`)

	// The event that is selected is in the address and in the inspector; its payload opens.
	page.click(`[role=option][data-type="decky.seen"]`)
	seq := head + 1
	page.until(fmt.Sprintf(`location.hash.includes('sel=event%%3A%d') && document.querySelector(
		'[aria-label=Inspector] [data-event="%[1]d"]')?.textContent.includes('"psql"')`, seq))
	page.press(shellEvents, "Enter")
	page.until(`document.querySelector('[aria-label^="Payload of decky.seen"]')?.textContent.includes('two')`)
	page.fill("#timeline-filter", "")
	page.until(`window.topostream.shown > 1`)
	page.press(shellEvents, "ArrowUp") // one may go on reading what is open
	page.until(fmt.Sprintf(`location.hash.includes('sel=event%%3A%d') &&
		!!document.querySelector('[aria-label^="Payload of decky.seen"]')`, head))
	page.press(shellEvents, "ArrowDown")
	page.until(fmt.Sprintf(`location.hash.includes('sel=event%%3A%d')`, seq))
	page.press(shellEvents, "Enter")
	page.until(`!document.querySelector('[aria-label^="Payload of decky.seen"]')`)

	// Paused, it keeps what comes, and shows it afterwards.
	page.click(`.timeline [aria-keyshortcuts=p]`)
	before := chromeEval[int](t, page.ctx, `window.topostream.kept`)
	for range 3 {
		head = emit(t, conn, id)
	}
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && document.querySelector(
		'.timeline [aria-keyshortcuts=p]').textContent === 'Paused, 3 wait: go on'`, head))
	if now := chromeEval[int](t, page.ctx, `window.topostream.kept`); now != before {
		t.Errorf("%d rows while it is paused, %d before", now, before)
	}
	page.click(`.timeline [aria-keyshortcuts=p]`)
	page.until(fmt.Sprintf(`window.topostream.kept === %d`, before+3))

	// Upwards, to the first event.
	pgtest.Eventually(t, "the journal's first event", func() bool {
		return chromeEval[bool](t, page.ctx, `(() => {
			document.querySelector('.timeline-scroll').scrollTop = 0;
			return !!document.querySelector('[role=option][data-seq="1"]');
		})()`)
	})
	seqs := `window.topostream.kept - window.topostream.events.filter((e) => e.kind === 'raw').length`
	page.until(fmt.Sprintf(`%s === %d`, seqs, head))
	page.until(fmt.Sprintf(`(document.querySelector('`+strip+`')?.querySelectorAll('rect:not(.unread)').length ?? 0) > 1 &&
		!document.querySelector('.histogram .unread')`, fmt.Sprintf("Last hour: %d events,", head+1))) // a raw one, too
	page.until(`window.topostream.latency?.count > 0 &&
		document.querySelector('[data-latency]')?.textContent.startsWith('p50')`)
	page.holdsThePromise(int(head - 1203))
}

func TestAnOpenPayloadStaysInViewWhenOlderEventsComeAboveIt(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	for range 60 {
		emit(t, conn, id)
	}
	page := openPage(t, "about:blank")
	page.beforeLoading(`try { // not that of about:blank
			localStorage.setItem('topostream.layout', '{"size":{"timeline":600}}'); // so that it can be seen whole
		} catch {}
		window.fetched = window.fetch;
		window.journal = new Promise((release) => { window.release = release; });
		window.fetch = async (...request) => {
			const answer = await fetched(...request);
			if (String(request[0]).includes('/journal')) await window.journal;
			return answer;
		}`)
	page.editDo(chromedp.EmulateViewport(1440, 1200))
	page.load(startServer(t, db.URL), testToken(t), id)
	head := emit(t, conn, id)
	page.click(fmt.Sprintf(`[role=option][data-seq="%d"]`, head))
	page.press(shellEvents, "Enter")
	const seen = `(() => {
		const pane = document.querySelector('.timeline-scroll').getBoundingClientRect();
		const { top, bottom } = document.querySelector('[aria-label^="Payload of"]').getBoundingClientRect();
		return top >= pane.top && bottom <= pane.bottom + 1;
	})()`
	page.until(seen)
	chromeEval[bool](t, page.ctx, `(window.release(), true)`)
	page.until(fmt.Sprintf(`window.topostream.kept === %d`, head))
	page.until(fmt.Sprintf(`document.querySelector('[role=option][data-seq="%d"]')?.ariaPosInSet === '%[1]d'`, head))
	page.until(seen)
	for range 60 { // nor do those that come below it carry it away
		head = emit(t, conn, id)
	}
	page.until(fmt.Sprintf(`window.topostream.kept === %d`, head))
	page.until(fmt.Sprintf(`!!document.querySelector('[role=option][data-seq="%d"][data-open=true]')`, head-60))
	page.until(seen)
}

func TestTheConsolesCounterStaysThoughTheServerIsKilledTwice(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	address := pgtest.FreeAddress(t)
	start := func() *process {
		cmd := exec.Command(buildProgram(t), "serve", "--database-url", db.URL, "--addr", address)
		cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
		server := startProcess(t, cmd)
		server.err.await(t, "msg=serving", server.ended)
		return server
	}
	server := start()
	page := shellOpen(t, "http://"+address, testToken(t), id)
	first := chromeEval[uint64](t, page.ctx, `window.topostream.lastSeq`)
	other := followBeside(t, "http://"+address, id)
	other.until(first)
	var head uint64
	for killed := range 2 {
		for range 5 {
			head = emit(t, conn, id)
		}
		page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, head))
		<-server.signal(syscall.SIGKILL)
		page.until(`/^(reconnecting (in \d+ s|now)|connecting)$/.test(window.topostream.words)`)
		page.until(fmt.Sprintf(`document.querySelector('[data-count]').textContent === '%d of %[1]d, none missing'`, head))
		page.until(fmt.Sprintf(`document.querySelector('main + [role=status], main ~ [role=status]')?.textContent.includes(
			'as of seq %d')`, head))
		for range 5 {
			emit(t, conn, id) // nobody listens
		}
		server = start()
		resumed := head
		head = emit(t, conn, id)
		page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && window.topostream.opens === %d`, head, killed+2))
		page.until(fmt.Sprintf(`window.topostream.words === 'resumed at %d' || window.topostream.words === 'live'`, resumed))
	}
	page.holdsThePromise(int(head - first))
	want := other.until(head)
	page.until(fmt.Sprintf(`window.topostream.events.at(-1)?.seq === %d`, head)) // it is told of many at once
	has := chromeEval[[]string](t, page.ctx, fmt.Sprintf(
		`window.topostream.events.filter((e) => e.seq > %d).map((e) => e.seq + ' ' + e.type)`, first))
	if len(want) != int(head-first) || !slices.Equal(has, want) {
		t.Errorf("of %d the page has %v, the client beside it %v", head-first, has, want)
	}
}

func TestTheConsoleSaysThatTheDatabaseIsAwayAndGoesOnAfterIt(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	head := emit(t, conn, id)
	server := serve(t, db.URL, nil)
	page := shellOpen(t, server.url, testToken(t), id)
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, head))
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	page.until(`window.topostream.words.startsWith('database away')`)
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	again, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close(t.Context()) }) // the cluster ends before it
	next := emit(t, again, id)
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d && window.topostream.state === 'open'`, next))
	page.holdsThePromise(int(next - head))
}

func TestTheConsoleDrawsATopologyThatIsDeletedUnknownOrNotForThisToken(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 3)
	server := startServer(t, db.URL)
	page := shellOpen(t, server, testToken(t), ids[0])
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, ids[0])
	page.until(`!!document.querySelector('main[data-state=deleted]') && window.topostream.rows === 2 &&
		window.topostream.events.at(-1).type === 'deleted'`)
	page.holdsThePromise(1)
	page.click(`main[data-state=deleted] button`)
	page.until(`!!document.querySelector('main[data-state=nothing]') && window.topostream.state === 'open'`)

	chromeEval[string](t, page.ctx, `location.hash = '#/00000000-0000-4000-8000-000000000000'`)
	page.until(`document.querySelector('main[data-state=unknown]')?.textContent.includes('404')`)

	only, ok := stream.ParseTopologyID(ids[1])
	if !ok {
		t.Fatal(ids[1])
	}
	limited := signed(t, auth.Claims{
		Subject: "x", Role: stream.RoleViewer, TTL: time.Hour, Topologies: []stream.TopologyID{only},
	})
	page = shellOpen(t, server, limited, "")
	page.until(`window.topostream.rows === 1`)
	chromeEval[string](t, page.ctx, `location.hash = '#/`+ids[2]+`'`)
	page.until(`document.querySelector('main[data-state=forbidden]')?.textContent.includes('403')`)
	page.click(`main[data-state=forbidden] button`)
	page.click(`[role=option][data-id="` + ids[1] + `"]`)
	page.until(`window.topostream.open?.seq === 3 && window.topostream.state === 'open'`)
}

func TestTheConsolesCommandsKeysAndPanesAreReachedByKeyboard(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := live(t, db.Conn(t), 1)[0]
	page := shellOpen(t, startServer(t, db.URL), testToken(t), id)
	key := func(key string, ctrl bool) {
		t.Helper()
		chromeEval[bool](t, page.ctx, fmt.Sprintf(`(dispatchEvent(new KeyboardEvent('keydown',
			{ key: %q, ctrlKey: %v, cancelable: true })), true)`, key, ctrl))
	}
	const dialog = `document.querySelector('dialog[open]')`
	// The palette takes the very next key: no frame is drawn between.
	const typing = `(async () => {
		dispatchEvent(new KeyboardEvent('keydown', { key: 'k', ctrlKey: true, cancelable: true }));
		for (let i = 0; i < 20; i++) await null;
		return String(document.activeElement.role);
	})()`
	role, err := chromedp.Run(page.ctx, chromedp.Evaluate[string](typing, chromedp.EvalAwaitPromise))
	if err != nil || role != "combobox" {
		t.Fatalf("a key after Ctrl-K goes to %q, not to the palette: %v", role, err)
	}
	page.until(dialog + `?.ariaLabel === 'Commands'`)
	page.fill("dialog input", "licen")
	page.until(`document.querySelectorAll('dialog [role=option]').length === 1`)
	page.press("dialog input", "Enter")
	page.until(dialog + `?.ariaLabel === 'Licences' && ` + dialog + `.textContent.includes('preact')`)
	page.press("dialog pre", "Escape")
	page.until(`!` + dialog)
	key("?", false)
	page.until(dialog + `?.ariaLabel === 'Keys' && ` + dialog + `.textContent.includes('Search topologies')`)
	for group, want := range map[string]string{ // those of commands aside
		"Graph": "← ↑ → ↓|↵|Space|Backspace|+ − 0|Shift drag", "Older seqs": "← →|Home|End",
	} {
		page.until(fmt.Sprintf(`[...document.querySelectorAll('dialog section')].some((section) =>
			section.querySelector('h3').textContent === %q && [...section.querySelectorAll('kbd')]
				.map((key) => key.textContent).join('|').endsWith(%q))`, group, want))
	}
	page.until(`[...document.querySelectorAll('dialog dt')].some((title) => title.textContent === 'Redo' &&
		[...title.nextElementSibling.children].map((key) => key.textContent).join('|') === 'Ctrl Y|Ctrl Shift Z')`)
	page.press("dialog [tabindex]", "Escape")
	page.until(`!` + dialog)
	for pane, name := range map[string]string{"l": "Topologies", "i": "Inspector", "t": "Timeline"} {
		shown := fmt.Sprintf(`!!document.querySelector(
			'nav[aria-label=%[1]s], aside[aria-label=%[1]s], section[aria-label=%[1]s]')`, name)
		page.until(shown)
		key(pane, false)
		page.until(`!(` + shown + `)`)
	}
	page.click(`[aria-keyshortcuts=l]`) // its name is still there
	page.press(`[role=separator][aria-label="Size of the list"]`, "ArrowRight")
	if _, err := chromedp.Run(page.ctx, chromedp.Reload()); err != nil {
		t.Fatal(err)
	}
	page.until(`document.querySelector('nav[aria-label=Topologies]')?.clientWidth === 295 && // without its line
		!document.querySelector('section[aria-label=Timeline]') && window.topostream.state === 'open'`)
	chromeEval[string](t, page.ctx, `location.hash += '?panel=signin'`)
	page.until(dialog + `?.textContent.includes('operator, viewer, for 60 min more')`)
	page.click(`dialog button[type=button]`) // cancel
	page.until(`!` + dialog)
	key("k", true)
	page.fill("dialog input", "sign out")
	page.press("dialog input", "Enter")
	const gone = dialog + `?.ariaLabel === 'Sign in' && !window.topostream.lastSeq &&
		sessionStorage.getItem('topostream.token') === null`
	pgtest.Eventually(t, "a page that knows nothing", func() bool { // it is loaded anew: an answer may be lost with it
		yes, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](gone))
		return err == nil && yes
	})
}

func TestTenTopologiesOneAfterAnotherInOneConsoleAreOneStreamOverHTTP1(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 10)
	server := serve(t, db.URL, nil)
	page := shellOpen(t, server.url, testToken(t), "")
	for _, id := range ids {
		page.click(`[role=option][data-id="` + id + `"]`)
		page.until(fmt.Sprintf(`window.topostream.open?.id === '%s' && window.topostream.lastSeq === 3`, id))
		page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, emit(t, conn, id)))
		page.holdsThePromise(1)
	}
	pgtest.Eventually(t, "one stream", func() bool { return metric(t, server.url, "topostream_streams") == 1 })
	const protocols = `[...new Set(performance.getEntries().map((e) => e.nextHopProtocol).filter(Boolean))].join()`
	if got := chromeEval[string](t, page.ctx, protocols); got != "http/1.1" {
		t.Errorf("the page spoke %s", got)
	}
}

func TestTheConsoleRunsOverTLSWithHTTP2(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	cert, key := selfSigned(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.TLSCert, c.TLSKey = cert, key })
	address := "https://" + strings.TrimPrefix(server.url, "http://")
	page := shellOpen(t, address, testToken(t), id, chromedp.Flag("ignore-certificate-errors", true))
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, emit(t, conn, id)))
	const protocol = `performance.getEntriesByType('navigation')[0].nextHopProtocol`
	if got := chromeEval[string](t, page.ctx, protocol); got != "h2" {
		t.Errorf("the page came over %q", got)
	}
	page.holdsThePromise(1)
}

func TestTheConsolesListHoldsTwentyThousandTopologies(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'site-' || i FROM generate_series(1, 20000) i`)
	server := startServer(t, db.URL)
	page := shellOpen(t, server, testToken(t), "") // the server has read the list once
	if _, err := chromedp.Run(page.ctx, chromedp.Reload()); err != nil {
		t.Fatal(err)
	}
	page.until(`window.topostream?.rows === 20000 && document.querySelectorAll('[role=option]').length > 10 &&
		performance.getEntriesByName('topostream.rows').length > 0`) // it comes after the frame that shows the rows
	took := chromeEval[float64](t, page.ctx, `performance.getEntriesByName('topostream.rows')[0].startTime`)
	t.Logf("the first rows of 20,000 are there after %.0f ms", took)
	page.fill("#list-search", "site-1999")
	page.shellUntilRows("site-1999", "site-19990", "site-19991", "site-19992", "site-19993", "site-19994", "site-19995",
		"site-19996", "site-19997", "site-19998", "site-19999")
	page.fill("#list-search", "")
	page.press(shellList, "End")
	page.until(`!!document.querySelector('[role=option][aria-posinset="20000"]')`)
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll('[role=option]').length`); n > 100 {
		t.Errorf("%d rows are drawn", n)
	}
	// Who reads the list is not moved by what changes in it.
	shellPsql(t, db, `UPDATE topologies SET status = 'deploying' WHERE name = 'site-20000'`)
	page.until(`document.querySelector('[role=option][aria-posinset="20000"]')?.dataset.status === 'deploying'`)
}
