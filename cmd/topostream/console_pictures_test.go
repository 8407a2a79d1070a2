package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// picturesDir is where the pictures of the console go:
//
//	TOPOSTREAM_PICTURES=/tmp/pictures go test -count=1 -run '^Test(Pictures|Loop)$' ./cmd/topostream
//
// Those of the README are in its folder readme. -run '^TestPictures$/^(graph-live|staged|past)$' makes these alone.
func picturesDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TOPOSTREAM_PICTURES")
	if dir == "" {
		t.Skip("makes pictures of the console, and nobody asked: set TOPOSTREAM_PICTURES to the directory that gets them")
	}
	if err := os.MkdirAll(filepath.Join(dir, "readme"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A screen has a size of which each picture is made.
type screen struct {
	name          string
	width, height int64
}

var screens = []screen{{"1440", 1440, 900}, {"390", 390, 844}}

// A pictured state is a state of the page: its pane on a small screen, what leads into it, what is true in it, what
// leads out, and what brings the graph to what is looked at: all of it, if nil.
type pictured struct {
	name, tab string
	enter     func(*page)
	reached   string
	leave     func(*page)
	look      func(*page)
}

// wideOnly is the pane of what a small screen has not.
const wideOnly = ""

// inReadme are the pictures of the README, by the name that they have there.
var inReadme = map[string]string{
	"graph-live-1440-dark": "console.png",
	"staged-1440-light":    "edit.png",
	"past-1440-dark":       "past.png",
}

// A photographer takes pictures of one page.
type photographer struct {
	*page

	test *testing.T
	dir  string
}

// take photographs a state on each screen, dark and light, in a test of its own. It fails where the state is not
// reached.
func (p photographer) take(state pictured) {
	p.test.Helper()
	p.test.Run(state.name, func(t *testing.T) { photographer{&page{t, p.ctx}, t, p.dir}.takeHere(state) })
}

func (p photographer) takeHere(state pictured) {
	p.t.Helper()
	for _, on := range screens {
		small := on.width < 700
		if small && state.tab == wideOnly {
			continue
		}
		p.editDo(chromedp.EmulateViewport(on.width, on.height))
		p.until(fmt.Sprintf(`!!document.querySelector('.shell.small') === %t`, small))
		if small {
			p.click("#tab-" + state.tab)
		}
		p.settled()
		if state.enter != nil {
			state.enter(p.page)
		}
		p.until(state.reached)
		p.settled()
		look := state.look
		if look == nil {
			look = fits
		}
		look(p.page)
		for _, theme := range []string{"dark", "light"} {
			p.theme(theme)
			p.settled()
			p.shoot(fmt.Sprintf("%s-%s-%s", state.name, on.name, theme))
		}
		p.until(state.reached) // still
		if state.leave != nil {
			state.leave(p.page)
		}
	}
}

// settled waits until two frames are drawn and nothing moves or flashes.
func (p photographer) settled() {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, `(() => {
		window.frames_ = 0;
		const count = () => { if (++window.frames_ < 4) requestAnimationFrame(count); };
		requestAnimationFrame(count);
		return true;
	})()`)
	p.until(`window.frames_ === 4 && document.getAnimations().length === 0`)
}

func (p photographer) shoot(name string) {
	p.t.Helper()
	shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatal(err)
	}
	files := []string{filepath.Join(p.dir, name+".png")}
	if as, ok := inReadme[name]; ok {
		files = append(files, filepath.Join(p.dir, "readme", as))
	}
	for _, file := range files {
		if err := os.WriteFile(file, shot, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
}

// recovered is what an operator does about harbour-north after an edit that failed.
const recovered = `
UPDATE topologies SET status = 'active', reason = NULL WHERE name = 'harbour-north' AND status = 'degraded'`

// harbour fills a database with what the pictures show, an hour of it.
func harbour(t *testing.T, db *pgtest.DB) (id string) {
	t.Helper()
	script := func(name string) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "pictures", name))
		if err != nil {
			t.Fatal(err)
		}
		shellPsql(t, db, string(text))
	}
	conn := db.Conn(t)
	script("harbour.sql")
	worker := serve(t, db.URL, withWorker)
	script("edits.sql")
	pgtest.Eventually(t, "what is wanted to be applied", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT NOT EXISTS (SELECT FROM mutations WHERE state IN ('pending', 'applying'))`)
	})
	pgtest.Exec(t, conn, recovered)
	worker.stop()
	script("hour.sql")
	return pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 'harbour-north'`)
}

// clicksIfThere clicks on the first element of a selector, which need not be there, nor be reached by a pointer: what
// a dialog covers is brought to what is looked at, too.
func (p *page) clicksIfThere(selector string) {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`(document.querySelector(%q)?.click(), true)`, selector))
}

// fits shows the whole graph, if there is one.
func fits(p *page) { p.clicksIfThere(`.graph-tools button[title=F]`) }

// zooms shows the whole graph, and then goes to a level of detail by a button.
func zooms(button, level string) func(*page) {
	return func(p *page) {
		p.t.Helper()
		fits(p)
		for range 20 {
			if chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`window.topostream.graph.level() === %q`, level)) {
				return
			}
			p.click(`.graph-zoom button[aria-label="` + button + `"]`)
		}
		p.t.Errorf("%s does not lead to the level %s", button, level)
	}
}

// selects takes a decky or LAN by its name.
func selects(name string) func(*page) { return func(p *page) { p.choose(name) } }

func unselect(p *page) { p.look("sel") }

// looks changes what the address says, with nothing selected.
func looks(key, value string) func(*page) {
	return func(p *page) {
		unselect(p)
		p.look(key, value)
	}
}

// staging fills the form that a key opens, and stages it; choices are given as fields are, in pairs.
func (p *page) staging(key string, fields ...string) {
	p.t.Helper()
	p.keys(key)
	p.until(`!!document.querySelector('dialog[open] form')`)
	for i := 0; i < len(fields); i += 2 {
		chromeEval[bool](p.t, p.ctx, fmt.Sprintf(`((name, value) => {
			const field = document.querySelector('dialog[open] [name=' + name + ']');
			field.value = value;
			return field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input', { bubbles: true }));
		})(%q, %q)`, fields[i], fields[i+1]))
	}
	p.until(`!document.getAnimations().length`)
	p.click(`dialog[open] [type=submit]`)
	p.until(`!document.querySelector('dialog[open]')`)
}

// timeline opens or closes the pane.
func (p *page) timeline(open bool) {
	p.t.Helper()
	if chromeEval[bool](p.t, p.ctx, `!!document.querySelector('#timeline-filter')`) != open {
		p.keys("t")
	}
	p.until(fmt.Sprintf(`!!document.querySelector('#timeline-filter') === %t`, open))
}

// unstage discards what is staged, and what the tray says of it.
func unstage(p *page) {
	p.clicksIfThere(stagedTray + `[data-command="edit.discard"]`)
	p.until(`window.topostream.staged.length === 0`)
	p.timeline(true)
}

// stage stages six edits.
func stage(p *page) {
	if chromeEval[bool](p.t, p.ctx, `window.topostream.staged.length > 0`) {
		unstage(p)
	}
	p.timeline(false)
	unselect(p)
	p.staging("w", "name", "packaging", "subnet", "10.71.0.0/24")
	p.staging("a", "archetype", "", "lan", "packaging", "name", "robot-1", "services", "ssh")
	p.staging("a", "archetype", "", "lan", "packaging", "name", "scale-1", "services", "modbus")
	p.choose("db-1")
	p.staging("b", "lan", "packaging")
	p.choose("wiki-1")
	p.staging("s", "services", "http, ssh")
	p.choose("relay-2")
	p.keys(kb.Delete)
	unselect(p)
	p.until(`window.topostream.staged.length === 6`)
}

const (
	stagedTray = `section[aria-label="Staged edits"] `
	isDrawn    = `window.topostream?.words === 'live' && window.topostream.graph?.counts().deckies > 50`
)

func TestPictures(t *testing.T) {
	t.Parallel()
	dir := picturesDir(t)
	began := time.Now()
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn := db.Conn(t)

	// A page without a token, and an installation without a topology.
	server := serve(t, db.URL, withWorker)
	browser := openPage(t, server.url+"/")
	p := photographer{browser, t, dir}
	p.take(pictured{name: "sign-in", tab: "list", reached: `!!document.querySelector('dialog[open] #signin-token')`})
	open := func(at, token, id string) photographer {
		t.Helper()
		// A tab has a sessionStorage of its own: each begins without a token.
		tab := browser.tab("about:blank")
		tab.editDo(chromedp.EmulateViewport(1440, 900))
		tab.editDo(chromedp.Navigate(at + "/#token=" + token + "&topology=" + id)) // id may be empty
		tab.until(`!!window.topostream`)
		return photographer{tab, t, dir}
	}
	admin := signed(t, auth.Claims{Subject: "anna", Role: stream.RoleAdmin, TTL: 8 * time.Hour})
	p = open(server.url, admin, "")
	p.take(pictured{name: "empty", tab: "graph", reached: `!!document.querySelector('main[data-state=empty]')`})
	server.stop()

	id := harbour(t, db)
	server = serve(t, db.URL, withWorker)
	p = open(server.url, admin, id)
	p.until(isDrawn)
	p.settled() // a page that has just come is no measure of latency
	shellPsql(t, db, `SELECT topology_emit(id, type, payload::jsonb) FROM topologies, (VALUES
		('probe', '{"decky": "web-2", "from": "198.51.100.77", "port": 443}'),
		('login.failed', '{"decky": "jump-1", "from": "198.51.100.77", "user": "administrator"}'),
		('decky.seen', '{"decky": "rtu-2", "latency_ms": 840}'),
		('login.failed', '{"decky": "jump-1", "from": "198.51.100.77", "user": "root"}'),
		('probe', '{"decky": "plc-4", "from": "10.50.0.14", "port": 102}')) AS e (type, payload)
		WHERE name = 'harbour-north'`)
	p.until(`window.topostream.latency?.count === 5`)

	const tray = `document.querySelector('section[aria-label="Staged edits"]')`
	for _, state := range []pictured{
		{"list", "list", unselect, `window.topostream.rows === 10`, nil, nil},
		{"graph-live", "graph", unselect, isDrawn, nil, nil},
		{"graph-far", "graph", nil, isDrawn, nil, zooms("Zoom out", "far")},
		{"graph-middle", "graph", nil, isDrawn, nil, zooms("Zoom in", "middle")},
		{"graph-near", "graph", nil, isDrawn, nil, func(p *page) {
			p.choose("plc-gw")
			p.command("Centre what is selected")
			unselect(p)
		}},
		{"unhealthy", "graph", func(p *page) { p.click("[title=U]") },
			`document.querySelector('[title=U]').ariaPressed === 'true'`, func(p *page) { p.click("[title=U]") }, nil},
		{"decky", "inspector", selects("plc-3"), `document.querySelector('aside[aria-label=Inspector] h2')?.textContent ===
			'plc-3' && document.querySelectorAll('aside[aria-label=Inspector] li[data-seq]').length > 0`, unselect, nil},
		{"menu", wideOnly, selects("plc-gw"), isDrawn, func(p *page) {
			p.keys(kb.Escape)
			unselect(p)
		}, func(p *page) {
			fits(p)
			p.with(chromedp.ModifierShift, kb.F10)
			p.until(`document.activeElement?.dataset.command === 'edit.services'`)
		}},
		{"timeline-filter", "timeline", looks("filter", "type:mutation.*"),
			`document.querySelector('#timeline-filter').value === 'type:mutation.*' && window.topostream.shown > 3 &&
				window.topostream.shown < 30`, nil, nil},
		{"timeline-event", "timeline", func(p *page) {
			looks("filter", "is:failed")(p)
			p.until(`document.querySelector('#timeline-filter').value === 'is:failed'`)
			p.click(`[role=option][data-type="mutation.failed"] .timeline-arrow`)
		}, `!!document.querySelector('[role=region][aria-label^=Payload]')`, func(p *page) {
			p.look("filter")
			p.clicksIfThere(`.timeline-tools button:nth-of-type(2)`) // "To the newest"
		}, nil},
		{"filter-wrong", "timeline", looks("filter", "colour:red"),
			`document.getElementById('timeline-filter').ariaInvalid === 'true'`, looks("filter", ""), nil},
		{"psql", "graph", func(p *page) {
			p.choose("plant-floor")
			p.look("panel", "inject")
		}, `document.querySelectorAll('aside[aria-label=psql] [data-line]').length > 3`, looks("panel", ""), nil},
		{"past", "graph", func(p *page) {
			p.look("at", strconv.Itoa(chromeEval[int](p.t, p.ctx, `window.topostream.lastSeq`)-20))
		}, `'past' in document.documentElement.dataset && window.topostream.past`, looks("at", ""), nil},
		{"commands", "graph", looks("panel", "commands"),
			`document.querySelector('dialog[open]')?.ariaLabel === 'Commands'`, looks("panel", ""), nil},
		{"keys", "graph", looks("panel", "keys"), `document.querySelector('dialog[open]')?.ariaLabel === 'Keys'`,
			looks("panel", ""), nil},
		{"table", "graph", looks("view", "table"), `document.querySelectorAll('tr[data-decky]').length > 50`,
			looks("view", ""), nil},
		{"create", wideOnly, looks("panel", "create"), `!!document.querySelector('dialog[open] [name=name]')`,
			looks("panel", ""), nil},
		{"delete", wideOnly, looks("panel", "delete"), `!!document.querySelector('dialog[open] [name=name]')`,
			looks("panel", ""), nil},
	} {
		p.take(state)
	}

	// What is staged; then somebody else is first.
	editor := open(server.url, admin, id)
	editor.until(isDrawn)
	editor.take(pictured{
		name: "staged", enter: stage, reached: tray + `?.querySelectorAll('li').length === 6`, leave: unstage,
	})
	editor.editDo(chromedp.EmulateViewport(1440, 900))
	editor.until(`!document.querySelector('.shell.small')`)
	stage(editor.page)
	ben := newOperator(t, server.url, "ben", stream.RoleAdmin)
	for _, op := range []string{
		`{"op":"remove_decky","payload":{"decky":"relay-2"}}`,
		`{"op":"update_decky","payload":{"decky":"wiki-1","services":["https"]}}`,
	} {
		if reply := ben.do("POST", "/topologies/"+id+"/mutations", op); reply.status != 202 {
			t.Fatalf("%d %s", reply.status, reply.body)
		}
	}
	editor.until(editHead + `.deckies.every((d) => d.name !== 'relay-2') &&
		` + editHead + `.deckies.some((d) => d.name === 'wiki-1' && d.services[0] === 'https')`)
	editor.editClick("edit.apply")
	editor.take(pictured{name: "conflict", reached: tray + `?.dataset.state === 'conflict'`, leave: unstage})

	// A rule of the installation refuses an edit of this page, and one of somebody else.
	pgtest.Exec(t, conn, `CREATE FUNCTION no_plc() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'host-4 has no licence for another PLC'; END $$`)
	pgtest.Exec(t, conn, `CREATE TRIGGER no_plc BEFORE INSERT ON deckies FOR EACH ROW WHEN (NEW.name LIKE 'plc%')
		EXECUTE FUNCTION no_plc()`)
	editor.editDo(chromedp.EmulateViewport(1440, 900))
	editor.until(`!document.querySelector('.shell.small')`)
	editor.choose("servers")
	editor.staging("a", "archetype", "plc", "lan", "servers")
	editor.choose("ops-1")
	editor.staging("b", "lan", "plant-floor")
	unselect(editor.page)
	editor.editClick("edit.apply")
	editor.take(pictured{name: "failed-edit", reached: tray + `?.dataset.state === 'failed'`, leave: unstage})
	p.take(pictured{
		name: "failed", tab: "graph",
		reached: `document.querySelectorAll('[aria-label="Failed edits"] [data-reason]').length === 1`,
	})
	pgtest.Exec(t, conn, recovered)

	// Who may only look, and who may not even that.
	viewer := open(server.url, signed(t, auth.Claims{Subject: "vera", Role: stream.RoleViewer, TTL: time.Hour}), id)
	viewer.until(isDrawn)
	viewer.take(pictured{
		name: "viewer", tab: "graph", enter: selects("web-1"),
		reached: `document.querySelector('.bar-who')?.textContent.endsWith('viewer') && ` + isDrawn,
	})
	other := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 'grid-south'`)
	limited := open(server.url, signed(t, auth.Claims{Subject: "vera", Role: stream.RoleViewer, TTL: time.Hour,
		Topologies: []stream.TopologyID{stream.TopologyID(other)}}), id)
	limited.take(pictured{
		name: "forbidden", tab: "graph",
		reached: `document.querySelector('main[data-state=forbidden]')?.textContent.includes('403')`,
	})

	gone := pgtest.Scan[string](t, conn, `SELECT id::text FROM topologies WHERE name = 'metro-depot'`)
	deleted := open(server.url, admin, gone)
	deleted.until(`window.topostream.lastSeq > 0`)
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE name = 'metro-depot'`)
	deleted.take(pictured{name: "deleted", tab: "graph", reached: `!!document.querySelector('main[data-state=deleted]')`})

	// The database ends, and comes back; then the server ends.
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.take(pictured{
		name: "database-away", tab: "graph", reached: `window.topostream.words.startsWith('database away')`,
	})
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.until(`window.topostream.words === 'live'`)
	server.stop()
	p.take(pictured{
		name: "disconnected", tab: "graph", reached: `/^(reconnecting|connecting|no answer)/.test(window.topostream.words)`,
	})
	p.compress()
	t.Logf("the pictures are in %s after %s", dir, time.Since(began).Round(time.Second))
}

// readmePicture is the largest size of a picture in the README, in bytes.
const readmePicture = 300_000

// compress makes the pictures smaller where pngquant is there, and looks whether those of the README are small enough.
func (p photographer) compress() {
	p.t.Helper()
	var all []string
	for _, pattern := range []string{"*.png", "readme/*.png"} {
		files, err := filepath.Glob(filepath.Join(p.dir, pattern))
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, files...)
	}
	if pngquant, err := exec.LookPath("pngquant"); err != nil {
		p.t.Log("the pictures are as large as they are: `apt-get install pngquant` makes them smaller")
	} else {
		args := append([]string{"--force", "--ext", ".png", "--nofs", "--skip-if-larger"}, all...)
		const larger = 98 // a picture would be larger: it stays as it is
		out, err := exec.CommandContext(p.t.Context(), pngquant, args...).CombinedOutput()
		if ended, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || ended.ExitCode() != larger) {
			p.t.Fatalf("pngquant: %v: %s", err, out)
		}
	}
	for _, name := range inReadme {
		info, err := os.Stat(filepath.Join(p.dir, "readme", name))
		if errors.Is(err, fs.ErrNotExist) { // its state was not asked for, or has failed
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Logf("%s: %d bytes", name, info.Size())
		if info.Size() > readmePicture {
			p.t.Errorf("%s has %d bytes, more than %d", name, info.Size(), readmePicture)
		}
	}
}
