package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// graphSeed makes LANs net-1, net-2, … with so many deckies in each, called d-<LAN>-<n>, and a bridge from the first
// decky of each LAN into the next one.
func graphSeed(t testing.TB, conn *pgx.Conn, id string, lans, each int) {
	t.Helper()
	const (
		makeLANs = `
INSERT INTO lans (topology_id, name, subnet, is_dmz)
SELECT $1::text::uuid, 'net-' || i, ('10.' || i / 256 || '.' || i % 256 || '.0/24')::cidr, i = 1
  FROM generate_series(1, $2::int) i`
		makeDeckies = `
INSERT INTO deckies (topology_id, name, services, ip, state)
SELECT topology_id, 'd-' || substr(name, 5) || '-' || n, '["ssh"]', (host(subnet)::inet + 1 + n), 'running'
  FROM lans, generate_series(1, $2::int) n WHERE topology_id = $1::text::uuid`
		makeHomes = `
INSERT INTO edges (topology_id, decky_uuid, lan_id, ip)
SELECT d.topology_id, d.uuid, l.id, d.ip FROM deckies d JOIN lans l USING (topology_id)
 WHERE d.topology_id = $1::text::uuid AND d.ip << l.subnet`
		makeBridges = `
INSERT INTO edges (topology_id, decky_uuid, lan_id, is_bridge)
SELECT d.topology_id, d.uuid, l.id, true FROM deckies d JOIN lans l USING (topology_id)
 WHERE d.topology_id = $1::text::uuid AND d.name = 'd-' || substr(l.name, 5)::int - 1 || '-1'`
	)
	pgtest.Exec(t, conn, makeLANs, id, lans)
	pgtest.Exec(t, conn, makeDeckies, id, each)
	pgtest.Exec(t, conn, makeHomes, id)
	pgtest.Exec(t, conn, makeBridges, id)
}

// graphPage opens the console on a topology and waits until its graph is drawn.
func graphPage(t testing.TB, server, token, id string, deckies int) *page {
	t.Helper()
	p := openConsole(t, server, token, id)
	p.until(fmt.Sprintf(`window.topostream?.graph?.counts().deckies === %d`, deckies))
	return p
}

// graphSeeded is openDesk with a graph of graphSeed that is drawn.
func graphSeeded(t *testing.T, token string, lans, each int) *desk {
	t.Helper()
	d := openDesk(t, token, func(t *testing.T, conn *pgx.Conn, id string) { graphSeed(t, conn, id, lans, each) })
	d.until(fmt.Sprintf(`window.topostream?.graph?.counts().deckies === %d`, lans*each))
	return d
}

// graphBox is where something is on the screen.
type graphBox struct{ X, Y, W, H float64 }

func (b graphBox) middle() (x, y float64) { return b.X + b.W/2, b.Y + b.H/2 }

func (p *page) graphWhere(name string) graphBox {
	p.t.Helper()
	p.until(fmt.Sprintf(`!!window.topostream.graph?.where(%q)`, name))
	text := chromeEval[string](p.t, p.ctx, fmt.Sprintf(`JSON.stringify(window.topostream.graph.where(%q))`, name))
	var box graphBox
	if err := json.Unmarshal([]byte(text), &box); err != nil || text == "null" {
		p.t.Fatalf("where %s is: %s, %v", name, text, err)
	}
	return box
}

func (p *page) graphClick(name string, options ...chromedp.MouseOption) {
	p.t.Helper()
	x, y := p.graphWhere(name).middle()
	if _, err := chromedp.Run(p.ctx, chromedp.MouseClickXY(x, y, options...)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) graphDrag(fromX, fromY, toX, toY float64) {
	p.t.Helper()
	p.drag(0, point{fromX, fromY}, point{toX, toY})
}

func (p *page) graphKeys(keys string, options ...chromedp.KeyOption) {
	p.t.Helper()
	if _, err := chromedp.Run(p.ctx, chromedp.KeyEvent(keys, options...)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) graphFocus() {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, `document.querySelector('canvas[role=application]').focus(), true`)
}

const (
	graphTitle = `document.querySelector('[aria-label=Inspector] h2')?.textContent`
	graphField = `[...document.querySelectorAll('[aria-label=Inspector] dt')].find((e) => e.textContent === %q)` +
		`?.nextElementSibling.textContent.trim()`
)

func TestTheGraphIsPannedSearchedAndFitted(t *testing.T) {
	t.Parallel()
	long(t)
	p := graphSeeded(t, operatorToken(t), 6, 8)
	if got := chromeEval[string](t, p.ctx, `JSON.stringify(window.topostream.graph.counts())`); got !=
		`{"lans":6,"deckies":48,"links":5}` {
		t.Errorf("the graph has %s", got)
	}
	before := p.graphWhere("d-3-2")
	lan := p.graphWhere("net-1")
	p.graphDrag(lan.X-20, lan.Y-6, lan.X+80, lan.Y+44)
	after := p.graphWhere("d-3-2")
	if math.Abs(after.X-before.X-100) > 1 || math.Abs(after.Y-before.Y-50) > 1 || after.W != before.W {
		t.Errorf("the view was dragged by 100, 50, and d-3-2 went from %v to %v", before, after)
	}
	p.graphFocus()
	p.graphKeys("f")
	p.until(fmt.Sprintf(`Math.abs(window.topostream.graph.where('d-3-2').x - %f) < 1`, before.X))

	p.graphKeys("f", chromedp.KeyModifiers(chromedp.ModifierCtrl))
	p.until(`document.activeElement?.getAttribute('role') === 'combobox'`)
	p.graphKeys("10.0.5.4")
	p.until(`document.querySelectorAll('[aria-label=Found] [role=option]').length === 1`)
	p.graphKeys(kb.Enter)
	p.until(graphTitle + ` === 'd-5-3'`)
	p.until(`window.topostream.graph.level() === 'near'`)
	canvas := chromeEval[[]float64](t, p.ctx,
		`(() => { const r = document.querySelector('canvas[role=application]').getBoundingClientRect();`+
			` return [r.x + r.width / 2, r.y + r.height / 2] })()`)
	x, y := p.graphWhere("d-5-3").middle()
	if math.Abs(x-canvas[0]) > 2 || math.Abs(y-canvas[1]) > 2 {
		t.Errorf("what was found is at %f, %f, the middle at %v", x, y, canvas)
	}
	if hash := chromeEval[string](t, p.ctx, `decodeURIComponent(location.hash)`); !strings.Contains(hash, "sel=decky:") {
		t.Errorf("the address is %s", hash)
	}
}

func TestAHandMadeChangeOfWhatIsSelectedIsShown(t *testing.T) {
	t.Parallel()
	long(t)
	p := graphSeeded(t, operatorToken(t), 3, 4)
	db, id := p.db, p.id
	place := p.graphWhere("d-3-4")
	p.graphClick("d-2-1")
	p.until(graphTitle + ` === 'd-2-1'`)
	p.until(fmt.Sprintf(graphField, "State") + ` === 'running'`)
	if home := chromeEval[string](t, p.ctx, fmt.Sprintf(graphField, "Home")); home != "net-2" {
		t.Errorf("its home is %q", home)
	}
	script := fmt.Sprintf(`UPDATE deckies SET state = 'failed', services = '["ssh", "vnc"]' WHERE name = 'd-2-1';
		INSERT INTO lans (topology_id, name, subnet) VALUES ('%s', 'by-hand', '192.168.7.0/24');`, id)
	if out, err := db.Psql(t, script); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	p.until(fmt.Sprintf(graphField, "State") + ` === 'failed'`)
	p.until(`window.topostream.graph.item('d-2-1').health === 'failed'`)
	p.until(`window.topostream.graph.counts().lans === 4`)
	p.until(`document.querySelector('[aria-label=Inspector]').textContent.includes('vnc')`)
	p.until(`[...document.querySelectorAll('[aria-label=Inspector] li[data-seq]')]` +
		`.some((e) => e.textContent.includes('d-2-1: state, services') || e.textContent.includes('services, state'))`)
	if now := p.graphWhere("d-3-4"); now != place {
		t.Errorf("nothing moves while one looks: d-3-4 went from %v to %v", place, now)
	}
	// The event says what it changed.
	chromeEval[bool](t, p.ctx, `document.querySelector('[aria-label=Inspector] li[data-seq] button').click(), true`)
	p.until(graphTitle + ` === 'graph'`)
	p.until(`document.querySelector('[aria-label=Inspector] del')?.textContent !== undefined`)
	deleted := chromeEval[[]string](t, p.ctx,
		`[...document.querySelectorAll('[aria-label=Inspector] del')].map((e) => e.textContent)`)
	if !slices.Contains(deleted, `"running"`) {
		t.Errorf("the event says that it replaced %q", deleted)
	}
	if out, err := db.Psql(t, `DELETE FROM deckies WHERE name = 'd-2-1'`); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	p.until(`window.topostream.graph.where('d-2-1') === null`)
}

func TestTheReasonOfAFailedEditStaysUntilItIsDismissed(t *testing.T) {
	t.Parallel()
	long(t)
	p := graphSeeded(t, operatorToken(t), 2, 2)
	conn, id := p.conn, p.id
	const enqueue = `INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, $2, $3::text::jsonb)`
	pgtest.Exec(t, conn, enqueue, id, "remove_lan", `{"name":"nowhere"}`)
	pgtest.Exec(t, conn, enqueue, id, "add_lan", `{"name":"after"}`)
	const reasons = `[...document.querySelectorAll('[aria-label="Failed edits"] [data-reason]')].map((e) => e.textContent)`
	p.until(`window.topostream.graph.counts().lans === 3`)
	p.until(reasons + `.length === 1`)
	want := pgtest.Scan[string](t, conn, `SELECT reason FROM mutations WHERE state = 'failed'`)
	if got := chromeEval[[]string](t, p.ctx, reasons); !slices.Equal(got, []string{want}) {
		t.Errorf("the page says %q, the table %q", got, want)
	}
	p.graphClick("d-1-1")
	p.until(graphTitle + ` === 'd-1-1'`)
	if got := chromeEval[[]string](t, p.ctx, reasons); len(got) != 1 {
		t.Errorf("after something else was selected, the page says %q", got)
	}
	chromeEval[bool](t, p.ctx, `document.querySelector('[aria-label="Dismiss: remove_lan failed"]').click(), true`)
	p.until(reasons + `.length === 0`)
}

func TestAWaitingEditIsAGhostWhereItWillBe(t *testing.T) {
	t.Parallel()
	long(t)
	seed := func(t *testing.T, conn *pgx.Conn, id string) { graphSeed(t, conn, id, 1, 2) }
	p := openDeskOn(t, nil, operatorToken(t), seed) // without a worker, which would not let it wait
	p.until(`window.topostream?.graph?.counts().deckies === 2`)
	conn, id := p.conn, p.id
	mutation := enqueueLAN(t, conn, id, "soon")
	p.until(`window.topostream.graph.item('soon')?.mark?.phase === 'pending'`)
	place := chromeEval[string](t, p.ctx, `JSON.stringify(window.topostream.graph.where('soon'))`)
	pgtest.Exec(t, conn, `UPDATE mutations SET state = 'applying' WHERE id = $1::text::uuid`, mutation)
	p.until(`window.topostream.graph.item('soon')?.mark?.phase === 'applying'`)
	for _, statement := range []string{
		`INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'soon', '192.168.0.0/24')`,
		`UPDATE mutations SET state = 'applied' WHERE topology_id = $1::text::uuid`,
	} {
		pgtest.Exec(t, conn, statement, id)
	}
	p.until(`window.topostream.graph.item('soon')?.mark === null`)
	if now := chromeEval[string](t, p.ctx, `JSON.stringify(window.topostream.graph.where('soon'))`); now != place {
		t.Errorf("it was asked for at %s and is at %s", place, now)
	}
}

func TestTheTableSaysWhatTheDatabaseHas(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	graphSeed(t, conn, id, 12, 11)
	pgtest.Exec(t, conn, `UPDATE deckies SET state = 'degraded', ip = NULL WHERE name LIKE 'd-7-%'`)
	p := graphPage(t, startServer(t, db.URL), testToken(t), id, 132)
	p.graphFocus()
	p.graphKeys("v")
	p.until(`document.querySelectorAll('tr[data-decky]').length === 132`)
	compare := func() {
		t.Helper()
		const want = `
SELECT array_agg(concat_ws('|', d.uuid, d.name, d.state, coalesce(host(d.ip), '—'), l.name,
       coalesce((SELECT string_agg(m.name, ', ' ORDER BY m.name) FROM edges b JOIN lans m ON m.id = b.lan_id
                  WHERE b.decky_uuid = d.uuid AND b.is_bridge), '')) ORDER BY d.uuid)
  FROM deckies d JOIN edges e ON e.decky_uuid = d.uuid AND NOT e.is_bridge JOIN lans l ON l.id = e.lan_id`
		const got = `[...document.querySelectorAll('tr[data-decky]')].map((row) => { const c = [...row.cells]` +
			`.map((e) => e.textContent.trim()); return [row.dataset.decky, c[0], c[1], c[3], c[2], c[5]].join('|'); }).sort()`
		in := pgtest.Scan[[]string](t, conn, want)
		p.until(fmt.Sprintf(`document.querySelectorAll('tr[data-decky]').length === %d`, len(in)))
		if on := chromeEval[[]string](t, p.ctx, got); !slices.Equal(on, in) {
			t.Errorf("the page has\n%s\nthe database\n%s", strings.Join(on, "\n"), strings.Join(in, "\n"))
		}
		lans := pgtest.Scan[[]string](t, conn,
			`SELECT array_agg(id || '|' || name || '|' || subnet || '|' || CASE WHEN is_dmz THEN 'DMZ' ELSE 'LAN' END
				ORDER BY id) FROM lans`)
		const rows = `[...document.querySelectorAll('tr[data-lan]')].map((row) => [row.dataset.lan, ` +
			`...[...row.cells].slice(0, 3).map((e) => e.textContent.trim())].join('|')).sort()`
		if on := chromeEval[[]string](t, p.ctx, rows); !slices.Equal(on, lans) {
			t.Errorf("the page has\n%s\nthe database\n%s", strings.Join(on, "\n"), strings.Join(lans, "\n"))
		}
	}
	compare()
	pgtest.Exec(t, conn, `DELETE FROM deckies WHERE name = 'd-3-3'`)
	pgtest.Exec(t, conn, `UPDATE deckies SET name = 'renamed' WHERE name = 'd-4-4'`)
	p.until(`[...document.querySelectorAll('tr[data-decky] button')].some((e) => e.textContent === 'renamed')`)
	compare()
}

func TestAViewersMoveStaysInTheTab(t *testing.T) {
	t.Parallel()
	long(t)
	p := graphSeeded(t, testToken(t), 2, 2)
	conn := p.conn
	p.graphKeys("f")
	before := p.graphWhere("d-1-2")
	x, y := before.middle()
	p.graphDrag(x, y, x+200, y+80)
	p.until(fmt.Sprintf(`window.topostream.graph.where('d-1-2').x > %f`, before.X+150))
	if n := pgtest.Scan[int](t, conn, `SELECT count(*)::int FROM mutations`); n != 0 {
		t.Errorf("a viewer's move has made %d mutations", n)
	}
	pgtest.Exec(t, conn, `UPDATE deckies SET x = 16, y = 300 WHERE name = 'd-1-2'`) // somebody else's, which counts
	p.until(`Math.abs(window.topostream.graph.where('d-1-2').y - window.topostream.graph.where('net-1').y
		- 300 * window.topostream.graph.zoom()) < 1`)
}

func TestTheGraphIsWalkedByKeys(t *testing.T) {
	t.Parallel()
	long(t)
	p := graphSeeded(t, testToken(t), 4, 3)
	said := func(prefix string) {
		t.Helper()
		p.until(fmt.Sprintf(`document.querySelector('p[aria-live=polite]')?.textContent.startsWith(%q)`, prefix))
	}
	p.graphFocus()
	p.graphKeys(kb.ArrowRight)
	said("DMZ net-1, 10.0.1.0/24, 3 deckies")
	p.graphKeys(kb.ArrowRight)
	said("LAN net-2")
	p.graphKeys(kb.Enter)
	p.until(graphTitle + ` === 'net-2'`)
	p.graphKeys(kb.Enter)
	said("decky d-2-1, running in net-2, 10.0.2.2")
	p.graphKeys(kb.ArrowRight)
	said("decky d-2-2")
	p.graphKeys(kb.Enter)
	p.until(graphTitle + ` === 'd-2-2'`)
	p.graphKeys(kb.Escape)
	p.graphKeys(kb.Escape)
	p.until(`!location.hash.includes('sel=')`)
}
