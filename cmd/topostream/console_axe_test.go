package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

// axe is what `npm ci` in stream/console/web brings: the gate runs this test after it.
const axe = "../../stream/console/web/node_modules/axe-core/axe.min.js"

// An axeState is a state of the page: statements that lead into it, what is true in it, and statements that lead out.
type axeState struct{ name, enter, reached, leave string }

// panel is the state that the address opens by name.
func panel(name, selector string) axeState {
	return axeState{
		name, fmt.Sprintf(`app.route.go({ panel: %q })`, name), fmt.Sprintf(`!!document.querySelector(%q)`, selector),
		`app.route.go({ panel: '' })`,
	}
}

func dialog(name string) axeState { return panel(name, "dialog[open]") }

// TestAxeFindsNothingInAnyStateOfTheConsole has axe-core look at the page: names, roles, contrast, order of headings.
func TestAxeFindsNothingInAnyStateOfTheConsole(t *testing.T) {
	t.Parallel()
	long(t)
	script, err := os.ReadFile(axe)
	if err != nil {
		t.Skipf("axe-core is not here: run `npm ci` in stream/console/web: %v", err)
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := serve(t, db.URL, withWorker)
	editGraph(t, conn, id)
	pgtest.Exec(t, conn, `UPDATE deckies SET state = 'failed' WHERE name = 'db'`)
	page := openEditor(t, server.url, operatorToken(t), id)
	chromeEval[bool](t, page.ctx, string(script)+"\n;true")
	for _, theme := range []string{"dark", "light"} {
		for _, state := range []axeState{
			{"the topology", `app.route.go({ selection: [] })`, `true`, ``},
			{
				"a decky", `const d = app.shown.value.graph.deckies[0];
					app.route.go({ selection: [{ kind: 'decky', key: d.uuid }] })`,
				`!!document.querySelector('aside[aria-label=Inspector] h2')`, `app.route.go({ selection: [] })`,
			},
			{
				"an event", `app.route.go({ selection: [{ kind: 'event', key: '2' }] })`,
				`!!document.querySelector('[data-event="2"]')`, `app.route.go({ selection: [] })`,
			},
			{
				"staged edits", `app.propose.value([{ op: 'add_lan', payload: { name: 'lab' } }], 'one LAN')`,
				`!!document.querySelector('section[aria-label="Staged edits"] li')`, `app.editing.edit.discard()`,
			},
			{
				"the table", `app.route.go({ view: 'table' })`, `!!document.querySelector('table')`,
				`app.route.go({ view: 'graph' })`,
			},
			dialog("commands"), dialog("keys"), dialog("licences"), dialog("signin"), dialog("create"), dialog("delete"),
			panel("inject", "aside[aria-label=psql]"),
			{"the past", `app.route.go({ at: 5 })`, `app.past.value?.seq === 5`, `app.route.go({ at: null })`},
			{
				"a topology that is not there", `app.route.go({ topology: '00000000-0000-4000-8000-000000000000' })`,
				`app.live.open.value?.part !== 'live'`, fmt.Sprintf(`app.route.go({ topology: %q })`, id),
			},
		} {
			page.editJS(fmt.Sprintf(`app.layout.theme.value = %q; %s`, theme, state.enter))
			page.until(strings.ReplaceAll(state.reached, "app.", "topostreamConsole."))
			page.until(`document.getAnimations().length === 0`)
			page.editJS(`window.found = null; axe.run(document, { resultTypes: ['violations'] })
				.then(({ violations }) => { window.found = violations.flatMap((v) => v.nodes.map((node) =>
					v.id + ': ' + node.target.join(' ') + ': ' + node.failureSummary)); },
					(error) => { window.found = [String(error)]; })`)
			page.until(`window.found !== null`)
			for _, violation := range chromeEval[[]string](t, page.ctx, `window.found`) {
				t.Errorf("%s, %s: %s", state.name, theme, violation)
			}
			page.editJS(state.leave)
		}
	}
}
