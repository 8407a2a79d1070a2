package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"topostream/pgbus/pgtest"
)

// watchFocus notes, in window.astray, when the focus was on nothing for longer than a menu takes to close.
const watchFocus = `(() => {
	window.astray = [];
	let frames = 0, last = null;
	const look = () => {
		const now = document.activeElement;
		if (now && now !== document.body) { frames = 0; last = now; }
		else if (++frames === 20) astray.push(last?.outerHTML.slice(0, 120) ?? 'the beginning');
		requestAnimationFrame(look);
	};
	look();
	return true;
})()`

// focusSeen tells whether what has the focus, or the row of it that is active, shows it in the colour of the focus.
const focusSeen = `(() => {
	const at = document.activeElement;
	const of = (element) => element ? getComputedStyle(element) : null;
	const probe = document.createElement('i');
	probe.style.color = 'var(--focus)';
	document.body.append(probe);
	const focus = of(probe).color;
	probe.remove();
	const row = document.getElementById(at.getAttribute('aria-activedescendant') ?? '');
	const box = at.getBoundingClientRect();
	const seen = [at, row].some((element) => {
		const style = of(element);
		return style && (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0 && style.outlineColor === focus
			|| style.backgroundColor === focus);
	});
	return at !== document.body && box.width > 0 && seen;
})()`

// tabTo presses Tab until an element of the selector has the focus, and looks at each stop whether it is seen.
func (p *page) tabTo(selector string) {
	p.t.Helper()
	p.stopsTo(selector, func() { p.keys(kb.Tab) })
}

// tabBackTo is tabTo by Shift-Tab.
func (p *page) tabBackTo(selector string) {
	p.t.Helper()
	p.stopsTo(selector, func() { p.with(chromedp.ModifierShift, kb.Tab) })
}

func (p *page) stopsTo(selector string, next func()) {
	p.t.Helper()
	for range 120 {
		if chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			return
		}
		next()
		p.focused()
	}
	p.t.Fatalf("no Tab leads to %s", selector)
}

// focused waits until the focus is somewhere and seen.
func (p *page) focused() {
	p.t.Helper()
	p.until(focusSeen)
}

// TestTheMainJourneyByKeyboardAlone is what an operator does in a day, without a pointer.
func TestTheMainJourneyByKeyboardAlone(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	topology(t, conn, "site-1")
	id := topology(t, conn, "site-2")
	editSeed := `INSERT INTO lans (topology_id, name, subnet, x, y) VALUES ($1::text::uuid, 'office', '10.0.0.0/24', 0, 0)`
	pgtest.Exec(t, conn, editSeed, id)
	for _, name := range []string{"web", "old"} {
		pgtest.Exec(t, conn, `WITH d AS (INSERT INTO deckies (topology_id, name, services, state)
			VALUES ($1::text::uuid, $2, '["ssh"]', 'running') RETURNING uuid)
			INSERT INTO edges (topology_id, decky_uuid, lan_id) SELECT $1::text::uuid, d.uuid, l.id FROM d, lans l`, id, name)
	}
	server := serve(t, db.URL, withWorker)
	p := openPage(t, "about:blank")
	p.editDo(chromedp.EmulateViewport(1440, 900))
	p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error { // as a window that one looks at
		_, err := cdp.Call(ctx, target, emulation.SetFocusEmulationEnabled,
			emulation.SetFocusEmulationEnabledParams{Enabled: true})
		return err
	}))
	p.editDo(chromedp.Navigate(server.url))

	// Signing in: the field has the focus, and what comes after it has it, too.
	p.until(`document.activeElement?.id === 'signin-token'`)
	chromeEval[bool](t, p.ctx, watchFocus)
	p.focused()
	p.keys(operatorToken(t), kb.Enter)
	p.until(`!document.querySelector('dialog[open]') && window.topostream.rows === 2`)
	p.focused()

	// The list.
	p.keys("/")
	p.until(`document.activeElement?.id === 'list-search'`)
	p.keys("site-2")
	p.until(`document.getElementById('list-search').value === 'site-2' &&
		document.querySelectorAll('[aria-label=Topologies] [role=option]').length === 1`)
	p.keys(kb.ArrowDown)
	p.until(`document.querySelector('[role=option][data-id="` + id + `"]')?.dataset.active === 'true'`)
	p.keys(kb.Enter)
	p.until(`window.topostream.view?.id === '` + id + `'`)
	p.focused()

	// The lifecycle, by the commands and by the menu of the bar.
	p.tabBackTo(`button[aria-haspopup=menu]`)
	p.keys(kb.Enter)
	p.until(`document.activeElement?.dataset.step === 'deploying'`)
	p.keys(kb.Enter)
	p.until(`window.topostream.open.status === 'deploying'`)
	p.focused()
	p.command("Mark active")
	p.until(`window.topostream.editable === true`)
	p.focused()

	// The graph: found, selected, walked.
	p.tabTo(`canvas[role=application]`)
	p.editKey("f")
	p.until(`document.activeElement?.getAttribute('aria-label') === 'Find in the graph'`)
	p.focused()
	p.keys("old", kb.Enter)
	p.until(graphTitle + ` === 'old'`)
	p.keys(kb.Escape)
	p.until(`document.activeElement?.tagName === 'CANVAS'`)
	p.focused()

	// Edits: one goes, a LAN and a decky come; a dialog gives the focus back to the graph.
	p.keys(kb.Delete)
	p.editWantRows("− remove decky old from office")
	p.keys("w")
	p.until(`document.activeElement?.name === 'name'`)
	p.focused()
	p.keys(kb.Enter)
	p.until(`document.activeElement?.tagName === 'CANVAS'`)
	p.keys("a")
	p.until(`!!document.querySelector('dialog[open] input')`)
	p.focused()
	p.tabTo(`dialog[open] [name=name]`) // Enter opens the list of kinds
	p.keys(kb.Enter)
	p.until(`document.activeElement?.tagName === 'CANVAS'`)
	p.until(editTray + `.length === 3`)
	if rows := p.editRows(); !strings.HasPrefix(rows[1], "+ add LAN ") || !strings.HasPrefix(rows[2], "+ add decky ") {
		t.Errorf("the tray shows %q", rows)
	}
	p.focused()
	p.editKey(kb.Enter)
	p.editUntilState("applied")
	p.focused()

	// The timeline has it.
	p.keys("e")
	p.until(`document.activeElement?.id === 'timeline-filter'`)
	p.keys("type:mutation.applied")
	p.until(`window.topostream.shown === 1`)
	p.tabTo(`[role=listbox][aria-label=Events]`)
	p.keys(kb.ArrowUp)
	p.until(`document.querySelector('[role=option][data-type="mutation.applied"]')?.ariaSelected === 'true'`)
	p.focused()
	p.until(`document.querySelector('[aria-label=Inspector] h2')?.textContent === 'mutation.applied'`)

	// To the past and back, by the slider and by keys that hold everywhere.
	chromeEval[bool](t, p.ctx, `(window.before = document.activeElement, true)`)
	p.with(chromedp.ModifierAlt, kb.ArrowLeft)
	p.until(`window.topostream.past`)
	p.focused()
	p.keys(kb.Escape)
	p.until(`!window.topostream.past && !location.hash.includes('at=')`)
	p.until(`document.activeElement === window.before`)
	p.with(chromedp.ModifierShift, kb.Tab)
	p.until(`document.activeElement?.getAttribute('role') === 'slider'`)
	p.focused()
	p.keys(kb.Home)
	p.until(`window.topostream.view.seq === 1`)
	p.keys(kb.End)
	p.until(`!window.topostream.past`)
	p.focused()

	// Tearing down asks; Escape, and then Enter, give the focus back to what had it.
	chromeEval[bool](t, p.ctx, `(window.before = document.activeElement, true)`)
	for _, answer := range []string{kb.Escape, "over" + kb.Enter} {
		p.command("Tear down…")
		p.until(`document.querySelector('dialog[open] [name=reason]') === document.activeElement`)
		p.focused()
		p.keys(answer)
		p.until(`!document.querySelector('dialog[open]') && document.activeElement === window.before`)
	}
	p.until(`window.topostream.open.status === 'tearing_down'`)
	p.focused()
	for _, key := range []string{"?", "n", "q"} { // each is left by Escape, to where one was
		p.keys(key)
		p.until(`!!document.activeElement.closest('dialog[open], aside.drawer')`)
		p.keys(kb.Escape)
		p.until(`!location.hash.includes('panel=') && document.activeElement === window.before`)
	}
	if astray := chromeEval[[]string](t, p.ctx, `window.astray`); len(astray) > 0 {
		t.Errorf("the focus was nowhere after %q", astray)
	}
	const result = `SELECT string_agg(name, ' ' ORDER BY name) FROM deckies WHERE topology_id = $1::text::uuid`
	if s := pgtest.Scan[string](t, conn, result, id); strings.Contains(s, "old") || !strings.Contains(s, "web") {
		t.Errorf("the deckies are %s", s)
	}
}
