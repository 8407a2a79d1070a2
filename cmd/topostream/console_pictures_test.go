package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

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

// A pictured state is a state of the page: its pane on a small screen, statements that lead into it, what is true in
// it, statements that lead out, and statements that bring the graph to what is looked at: all of it, if empty.
type pictured struct{ name, tab, enter, reached, leave, look string }

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
		p.until(fmt.Sprintf(`topostreamConsole.layout.small.value === %t`, small))
		if small {
			p.editJS(fmt.Sprintf(`app.layout.tab.value = %q`, state.tab))
		}
		p.settled()
		p.editJS(state.enter)
		p.until(strings.ReplaceAll(state.reached, "app.", "topostreamConsole."))
		p.settled()
		p.editJS(cmp.Or(state.look, `app.commands.run('graph.fit')`))
		for _, theme := range []string{"dark", "light"} {
			p.editJS(fmt.Sprintf(`app.layout.theme.value = %q`, theme))
			p.settled()
			p.shoot(fmt.Sprintf("%s-%s-%s", state.name, on.name, theme))
		}
		p.until(strings.ReplaceAll(state.reached, "app.", "topostreamConsole.")) // still
		p.editJS(state.leave)
	}
}

// settled waits until two frames are drawn and nothing moves or flashes.
func (p photographer) settled() {
	p.t.Helper()
	p.editJS(`window.frames_ = 0; const count = () => { if (++window.frames_ < 4) requestAnimationFrame(count); };
		requestAnimationFrame(count)`)
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

// selects is a statement that selects a decky or LAN by name.
func selects(name string) string {
	return fmt.Sprintf(`const { lans, deckies } = app.shown.value.graph;
		const one = deckies.find((d) => d.name === %[1]q);
		app.route.go({ selection: [one ? { kind: 'decky', key: one.uuid }
			: { kind: 'lan', key: lans.find((l) => l.name === %[1]q).id }] });`, name)
}

// zooms is a statement that shows the whole graph, and then goes to a level of detail.
func zooms(command, level string) string {
	return fmt.Sprintf(`app.commands.run('graph.fit');
		for (let i = 0; i < 20 && window.topostream.graph.level() !== %q; i++) app.commands.run(%q);`, level, command)
}

const (
	unselect = `app.route.go({ selection: [] });`
	isDrawn  = `window.topostream?.words === 'live' && window.topostream.graph?.counts().deckies > 50`
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
		tab.until(`!!window.topostreamConsole`)
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
	const stage = `app.editing.edit.discard();
		app.layout.open.timeline.value = false;
		app.editing.edit.stage(
			{ op: 'add_lan', payload: { name: 'packaging', subnet: '10.71.0.0/24', x: 0, y: 616 } },
			{ op: 'add_decky', payload: { name: 'robot-1', lan: 'packaging', services: ['ssh'], x: 16, y: 44 } },
			{ op: 'add_decky', payload: { name: 'scale-1', lan: 'packaging', services: ['modbus'], x: 168, y: 44 } },
			{ op: 'attach_decky', payload: { decky: 'db-1', lan: 'packaging' } },
			{ op: 'update_decky', payload: { decky: 'wiki-1', services: ['http', 'ssh'] } },
			{ op: 'remove_decky', payload: { decky: 'relay-2' } });`
	const unstage = `app.editing.edit.discard(); app.editing.edit.dismiss(); app.layout.open.timeline.value = true;`
	for _, state := range []pictured{
		{"list", "list", unselect, `window.topostream.rows === 10`, ``, ``},
		{"graph-live", "graph", unselect, isDrawn, ``, ``},
		{"graph-far", "graph", ``, isDrawn, ``, zooms("graph.zoomOut", "far")},
		{"graph-middle", "graph", ``, isDrawn, ``, zooms("graph.zoomIn", "middle")},
		{"graph-near", "graph", ``, isDrawn, ``, selects("plc-gw") + `app.commands.run('graph.centre');` + unselect},
		{"unhealthy", "graph", `app.commands.run('graph.unhealthy')`,
			`document.querySelector('[title=U]').ariaPressed === 'true'`, `app.commands.run('graph.unhealthy')`, ``},
		{"decky", "inspector", selects("plc-3"), `document.querySelector('aside[aria-label=Inspector] h2')?.textContent ===
			'plc-3' && document.querySelectorAll('aside[aria-label=Inspector] li[data-seq]').length > 0`, unselect, ``},
		{"menu", wideOnly, selects("plc-gw"), isDrawn,
			`document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }));` + unselect,
			`app.commands.run('graph.fit'); requestAnimationFrame(() => app.commands.run('edit.menu'))`},
		{"timeline-filter", "timeline", unselect + `app.route.go({ filter: 'type:mutation.*' })`,
			`document.querySelector('#timeline-filter').value === 'type:mutation.*' && window.topostream.shown > 3 &&
				window.topostream.shown < 30`, ``, ``},
		{"timeline-event", "timeline", `app.route.go({ filter: 'is:failed', selection: [] });
			requestAnimationFrame(() => requestAnimationFrame(() =>
				document.querySelector('[role=option][data-type="mutation.failed"] .timeline-arrow').click()))`,
			`!!document.querySelector('[role=region][aria-label^=Payload]')`,
			`app.route.go({ filter: '' }); app.timeline.atEnd.value = true`, ``},
		{"filter-wrong", "timeline", `app.route.go({ filter: 'colour:red' })`,
			`document.getElementById('timeline-filter').ariaInvalid === 'true'`, `app.route.go({ filter: '' })`, ``},
		{"psql", "graph", selects("plant-floor") + `app.route.go({ panel: 'inject' })`,
			`document.querySelectorAll('aside[aria-label=psql] [data-line]').length > 3`,
			`app.route.go({ panel: '' });` + unselect, ``},
		{"past", "graph", `app.route.go({ at: app.live.open.value.seq - 20 });`,
			`'past' in document.documentElement.dataset && app.past.value !== null`, `app.route.go({ at: null })`, ``},
		{"commands", "graph", `app.route.go({ panel: 'commands' })`,
			`document.querySelector('dialog[open]')?.ariaLabel === 'Commands'`, `app.route.go({ panel: '' })`, ``},
		{"keys", "graph", `app.route.go({ panel: 'keys' })`, `document.querySelector('dialog[open]')?.ariaLabel === 'Keys'`,
			`app.route.go({ panel: '' })`, ``},
		{"table", "graph", `app.route.go({ view: 'table' })`, `document.querySelectorAll('tr[data-decky]').length > 50`,
			`app.route.go({ view: 'graph' })`, ``},
		{"create", wideOnly, `app.commands.run('topology.create')`, `!!document.querySelector('dialog[open] [name=name]')`,
			`app.route.go({ panel: '' })`, ``},
		{"delete", wideOnly, `app.route.go({ panel: 'delete' })`, `!!document.querySelector('dialog[open] [name=name]')`,
			`app.route.go({ panel: '' })`, ``},
	} {
		p.take(state)
	}

	// What is staged; then somebody else is first.
	editor := open(server.url, admin, id)
	editor.until(isDrawn + ` && Array.isArray(topostreamConsole.editing.archetypes.value)`)
	editor.take(pictured{
		name: "staged", enter: stage, reached: tray + `?.querySelectorAll('li').length === 6`, leave: unstage,
	})
	editor.editDo(chromedp.EmulateViewport(1440, 900))
	editor.editJS(stage)
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
	editor.editJS(`app.intents.value.drop('decky:plc', { x: 168, y: 172, lan: 'servers' }, null);
		app.intents.value.connect('ops-1', 'plant-floor')`)
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
		reached: `app.session.identity.value.role === 'viewer' && ` + isDrawn,
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
		if out, err := exec.CommandContext(p.t.Context(), pngquant, args...).CombinedOutput(); err != nil {
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
