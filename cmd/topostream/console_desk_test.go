package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// What the tests of the console do to it: what somebody does who sits before it, by keys, pointer, fingers and address.
// What they look at beside what is drawn is window.topostream, which changes nothing.

// A desk is the console in a tab of its own, on a topology that is active, and what is behind it.
type desk struct {
	*page

	db     *pgtest.DB
	conn   *pgx.Conn
	id     string
	server *testServer
}

// seedNothing leaves a topology as it is.
func seedNothing(*testing.T, *pgx.Conn, string) {}

// openDesk starts a database and a server that applies mutations, and opens the console on a topology with the graph
// that seed makes.
func openDesk(t *testing.T, token string, seed func(*testing.T, *pgx.Conn, string)) *desk {
	t.Helper()
	return openDeskOn(t, withWorker, token, seed)
}

// openDeskOn does that with a server of one's own.
func openDeskOn(
	t *testing.T, change func(*serveCmd), token string, seed func(*testing.T, *pgx.Conn, string),
) *desk {
	t.Helper()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := serve(t, db.URL, change)
	seed(t, conn, id)
	return &desk{openConsole(t, server.url, token, id), db, conn, id, server}
}

// openConsole opens the console in a browser of its own on a wide screen and waits for the topology, or, without one,
// for the list.
func openConsole(t testing.TB, server, token, id string) *page {
	t.Helper()
	p := openPage(t, "about:blank")
	p.editDo(chromedp.EmulateViewport(1440, 900))
	p.load(server, token, id)
	return p
}

// load goes to the console as `dev` links to it, and waits for what openConsole waits for.
func (p *page) load(server, token, id string) {
	p.t.Helper()
	address := server + "/#token=" + token
	if id != "" {
		address += "&topology=" + id
	}
	p.editDo(chromedp.Navigate(address))
	if id == "" {
		p.until(`window.topostream?.rows !== null && window.topostream.state === 'open'`)
		return
	}
	p.until(`!!window.topostream?.view`)
}

// beforeLoading runs a script in each page that is loaded from now on, before the page's own.
func (p *page) beforeLoading(script string) {
	p.t.Helper()
	p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, cdppage.AddScriptToEvaluateOnNewDocument,
			cdppage.AddScriptToEvaluateOnNewDocumentParams{Source: script})
		return err
	}))
}

// ---------------------------------------------------------- the address

// look changes what the address says: "at", "panel", "view", "sel" and the others of state/route.ts; an empty value
// takes it out, several stand beside each other.
func (p *page) look(key string, values ...string) {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`((key, values) => {
		const [path, query = ''] = location.hash.slice(1).split('?');
		const params = new URLSearchParams(query);
		params.delete(key);
		for (const value of values) if (value) params.append(key, value);
		location.hash = path + (params.size ? '?' + params : '');
		return true;
	})(%q, ["%s"])`, key, strings.Join(values, `","`)))
}

// open goes to another topology, and to nothing of it.
func (p *page) open(id string) {
	p.t.Helper()
	chromeEval[string](p.t, p.ctx, fmt.Sprintf(`location.hash = '#/%s'`, id))
}

// choose selects deckies and LANs by name.
func (p *page) choose(names ...string) {
	p.t.Helper()
	selected := make([]string, 0, len(names))
	for _, name := range names {
		selected = append(selected, chromeEval[string](p.t, p.ctx, fmt.Sprintf(`((name) => {
			const { lans, deckies } = window.topostream.preview;
			const decky = deckies.find((one) => one.name === name);
			return decky ? 'decky:' + decky.uuid : 'lan:' + lans.find((one) => one.name === name).id;
		})(%q)`, name)))
	}
	p.look("sel", selected...)
	p.until(fmt.Sprintf(`window.topostream.selection.length === %d`, len(names)))
}

// ---------------------------------------------------------- keys

func (p *page) editDo(action chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if _, err := chromedp.Run(p.ctx, action); err != nil {
		p.t.Fatal(err)
	}
}

// keys presses keys one after another; a text is typed. A key's text comes with its keydown, as of a keyboard: a page
// that takes the key for itself keeps the letter out of the field that it opens.
func (p *page) keys(keys ...string) {
	p.t.Helper()
	for _, key := range keys {
		for _, r := range key {
			events := kb.Encode(r)
			if len(events) == 3 { // keydown, the letter, keyup
				events[0].Text, events[0].UnmodifiedText = events[1].Text, events[1].UnmodifiedText
				events = []*input.DispatchKeyEventParams{events[0], events[2]}
			}
			p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
				for _, event := range events {
					if _, err := cdp.Call(ctx, target, input.DispatchKeyEvent, *event); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
}

// with presses a key while others are held.
func (p *page) with(modifier chromedp.Modifier, key string) {
	p.t.Helper()
	p.editDo(chromedp.KeyEvent(key, chromedp.KeyModifiers(modifier)))
}

// editKey presses a key with Ctrl.
func (p *page) editKey(key string) {
	p.t.Helper()
	p.with(chromedp.ModifierCtrl, key)
}

const commandList = `dialog[open] [role=listbox][aria-label=Commands] `

// find opens the commands and types, so that the one of this title is chosen.
func (p *page) find(title string) {
	p.t.Helper()
	p.editKey("k")
	p.until(`document.activeElement?.getAttribute('aria-controls') === 'palette-list'`)
	p.keys(strings.TrimSuffix(title, "…"))
	chosen := fmt.Sprintf(`[...document.querySelectorAll('%s[role=option]')].findIndex((one) =>
		one.querySelector('.palette-title').firstChild.textContent === %q)`, commandList, title)
	p.until(chosen + ` >= 0`)
	for range chromeEval[int](p.t, p.ctx, chosen) {
		p.keys(kb.ArrowDown)
	}
}

// command does what the commands (Ctrl-K) offer under this title.
func (p *page) command(title string) {
	p.t.Helper()
	p.find(title)
	p.until(`document.querySelector('` + commandList + `[aria-selected=true]')?.ariaDisabled === 'false'`)
	p.keys(kb.Enter)
	p.until(`document.querySelector('dialog[open]')?.ariaLabel !== 'Commands'`)
}

// why is the reason for which a command cannot be done now.
func (p *page) why(title string) string {
	p.t.Helper()
	p.find(title)
	why := chromeEval[string](p.t, p.ctx,
		`document.querySelector('`+commandList+`[aria-selected=true] em')?.textContent ?? ''`)
	p.keys(kb.Escape)
	p.until(`!document.querySelector('dialog[open]')`)
	return why
}

// services stages other services of a decky, by its form.
func (p *page) services(decky, services string) {
	p.t.Helper()
	p.choose(decky)
	p.keys("s")
	p.until(`document.activeElement?.name === 'services'`)
	p.editKey("a")
	p.keys(services, kb.Enter)
	p.until(`!document.querySelector('dialog[open]')`)
}

// ---------------------------------------------------------- the pointer

// A point is a place on the screen, in CSS pixels.
type point struct{ x, y float64 }

func (p point) plus(x, y float64) point { return point{p.x + x, p.y + y} }

// centre is the middle of an element.
func (p *page) centre(selector string) point {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector(%q)?.getClientRects().length > 0`, selector))
	at := chromeEval[[]float64](p.t, p.ctx, fmt.Sprintf(`(({ x, y, width, height }) => [x + width / 2, y + height / 2])(
		document.querySelector(%q).getBoundingClientRect())`, selector))
	return point{at[0], at[1]}
}

// pressing moves the pointer to a place, presses it there and moves it over others; it is not released.
func pressing(modifier chromedp.Modifier, path ...point) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		event := func(kind input.DispatchMouseEventType, at point, button input.MouseButton, buttons int64) error {
			_, err := cdp.Call(ctx, target, input.DispatchMouseEvent, input.DispatchMouseEventParams{
				Type: kind, X: at.x, Y: at.y, Modifiers: int64(modifier), Button: button, Buttons: buttons, ClickCount: buttons,
			})
			return err
		}
		if err := event(input.DispatchMouseEventTypeMouseMoved, path[0], input.MouseButtonNone, 0); err != nil {
			return err
		}
		if err := event(input.DispatchMouseEventTypeMousePressed, path[0], input.MouseButtonLeft, 1); err != nil {
			return err
		}
		for i, to := range path[1:] {
			from := path[i]
			for step := 1.0; step <= 4; step++ {
				at := from.plus((to.x-from.x)*step/4, (to.y-from.y)*step/4)
				if err := event(input.DispatchMouseEventTypeMouseMoved, at, input.MouseButtonLeft, 1); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// drag presses the pointer at the first place, and releases it at the last.
func (p *page) drag(modifier chromedp.Modifier, path ...point) {
	p.t.Helper()
	p.editDo(pressing(modifier, path...))
	at := path[len(path)-1]
	p.editDo(chromedp.MouseEvent(chromedp.MouseReleased, at.x, at.y, chromedp.ButtonLeft, chromedp.ClickCount(1)))
}

// tap clicks in the middle of an element, again where something came meanwhile and moved it away.
func (p *page) tap(selector string) {
	p.t.Helper()
	pgtest.Eventually(p.t, "a press meets "+selector, func() bool {
		at := p.centre(selector)
		chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`((element) => {
			window.tapped = false;
			element.addEventListener('click', () => { window.tapped = true; }, { capture: true, once: true });
			return true;
		})(document.querySelector(%q))`, selector))
		p.editDo(chromedp.MouseClickXY(at.x, at.y))
		return chromeEval[bool](p.t, p.ctx, `window.tapped`)
	})
}

// palette drags an item of the palette to a place: "lan", "dmz", or "decky:" and an archetype.
func (p *page) palette(item string, to point) {
	p.t.Helper()
	const add = `section[aria-label="Add to the graph"] `
	p.until(`!!document.querySelector('` + add + `button')`)
	expanded := `document.querySelector('` + add + `button').ariaExpanded`
	if chromeEval[string](p.t, p.ctx, expanded) != "true" {
		p.tap(add + "button")
	}
	selector := fmt.Sprintf(`%s[data-item=%q]`, add, item)
	from := p.centre(selector)
	// Chromium without a window leaves what follows on a drag's beginning to whoever drives it.
	intercept := func(enabled bool) {
		p.t.Helper()
		p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, input.SetInterceptDrags, input.SetInterceptDragsParams{Enabled: enabled})
			return err
		}))
	}
	intercept(true)
	begun, err := chromedp.Run(p.ctx, chromedp.WaitEvent(input.DragIntercepted,
		func(input.EventDragIntercepted) bool { return true }, pressing(0, from, from.plus(0, 12))))
	if err != nil {
		p.t.Fatalf("%s is not dragged: %v", item, err)
	}
	p.until(`!!document.querySelector('section[data-dragging]')`)
	for _, kind := range []input.DispatchDragEventType{
		input.DispatchDragEventTypeDragEnter, input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop,
	} {
		p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, input.DispatchDragEvent,
				input.DispatchDragEventParams{Type: kind, X: to.x, Y: to.y, Data: begun.Data})
			return err
		}))
	}
	intercept(false)
	p.editDo(chromedp.MouseEvent(chromedp.MouseReleased, to.x, to.y, chromedp.ButtonLeft, chromedp.ClickCount(1)))
	p.tap(add + "button") // closed, so that it covers nothing
	p.until(expanded + ` === 'false'`)
}

// spot is the middle of a LAN or decky on the screen.
func (p *page) spot(name string) point {
	p.t.Helper()
	x, y := p.graphWhere(name).middle()
	return point{x, y}
}

// port is where a decky's link begins; it is there while the pointer is over the decky.
func (p *page) port(name string) point {
	p.t.Helper()
	at := chromeEval[[]float64](p.t, p.ctx, fmt.Sprintf(`window.topostream.graph.port(%q)`, name))
	if len(at) != 2 {
		p.t.Fatalf("%s has no port", name)
	}
	return point{at[0], at[1]}
}

// corner is the upper left corner of a LAN or decky on the screen.
func (p *page) corner(name string) point {
	p.t.Helper()
	box := p.graphWhere(name)
	return point{box.X, box.Y}
}

// link drags the port of the decky web to a place.
func (p *page) link(to point) {
	p.t.Helper()
	const name = "web"
	over := p.spot(name)
	p.editDo(chromedp.MouseEvent(chromedp.MouseMoved, over.x, over.y))
	p.drag(0, p.port(name), to)
}

// ---------------------------------------------------------- fingers

// touch puts fingers down and moves them, in steps, each along its own path, and lifts them.
func (p *page) touch(paths ...[2]point) {
	p.t.Helper()
	event := func(kind input.DispatchTouchEventType, share float64) {
		p.t.Helper()
		points := []*input.TouchPoint{}
		for i, path := range paths {
			id := float64(i)
			points = append(points, &input.TouchPoint{
				X: path[0].x + (path[1].x-path[0].x)*share, Y: path[0].y + (path[1].y-path[0].y)*share, ID: &id,
			})
		}
		if kind == input.DispatchTouchEventTypeTouchEnd {
			points = []*input.TouchPoint{}
		}
		p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, input.DispatchTouchEvent,
				input.DispatchTouchEventParams{Type: kind, TouchPoints: points})
			return err
		}))
	}
	event(input.DispatchTouchEventTypeTouchStart, 0)
	for step := 1.0; step <= 5; step++ {
		event(input.DispatchTouchEventTypeTouchMove, step/5)
	}
	event(input.DispatchTouchEventTypeTouchEnd, 1)
}

// ---------------------------------------------------------- the surroundings

// media says what the system prefers: pairs such as "prefers-color-scheme", "dark".
func (p *page) media(features ...string) {
	p.t.Helper()
	var list []*emulation.MediaFeature
	for i := 0; i < len(features); i += 2 {
		list = append(list, &emulation.MediaFeature{Name: features[i], Value: features[i+1]})
	}
	p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: list})
		return err
	}))
}

// theme is "dark", "light", or what the system prefers.
func (p *page) theme(name string) {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`((name) => {
		if (name) document.documentElement.dataset.theme = name;
		else delete document.documentElement.dataset.theme;
		return true;
	})(%q)`, name))
}
