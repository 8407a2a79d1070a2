package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// editGraph makes LANs office and plant, and deckies web and db in office; db is in plant, too.
func editGraph(t *testing.T, conn *pgx.Conn, id string) {
	t.Helper()
	const set = `{"ops":[
		{"op":"add_lan","payload":{"name":"office","subnet":"10.0.0.0/24","x":0,"y":0}},
		{"op":"add_lan","payload":{"name":"plant","subnet":"10.0.1.0/24","x":400,"y":0}},
		{"op":"add_decky","payload":{"name":"web","lan":"office","services":["ssh"],"x":40,"y":60}},
		{"op":"add_decky","payload":{"name":"db","lan":"office","x":140,"y":60}},
		{"op":"attach_decky","payload":{"decky":"db","lan":"plant"}}]}`
	awaitMutation(t, conn, enqueueOp(t, conn, id, "changeset", set), "applied")
}

const editTray = `[...document.querySelectorAll('section[aria-label="Staged edits"] ol li')]`

// editRows are the rows of the tray as they read.
func (p *page) editRows() []string {
	p.t.Helper()
	return chromeEval[[]string](p.t, p.ctx, editTray+`.map((row) => row.innerText.replace(/\s*×$/, '')
		.replace(/\s+/g, ' '))`)
}

func (p *page) editWantRows(want ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`%s.length === %d`, editTray, len(want)))
	if got := p.editRows(); !slices.Equal(got, want) {
		p.t.Errorf("the tray shows %q, want %q", got, want)
	}
}

func (p *page) editUntilState(state string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector('section[aria-label="Staged edits"]')?.dataset.state === %q`, state))
}

func (p *page) editClick(command string) {
	p.t.Helper()
	p.editDo(chromedp.Click(`section[aria-label="Staged edits"] [data-command="` + command + `"]`))
}

// editPicture keeps screenshots, light and dark, where TOPOSTREAM_SCREENSHOTS says.
func (p *page) editPicture(name string) {
	p.t.Helper()
	dir := os.Getenv("TOPOSTREAM_SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, theme := range []string{"light", "dark"} {
		p.theme(theme)
		shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+"-"+theme+".png"), shot, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.theme("")
}

// editNames is a graph by names: all but the ids that the database chooses.
const editNames = `JSON.stringify((({ lans, deckies, edges }) => [
	lans.map((l) => [l.name, l.subnet, l.is_dmz, l.x, l.y].join()),
	deckies.map((d) => [d.name, d.ip, JSON.stringify(d.services), d.decky_config.archetype, d.x, d.y].join()),
	edges.map((e) => [deckies.find((d) => d.uuid === e.decky_uuid).name, lans.find((l) => l.id === e.lan_id).name,
		e.ip, e.is_bridge, e.forwards_l3].join()),
].map((rows) => rows.sort()))(%s))`

const editHead = `window.topostream.head.graph`

func TestThreeEditsAreStagedAndAppliedAsOne(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	conn := page.conn
	other := openConsole(t, page.server.url, operatorToken(t), page.id)

	// A subnet dropped on the canvas, a decky dropped on that, and a port dragged onto a LAN.
	page.palette("lan", page.corner("office").plus(0, -140))
	page.editWantRows("+ add LAN lan-1 (the next free subnet)")
	page.palette("decky:web-camera", page.spot("lan-1"))
	page.link(page.corner("plant").plus(12, 8))
	staged := []string{
		"+ add LAN lan-1 (the next free subnet)", "+ add decky cam-1 to lan-1 (http, rtsp)", "+ attach web to plant",
	}
	page.editWantRows(staged...)
	if kinds := chromeEval[string](t, page.ctx,
		`window.topostream.ghosts.map((g) => g.kind + ' ' + g.phase).join()`); kinds !=
		"lan staged,decky staged,edge staged" {
		t.Errorf("ghosts: %s", kinds)
	}
	page.editPicture("staged")

	// Undone to the first and done again.
	page.editKey("z")
	page.editKey("z")
	page.editWantRows(staged[0])
	page.editKey("y")
	page.editKey("y")
	page.editWantRows(staged...)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 1 {
		t.Errorf("%d mutations before Apply", n)
	}

	want := chromeEval[string](t, page.ctx, fmt.Sprintf(editNames, `window.topostream.preview`))
	page.editClick("edit.apply")
	page.editUntilState("applied")
	const sent = `SELECT op || ' ' || jsonb_array_length(payload -> 'ops') || ' ' || state FROM mutations
		ORDER BY position DESC LIMIT 1`
	if s := pgtest.Scan[string](t, conn, sent); s != "changeset 3 applied" {
		t.Errorf("the newest mutation is %s", s)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations`); n != 2 {
		t.Errorf("%d mutations after Apply", n)
	}
	page.until(editHead + `.lans.length === 3`)
	if got := chromeEval[string](t, page.ctx, fmt.Sprintf(editNames, editHead)); got != want {
		t.Errorf("the server made\n%s, the preview\n%s", got, want)
	}
	page.editPicture("applied")

	// The other tab has the same, and nothing staged.
	other.until(editHead + `.lans.length === 3`)
	if got := chromeEval[string](t, other.ctx, fmt.Sprintf(editNames, editHead)); got != want {
		t.Errorf("the other tab has\n%s, this one\n%s", got, want)
	}
	if rows := other.editRows(); len(rows) > 0 {
		t.Errorf("the other tab has staged %q", rows)
	}

	// A move is no staged edit: it is sent as it is, and both tabs follow.
	zoom := chromeEval[float64](t, page.ctx, `window.topostream.graph.zoom()`)
	web := page.spot("web")
	page.drag(0, web, web.plus(80*zoom, 64*zoom))
	other.until(editHead + `.deckies.some((d) => d.name === 'web' && d.x === 120 && d.y === 124)`)
	if rows := page.editRows(); len(rows) > 0 {
		t.Errorf("a move has staged %q", rows)
	}
	// One's own moves do not stand in one's own way.
	page.until(editHead + `.deckies.some((d) => d.name === 'web' && d.x === 120)`)
	page.palette("decky:plc", page.spot("plant"))
	web = page.spot("web")
	page.drag(0, web, web.plus(-80*zoom, 0))
	page.until(`document.querySelector('section[aria-label="Staged edits"]') !== null`)
	page.editClick("edit.apply")
	page.editUntilState("applied")
	other.until(editHead + `.deckies.some((d) => d.name === 'web' && d.x === 40 && d.y === 124)`)
}

// A trigger of the installation refuses what the page cannot foresee.
func TestAFailedOpKeepsWhatIsStagedWithTheReasonAtTheOp(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	conn := page.conn
	pgtest.Exec(t, conn, `CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'no <b>plc</b> on Sundays'; END $$`)
	pgtest.Exec(t, conn, `CREATE TRIGGER forbid BEFORE INSERT ON deckies FOR EACH ROW WHEN (NEW.name LIKE 'plc%')
		EXECUTE FUNCTION forbid()`)
	page.link(page.corner("plant").plus(12, 8))
	page.palette("decky:plc", page.spot("plant"))
	page.editClick("edit.apply")
	page.editUntilState("failed")
	const reason = "PostgreSQL refused the edit: no <b>plc</b> on Sundays"
	page.editWantRows("+ attach web to plant", "+ add decky plc-1 to plant (modbus, http) ✕ "+reason)
	if said := chromeEval[string](t, page.ctx, `document.querySelector('[role="alert"] code').textContent`); said !=
		"ops[1]: "+reason {
		t.Errorf("the page says %q", said)
	}
	page.editPicture("failed")

	// Without it the rest is applied.
	page.editDo(chromedp.Click(`button[aria-label^="Take back: add decky plc-1"]`))
	page.editWantRows("+ attach web to plant")
	page.editClick("edit.apply")
	page.editUntilState("applied")
}

func TestAConflictShowsWhatOthersDidAndIsRebased(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	db, conn, id, server := page.db, page.conn, page.id, page.server
	page.services("web", "http")
	page.services("db", "postgresql")
	page.palette("decky:plc", page.spot("plant"))
	page.until(editTray + `.length === 3`)

	// Another operator removes web, and renames plant.
	ada := newOperator(t, server.url, "ada", stream.RoleAdmin)
	for _, body := range []string{
		`{"op":"remove_decky","payload":{"decky":"web"}}`,
		`{"op":"update_lan","payload":{"name":"plant","patch":{"name":"factory"}}}`,
	} {
		if reply := ada.do("POST", "/topologies/"+id+"/mutations", body); reply.status != 202 {
			t.Fatalf("%d %s", reply.status, reply.body)
		}
	}
	// Somebody changes db by hand, which raises no version.
	if out, err := db.Psql(t, `UPDATE deckies SET services = '["smb"]' WHERE name = 'db'`); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	page.until(editHead + `.deckies.length === 1 && ` + editHead + `.deckies[0].services[0] === 'smb' && ` +
		editHead + `.lans.some((l) => l.name === 'factory')`)
	page.editClick("edit.apply")
	page.editUntilState("conflict")
	text := chromeEval[string](t, page.ctx, `document.querySelector('section[aria-label="Staged edits"]').innerText`)
	for _, want := range []string{"ada: − decky web removed", "ada: ~ LAN factory: name plant → factory",
		"by hand: ~ decky db: services none → smb"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	page.editWantRows(
		`~ web: services ssh → http ✕ conflict: decky "web" was removed meanwhile`,
		`~ db: services none → postgresql ▲ changed: its services were changed meanwhile: none → smb`,
		`+ add decky plc-1 to plant (modbus, http) ▲ changed: LAN "plant" is "factory" now`,
	)
	page.editPicture("conflict")
	page.editClick("edit.rebase")
	page.editWantRows(`~ db: services smb → postgresql`, `+ add decky plc-1 to factory (modbus, http)`)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE op = 'changeset'`); n != 1 {
		t.Errorf("%d changesets before the rebased one", n)
	}

	// Somebody changes the graph once more, so that the server says it.
	if reply := ada.do("POST", "/topologies/"+id+"/mutations",
		`{"op":"add_lan","payload":{"name":"lab"}}`); reply.status != 202 {
		t.Fatalf("%d %s", reply.status, reply.body)
	}
	page.until(editHead + `.lans.some((l) => l.name === 'lab')`)
	page.editClick("edit.apply")
	page.editUntilState("conflict")
	page.until(`document.querySelector('section[aria-label="Staged edits"]').innerText.includes('expected_version is ')`)
	page.editClick("edit.rebase")
	page.editClick("edit.apply")
	page.editUntilState("applied")
	const state = `SELECT string_agg(d.name || ' ' || d.services::text, ', ' ORDER BY d.name) FROM deckies d`
	if s := pgtest.Scan[string](t, conn, state); s != `db ["postgresql"], plc-1 ["modbus", "http"]` {
		t.Errorf("the deckies are %s", s)
	}
}

func TestEditingByKeyboardAlone(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	conn := page.conn

	// The menu of a decky, to its services; what is wrong is said at the field.
	page.choose("web")
	page.with(chromedp.ModifierShift, kb.F10)
	page.until(`document.activeElement?.dataset.command === 'edit.services'`)
	page.editDo(chromedp.KeyEvent(kb.ArrowDown + kb.ArrowUp))
	page.editPicture("menu")
	page.editDo(chromedp.KeyEvent(kb.Enter))
	page.until(`document.activeElement?.name === 'services' && !document.querySelector('[role="menu"]')`)
	page.editDo(chromedp.KeyEvent(strings.Repeat("x", 201) + kb.Enter))
	page.until(`document.activeElement?.getAttribute('aria-invalid') === 'true' &&
		document.querySelector('dialog [role="alert"]').textContent === 'give 1 to 200 characters'`)
	page.editPicture("dialog")
	page.editKey("a")
	page.editDo(chromedp.KeyEvent("ssh http" + kb.Enter))
	page.editWantRows("~ web: services ssh → ssh, http")

	if n := chromeEval[int](t, page.ctx,
		`document.querySelectorAll('section[aria-label="Staged edits"] [aria-disabled]').length`); n != 1 {
		t.Errorf("%d buttons cannot be pressed, want Redo alone", n)
	}

	// A LAN that is somebody's home goes with its members, as one step.
	page.choose("office")
	page.editDo(chromedp.KeyEvent(kb.Delete))
	page.editWantRows("− remove decky db from office (10.0.0.3)", "− remove decky web from office (10.0.0.2)",
		"− remove LAN office (10.0.0.0/24)")
	page.editKey("z")
	page.editWantRows("~ web: services ssh → ssh, http")

	// A new decky by a key; its name is taken, which is said at the name.
	page.editDo(chromedp.Click(`section[aria-label="Add to the graph"] button`))
	page.editPicture("palette")
	page.editDo(chromedp.KeyEvent(kb.Escape + "a"))
	page.until(`!!document.querySelector('dialog[open] input[name="name"]')`)
	for chromeEval[string](t, page.ctx, `document.activeElement.name`) != "name" {
		page.keys(kb.Tab)
	}
	page.editKey("a")
	page.editDo(chromedp.KeyEvent("web" + kb.Enter))
	page.until(`document.querySelector('dialog [role="alert"]')?.textContent === 'decky "web" exists already'`)
	page.editDo(chromedp.KeyEvent("-9" + kb.Enter))
	page.editWantRows("~ web: services ssh → ssh, http", "+ add decky web-9 to office (ssh, http)")

	// Promoting asks first; duplicates beside.
	page.choose("db")
	page.editDo(chromedp.KeyEvent("g"))
	page.until(`document.querySelector('dialog[open]')?.innerText
		.includes('through between its networks (office and plant)')`)
	page.editDo(chromedp.KeyEvent(kb.Enter))
	page.editKey("d")
	page.editWantRows("~ web: services ssh → ssh, http", "+ add decky web-9 to office (ssh, http)",
		"~ db: becomes a gateway", "+ add gateway db-1 to office (no services)", "+ attach db-1 to plant")

	// A home cannot change: it says so.
	page.command("Another home…")
	page.until(`document.querySelector('dialog[open]')?.innerText.includes('a home LAN cannot change')`)
	page.editPicture("home")
	page.editDo(chromedp.KeyEvent(kb.Escape))
	page.until(`!document.querySelector('dialog')`)
	page.link(page.corner("office").plus(12, 8))
	page.until(`document.querySelector('section[aria-label="Staged edits"] [role="status"]')?.innerText
		.startsWith('office is the home of web')`)
	page.editKey(kb.Enter)
	page.editUntilState("applied")
	const gateways = `SELECT string_agg(name, ' ' ORDER BY name) FROM deckies
		WHERE decky_config ->> 'forwards_l3' = 'true'`
	if s := pgtest.Scan[string](t, conn, gateways); s != "db db-1" {
		t.Errorf("gateways: %s", s)
	}
}

// The browser tells that a dialog was closed a moment later, when the next one may stand.
func TestADialogThatIsOpenedAsAnotherGoesStays(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	page.keys("w")
	page.until(`!!document.querySelector('dialog[open] form')`)
	chromeEval[bool](t, page.ctx, `(() => {
		const observer = new MutationObserver(() => {
			if (document.querySelector('dialog[open]')) return;
			observer.disconnect();
			window.dispatchEvent(new KeyboardEvent('keydown', { key: 'a', bubbles: true, cancelable: true }));
		});
		observer.observe(document.body, { childList: true, subtree: true });
		document.querySelector('dialog[open] [type=submit]').click();
		window.looks = 0;
		return true;
	})()`)
	page.until(`++window.looks > 10 && !!document.querySelector('dialog[open] [name=archetype]')`)
}

// Where the graph is read-only the page says why, and why a key did nothing.
func TestWhyNothingCanBeEditedNowIsSaid(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	const line, tray = `.edit-why-not`, `section[aria-label="Staged edits"]`
	page.graphWhere("web")
	page.keys("s") // the services of nothing
	page.says(tray, "select a decky first")
	page.keys("f") // what a key could not do is not said any more once one did something
	page.until(`!document.querySelector('` + tray + `')`)

	reply := newOperator(t, page.server.url, "ada", stream.RoleAdmin).
		do("PATCH", "/topologies/"+page.id, `{"status":"tearing_down"}`)
	if reply.status != 200 {
		t.Fatalf("%d %s", reply.status, reply.body)
	}
	const why = "a topology that is tearing_down cannot be edited: it must be active or degraded"
	page.says(line, why)
	page.choose("web")
	page.graphClick("web")
	page.keys(kb.Delete)
	page.says(line, why+" Dismiss")
	page.editPicture("why-not")
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll('`+tray+`').length`); n != 0 {
		t.Error("there is a tray where nothing can be staged")
	}
	page.click(line + ` button`)
	page.until(`!document.querySelector('` + line + ` button')`)
	page.look("at", "3") // of which a band tells; but a key gets its answer
	page.until(`window.topostream.past && !document.querySelector('` + line + `')`)
	page.keys("w")
	page.says(line, "this is seq 3, not the present")
}

func TestAViewerIsOfferedNoEdits(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, testToken(t), editGraph)
	page.link(page.corner("plant").plus(12, 8))
	if n := chromeEval[int](t, page.ctx,
		`document.querySelectorAll('.editing section, .editing button').length`); n > 0 {
		t.Errorf("a viewer sees %d controls", n)
	}
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll('.edit-why-not').length`); n > 0 {
		t.Error("a viewer reads all the time that edits are an admin's")
	}
	page.keys("w")
	page.says(`.edit-why-not`, "may only look")
	if why := page.why("Add a subnet…"); !strings.Contains(why, "may only look") {
		t.Errorf("the reason is %q", why)
	}
}

// What somebody may do the server says: a token need not name it, and nobody but the server reads a cookie.
func TestWhatIsOfferedIsWhatTheServerSaysThatOneMayDo(t *testing.T) {
	t.Parallel()
	long(t)
	t.Run("a token without a role", func(t *testing.T) {
		t.Parallel()
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256,
			jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(testSecret))
		if err != nil {
			t.Fatal(err)
		}
		page := openDeskOn(t, func(c *serveCmd) { c.Mutator, c.JWTDefaultRole = true, "admin" }, token, editGraph)
		page.says(`.bar-who`, "ann · admin")
		page.palette("lan", page.corner("office").plus(0, -140))
		page.editWantRows("+ add LAN lan-1 (the next free subnet)")
	})
	t.Run("a cookie", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t)
		conn := db.Conn(t)
		id := live(t, conn, 1)[0]
		server := serve(t, db.URL, func(c *serveCmd) { c.Mutator, c.AuthCookie = true, "session" })
		editGraph(t, conn, id)
		page := openPage(t, server.url+"/livez")
		page.editDo(chromedp.EmulateViewport(1440, 900))
		look := func(token string) {
			t.Helper()
			page.editDo(chromedp.Navigate(server.url + "/livez"))
			chromeEval[bool](t, page.ctx, `(document.cookie = 'session=`+token+`; path=/', true)`)
			page.editDo(chromedp.Navigate(server.url + "/#/" + id))
			page.until(`!!window.topostream?.view`)
		}
		look(testToken(t))
		page.graphWhere("web")
		if n := chromeEval[int](t, page.ctx,
			`document.querySelectorAll('.editing section, .editing button').length`); n > 0 {
			t.Errorf("a viewer sees %d controls", n)
		}
		for _, title := range []string{"Add a subnet…", "New topology…", "Tear down…"} {
			if why := page.why(title); !strings.Contains(why, "may only look") {
				t.Errorf("%s: %q", title, why)
			}
		}
		look(operatorToken(t))
		page.until(`window.topostream.editable === true`)
	})
}
