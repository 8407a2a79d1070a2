package main

import (
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

func TestWhatIsDraggedFromThePaletteAndFromPortToPortIsStaged(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.palette("dmz", page.corner("plant").plus(0, -140))
	page.palette("decky:plc", page.spot("plant")) // onto a LAN
	page.until(editTray + `.length === 2`)
	page.link(page.spot("plc-1"))                      // onto a decky of another LAN
	page.palette("decky:web-camera", page.spot("web")) // onto a decky: in its LAN
	page.editWantRows("+ add DMZ dmz (the next free subnet)", "+ add decky plc-1 to plant (modbus, http)",
		"+ attach web to plant", "+ add decky cam-1 to office (http, rtsp)")
	// A frame around both deckies of office that are there, drawn with Shift held.
	office, db := page.graphWhere("office"), page.graphWhere("db")
	page.drag(chromedp.ModifierShift, point{office.X + 4, office.Y + 34}, point{db.X + db.W + 4, db.Y + db.H + 4})
	const names = `window.topostream.selection.map(({ key }) => window.topostream.preview.deckies
		.find((one) => one.uuid === key)?.name).sort().join()`
	page.until(names + ` === 'db,web'`)
	// A drag that is over before the frame that would show it, and before it is known, leaves nothing behind.
	page.tap(`section[aria-label="Add to the graph"] button`)
	page.until(`!!document.querySelector('[data-item="lan"]')`)
	for _, ends := range []string{"setTimeout(end)", "end()"} {
		chromeEval[bool](t, page.ctx, `(() => {
			const item = document.querySelector('[data-item="lan"]');
			const end = () => item.dispatchEvent(new DragEvent('dragend', { bubbles: true }));
			const look = () => { window.drags = document.querySelectorAll('section[data-dragging]').length; };
			delete window.drags;
			item.dispatchEvent(new DragEvent('dragstart', { bubbles: true, dataTransfer: new DataTransfer() }));
			`+ends+`;
			setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(look)));
			return true;
		})()`)
		page.until(`window.drags !== undefined`)
		if n := chromeEval[int](t, page.ctx, `window.drags`); n != 0 {
			t.Errorf("a drag that ended by %s is still shown", ends)
		}
	}
}

func TestADeckyThatIsDroppedOnAnotherLANStaysAndTheTwoThingsOneMayDoAreOffered(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	before := page.graphWhere("web")
	drop := func() {
		t.Helper()
		page.drag(0, page.spot("web"), page.spot("plant"))
		page.until(`document.querySelector('dialog[open]')?.innerText.includes('a home LAN cannot change')
			&& document.querySelector('dialog[open] [name=lan]').value === 'plant'`)
	}
	drop()
	page.click(`dialog[open] [type=submit]`) // attaching is chosen
	page.editWantRows("+ attach web to plant")
	page.editClick("edit.undo")
	page.until(editTray + `.length === 0`)
	drop()
	page.click(`dialog[open] [type=radio]:not(:checked)`)
	page.click(`dialog[open] [type=submit]`)
	page.editWantRows("− remove decky web from office (10.0.0.2)", "+ add decky web to plant (ssh)")
	if after := page.graphWhere("web"); after != before {
		t.Errorf("web was at %v and is at %v", before, after)
	}
	page.editClick("edit.apply")
	page.editUntilState("applied")
	const homes = `SELECT string_agg(d.name || ' ' || l.name, ', ' ORDER BY d.name) FROM deckies d
		JOIN edges e ON e.decky_uuid = d.uuid AND NOT e.is_bridge JOIN lans l ON l.id = e.lan_id`
	if s := pgtest.Scan[string](t, page.conn, homes); s != "db office, web plant" {
		t.Errorf("the homes are %s", s)
	}
	if n := pgtest.Scan[int](t, page.conn, `SELECT count(*)::int FROM mutations`); n != 2 {
		t.Errorf("%d mutations, with the one that made the graph: a move was sent, too", n)
	}
}

// menu opens the menu of a place by the right button, and gives what it offers, each with why it cannot be done.
func (p *page) menu(at point) []string {
	p.t.Helper()
	p.editDo(chromedp.MouseClickXY(at.x, at.y, chromedp.ButtonRight))
	p.until(`!!document.querySelector('[role=menu]')`)
	return chromeEval[[]string](p.t, p.ctx, `[...document.querySelectorAll('[role=menuitem]')].map((item) =>
		[...item.querySelectorAll('span')].map((part) => part.textContent).join(': '))`)
}

func TestTheMenusOfTheGraphOfferWhatCanBeDoneAndSayWhyNot(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	office, plant, db := page.graphWhere("office"), page.graphWhere("plant"), page.spot("db")
	for _, c := range []struct {
		what string
		at   point
		want []string
	}{
		{"the canvas", page.corner("office").plus(0, -140), []string{
			"Add a subnet…", "Add a DMZ…", "Add a decky…", "Paste: copy a decky first", "Select all",
			"Undo: there is nothing to undo", "Redo: there is nothing to redo", "Apply what is staged: nothing is staged",
		}},
		{"a LAN", page.corner("office").plus(12, 8), []string{
			"Add a decky…", "Paste: copy a decky first", "Rename…", "Duplicate", "Remove with its members",
		}},
		{"a link", point{(office.X + office.W + plant.X) / 2, db.y}, []string{"Detach"}},
		{"a decky", page.spot("web"), []string{
			"Services…", "Attach to another LAN…", "Another home…", "Promote to a gateway…", "Copy", "Duplicate", "Remove",
		}},
	} {
		if got := page.menu(c.at); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		page.keys(kb.Escape)
		page.until(`!document.querySelector('[role=menu]')`)
	}

	// What is copied can be pasted, and what is a gateway demoted; the server asks to be forced, the page before that.
	page.menu(page.spot("web"))
	page.click(`[role=menuitem][data-command="edit.copy"]`)
	promotion := `{"decky":"db","patch":{"forwards_l3":true},"force":true}`
	awaitMutation(t, page.conn, enqueueOp(t, page.conn, page.id, "update_decky", promotion), "applied")
	page.until(editHead + `.deckies.find((one) => one.name === 'db').decky_config.forwards_l3 === true`)
	if got := page.menu(page.corner("office").plus(12, 8)); got[1] != "Paste" {
		t.Errorf("with a decky that is copied: %q", got)
	}
	page.keys(kb.Escape)
	if got := page.menu(page.spot("db")); got[3] != "Demote from gateway…" {
		t.Errorf("of a gateway: %q", got)
	}
	page.click(`[role=menuitem][data-command="edit.gateway"]`)
	page.says(`dialog[open]`, "db will no longer let traffic through between its networks (office and plant)")
	page.click(`dialog[open] [type=submit]`)
	page.editWantRows("~ db: is no gateway any more")
	if force := chromeEval[bool](t, page.ctx, `window.topostream.staged[0].payload.force`); !force {
		t.Error("a demotion is staged without force")
	}
	page.editClick("edit.apply")
	page.editUntilState("applied")
	const forwards = `SELECT decky_config ->> 'forwards_l3' FROM deckies WHERE name = 'db'`
	if s := pgtest.Scan[string](t, page.conn, forwards); s != "false" {
		t.Errorf("forwards_l3 is %s", s)
	}
}

func TestTheGraphIsPannedAndPinchedByFingersOnASmallScreen(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := serve(t, db.URL, withWorker)
	editGraph(t, conn, id)
	p := openPage(t, "about:blank")
	p.editDo(chromedp.EmulateViewport(390, 844, chromedp.EmulateTouch, chromedp.EmulateMobile))
	p.load(server.url, operatorToken(t), id)
	// One line below the graph says why it cannot be edited here, and no more is lost.
	p.until(`innerHeight - document.querySelector('main.canvas').getBoundingClientRect().bottom ===
		document.querySelector('.edit-why-not')?.offsetHeight && document.querySelector('.edit-why-not').offsetHeight < 40`)
	before := p.graphWhere("office")
	start := p.spot("office")
	p.touch([2]point{start, start.plus(40, 60)})
	p.until(fmt.Sprintf(`Math.abs(window.topostream.graph.where('office').x - %f) < 2`, before.X+40))
	if moved := p.graphWhere("office"); math.Abs(moved.Y-before.Y-60) > 2 || moved.W != before.W {
		t.Errorf("a finger went by 40, 60, and office from %v to %v", before, moved)
	}
	middle := p.spot("office")
	p.touch([2]point{middle.plus(-20, 0), middle.plus(-40, 0)}, [2]point{middle.plus(20, 0), middle.plus(40, 0)})
	p.until(fmt.Sprintf(`Math.abs(window.topostream.graph.where('office').w - %f) < 4`, 2*before.W))
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 1 {
		t.Errorf("fingers on a small screen have made %d mutations", n-1)
	}
}

func TestWhatIsStagedSurvivesAReloadAndIsRebased(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.services("web", "http")
	page.palette("decky:plc", page.spot("plant"))
	staged := []string{"~ web: services ssh → http", "+ add decky plc-1 to plant (modbus, http)"}
	page.editWantRows(staged...)
	reload := func() {
		t.Helper()
		if _, err := chromedp.Run(page.ctx, chromedp.Reload()); err != nil {
			t.Fatal(err)
		}
		page.until(`window.topostream?.view && document.readyState === 'complete'`)
	}
	reload()
	page.editWantRows(staged...)
	page.editKey("z") // also the way back
	page.editWantRows(staged[0])
	page.editKey("y")

	// What others do while the tab is away is found when it is back.
	for _, statement := range []string{
		`UPDATE lans SET name = 'factory' WHERE name = 'plant'`,
		`UPDATE deckies SET services = '["smb"]' WHERE name = 'web'`,
	} {
		pgtest.Exec(t, page.conn, statement)
	}
	awaitMutation(t, page.conn, enqueueLAN(t, page.conn, page.id, "lab"), "applied")
	reload()
	page.until(`window.topostream.head.graph.lans.length === 3`)
	page.editWantRows(
		`~ web: services ssh → http ▲ changed: its services were changed meanwhile: ssh → smb`,
		`+ add decky plc-1 to plant (modbus, http) ▲ changed: LAN "plant" is "factory" now`)
	page.editClick("edit.apply")
	page.editUntilState("conflict")
	page.says(`section[aria-label="Staged edits"]`, "LAN factory: name plant → factory") // out of the journal
	page.editClick("edit.rebase")
	page.editWantRows("~ web: services smb → http", "+ add decky plc-1 to factory (modbus, http)")
	page.editClick("edit.apply")
	page.editUntilState("applied")
	const kept = `Object.keys(sessionStorage).filter((key) => /staged|base/.test(key)).length`
	if n := chromeEval[int](t, page.ctx, kept); n != 0 {
		t.Errorf("%d keys are left of what was applied", n)
	}
	reload()
	if rows := page.editRows(); len(rows) > 0 {
		t.Errorf("after a reload, what was applied is staged again: %q", rows)
	}
}

func TestWhatIsStagedSurvivesTheApplicationsSignIn(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.services("web", "http")
	const staged = "~ web: services ssh → http"
	page.editWantRows(staged)
	ending := signed(t, auth.Claims{Subject: "operator", Role: stream.RoleAdmin, TTL: 3 * time.Second})
	chromeEval[string](t, page.ctx, `location.hash = '#token=`+ending+`'`)
	page.until(`document.querySelector('dialog[open]')?.textContent.includes('The token has ended')`)
	chromeEval[bool](t, page.ctx, `window.before = true`)
	// "The application has signed me in": it has not.
	page.click(`dialog[open] [type=button]`)
	pgtest.Eventually(t, "the page is loaded anew", func() bool { // an answer may be lost with the old one
		const anew = `!window.before && window.topostream?.state === 'refused' && !!document.querySelector('#signin-token')`
		yes, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](anew))
		return err == nil && yes
	})
	if token := chromeEval[bool](t, page.ctx, `sessionStorage.getItem('topostream.token') !== null`); token {
		t.Error("the token that has ended is kept")
	}
	page.fill(`#signin-token`, operatorToken(t))
	page.click(`dialog[open] [type=submit]`)
	page.until(`!!window.topostream.view`)
	page.editWantRows(staged)
}

func TestAnAppliedChangeShowsOnceAndNotToWhoWantsNoMotion(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.graphWhere("office")
	flashes := func(name string) string {
		return fmt.Sprintf(`JSON.stringify((({ times, now }) => [times, now])(window.topostream.graph.flashes('%s')))`, name)
	}
	enqueueLAN(t, page.conn, page.id, "lab")
	page.until(flashes("lab") + ` === '[1,false]'`)
	frames := chromeEval[int](t, page.ctx, `window.topostream.graph.flashes('lab').frames`)
	if frames == 0 {
		t.Error("nothing of it was drawn")
	}
	head := emit(t, page.conn, page.id)
	pgtest.Exec(t, page.conn, `UPDATE deckies SET state = 'failed' WHERE name = 'db'`)
	page.until(fmt.Sprintf(`window.topostream.lastSeq > %d && %s === '[1,false]'`, head, flashes("db")))
	if again := chromeEval[string](t, page.ctx, `JSON.stringify(window.topostream.graph.flashes('lab'))`); again !=
		fmt.Sprintf(`{"times":1,"frames":%d,"now":false}`, frames) {
		t.Errorf("after another change it has shown %s", again)
	}

	page.media("prefers-reduced-motion", "reduce")
	awaitMutation(t, page.conn, enqueueLAN(t, page.conn, page.id, "calm"), "applied")
	page.until(`window.topostream.graph.item('calm')?.mark === null`)
	if got := chromeEval[string](t, page.ctx, flashes("calm")); got != "[0,false]" {
		t.Errorf("to who wants no motion it shows %s", got)
	}
}

func TestARowOfTheListThatChangesFadesOnceAndNotToWhoWantsNoMotion(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), seedNothing)
	other := topology(t, page.conn, "other")
	const ofRow = `[role=option][data-id="%s"]`
	page.until(fmt.Sprintf(`!!document.querySelector('`+ofRow+`')`, other))
	chromeEval[bool](t, page.ctx, `(window.faded = [], Element.prototype.animate = new Proxy(Element.prototype.animate, {
		apply: (animate, row, [frames, options]) => {
			faded.push(row.dataset.id + ' ' + options.duration);
			return Reflect.apply(animate, row, [frames, options]);
		},
	}), true)`)
	status := func(status string) {
		t.Helper()
		pgtest.Exec(t, page.conn, `UPDATE topologies SET status = $2 WHERE id = $1::text::uuid`, other, status)
		page.until(fmt.Sprintf(`document.querySelector('`+ofRow+`').dataset.status === %q`, other, status))
	}
	// Once for each change of status or version, and for nothing else.
	status("deploying")
	pgtest.Exec(t, page.conn, `UPDATE topologies SET name = 'another' WHERE id = $1::text::uuid`, other)
	page.until(fmt.Sprintf(`document.querySelector('`+ofRow+` .list-name').textContent === 'another'`, other))
	status("active")
	enqueueOp(t, page.conn, page.id, "add_lan", `{"name":"lab"}`)
	page.until(fmt.Sprintf(`document.querySelector('`+ofRow+` .list-version').textContent === '1'`, page.id))
	page.until(`window.faded.length >= 3`)
	page.media("prefers-reduced-motion", "reduce")
	status("degraded")
	want := fmt.Sprintf("%s 120,%[1]s 120,%s 120", other, page.id)
	if faded := chromeEval[string](t, page.ctx, `window.faded.join()`); faded != want {
		t.Errorf("what faded is %s, not %s", faded, want)
	}
}

func TestTheGraphIsSavedAsAPNGOfItsSize(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.graphWhere("office")
	dir := t.TempDir()
	page.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
			Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir,
		})
		return err
	}))
	size := chromeEval[[]int](t, page.ctx, `(({ w, h }) => [Math.ceil(w + 64), Math.ceil(h + 64)])(
		window.topostream.graph.bounds())`)
	if size[0] < 400 { // from office to the far side of plant
		t.Errorf("the graph is %v", size)
	}
	page.command("Save the graph as PNG")
	path := filepath.Join(dir, "live-1.png")
	pgtest.Eventually(t, "the picture", func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	picture, err := png.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := picture.Bounds().Size(); got.X != size[0] || got.Y != size[1] {
		t.Errorf("the picture is %v, want %v", got, size)
	}
	colours := map[[3]uint32]bool{}
	for x := range size[0] {
		r, g, b, _ := picture.At(x, size[1]/2).RGBA()
		colours[[3]uint32{r, g, b}] = true
	}
	if len(colours) < 3 { // the ground, what lies on it, and its lines
		t.Errorf("across its middle it has %d colours", len(colours))
	}
}
