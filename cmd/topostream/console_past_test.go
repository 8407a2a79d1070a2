package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A pastState is a topology as it was at a seq: rows by id, because their order means nothing.
type pastState struct {
	Seq      uint64
	Status   string
	Reason   *string
	Version  int
	Rows     map[string]map[string]any
	InFlight []string // id, op and state, in order
}

// table is what the table of the graph has to show, a line each row, in order.
func (s pastState) table() []string {
	text := func(value any) string {
		if value == nil {
			return "—"
		}
		return fmt.Sprint(value)
	}
	homes, members, bridges := map[any]string{}, map[any]int{}, map[any][]string{}
	for _, edge := range s.Rows {
		decky, lan := edge["decky_uuid"], edge["lan_id"]
		switch {
		case decky == nil:
		case edge["is_bridge"] == true:
			bridges[decky] = append(bridges[decky], text(s.Rows[fmt.Sprint(lan)]["name"]))
		default:
			homes[decky] = text(s.Rows[fmt.Sprint(lan)]["name"])
			members[lan]++
		}
	}
	lines := []string{}
	for id, row := range s.Rows {
		switch {
		case row["subnet"] != nil:
			kind := map[any]string{true: "DMZ", false: "LAN"}[row["is_dmz"]]
			lines = append(lines, fmt.Sprintf("%s|%s|%s|%s|%d", id, row["name"], row["subnet"], kind, members[id]))
		case row["uuid"] != nil:
			list, _ := row["services"].([]any)
			services := []string{}
			for _, service := range list {
				services = append(services, text(service))
			}
			home := homes[id]
			if home == "" {
				home = "—"
			}
			slices.Sort(bridges[id])
			lines = append(lines, strings.Join([]string{id, text(row["name"]), text(row["state"]), home, text(row["ip"]),
				strings.Join(services, ", "), strings.Join(bridges[id], ", ")}, "|"))
		}
	}
	slices.Sort(lines)
	return lines
}

// decky is what the inspector has to show of a decky: name, state, address, home, place, services and config.
func (s pastState) decky(uuid string) []string {
	row := s.Rows[uuid]
	var cells []string // as the table has them
	for _, line := range s.table() {
		if strings.HasPrefix(line, uuid) {
			cells = strings.Split(line, "|")
		}
	}
	place := "laid out by the page"
	if row["x"] != nil && row["y"] != nil {
		place = fmt.Sprintf("%v, %v", row["x"], row["y"])
	}
	fields := []string{cells[1], cells[2], strings.Replace(cells[4], "—", "none", 1), cells[3], place, cells[5]}
	config, _ := row["decky_config"].(map[string]any) // none is no object
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value, _ := json.Marshal(config[key]) //nolint:errchkjson // it came as JSON
		fields = append(fields, fmt.Sprintf("%s %s", key, value))
	}
	if len(config) == 0 {
		fields = append(fields, "decky_config {}")
	}
	return fields
}

// What the page shows of that: the lines of the table, what the inspector says of the decky that is selected, and,
// while nothing is selected, what it says of the topology.
const (
	pastTable = `[...document.querySelectorAll('tr[data-lan], tr[data-decky]')].map((row) => [
		row.dataset.lan ?? row.dataset.decky, row.querySelector('button').textContent,
		...[...row.cells].slice(1).map((cell) => cell.textContent.trim())].join('|')).sort()`
	pastInspector = `((pane) => {
		const field = (name) => [...pane.querySelectorAll('dt')].find((dt) => dt.textContent === name)
			?.nextElementSibling.textContent.trim();
		const all = (title, selector) => [...[...pane.querySelectorAll('section')].find((section) =>
			title.test(section.querySelector('h3')?.textContent))?.querySelectorAll(selector) ?? []]
			.map((one) => one.textContent);
		return { field, all, name: pane.querySelector('h2').textContent };
	})(document.querySelector('aside[aria-label=Inspector]'))`
	pastDecky = `(({ field, all, name }) => [name, ...['State', 'Address', 'Home', 'Place'].map(field),
		all(/^Services$/, '.services li').join(', '), ...all(/^Config$/, '.leaf').sort()])(` + pastInspector + `)`
	pastTopology = `(({ field, all }) => [field('Version'), field('As of seq') ?? field('Seq'),
		...all(/in flight$/i, '.go').map((op, i) => op + ' ' + all(/in flight$/i, '.mutation-state')[i])])(` +
		pastInspector + `)`
	pastFrame = `[document.documentElement.dataset.past, getComputedStyle(document.querySelector('main.canvas'), '::after')
		.borderTopWidth, document.querySelector('section[aria-label="The past"] strong')?.textContent]`
)

func pastRows(t *testing.T, lists ...[]map[string]any) map[string]map[string]any {
	t.Helper()
	rows := map[string]map[string]any{}
	for _, row := range slices.Concat(lists...) {
		id, ok := row["id"].(string)
		if !ok {
			id, ok = row["uuid"].(string)
		}
		if !ok || rows[id] != nil {
			t.Errorf("a row without a key of its own: %v", row)
		}
		rows[id] = row
	}
	return rows
}

// pastRecorder reads topologies as they are now.
type pastRecorder struct {
	*operator

	id string
}

// record reads the topology while nothing changes it.
func (r pastRecorder) record() pastState {
	r.t.Helper()
	var document struct {
		Topology             stream.Topology
		Seq                  uint64
		Lans, Deckies, Edges []map[string]any
	}
	r.do(http.MethodGet, "/topologies/"+r.id, "").into(r.t, http.StatusOK, &document)
	var mutations []struct{ ID, Op, State string }
	answer := r.do(http.MethodGet, "/topologies/"+r.id+"/mutations?state=pending&state=applying", "")
	if err := json.Unmarshal([]byte(answer.body), &mutations); err != nil {
		r.t.Fatal(err)
	}
	state := pastState{
		Seq: document.Seq, Status: document.Topology.Status, Reason: document.Topology.Reason,
		Version: int(document.Topology.Version), Rows: pastRows(r.t, document.Lans, document.Deckies, document.Edges),
		InFlight: []string{},
	}
	for _, m := range slices.Backward(mutations) { // newest first
		state.InFlight = append(state.InFlight, m.ID+" "+m.Op+" "+m.State)
	}
	return state
}

// shown is what graph and inspector of the page show.
func (p *page) shown(t *testing.T) pastState {
	t.Helper()
	const look = `JSON.stringify((({ seq, status, reason, version, graph: { lans, deckies, edges }, in_flight }) =>
		({ seq, status, reason, version, lans, deckies, edges, in_flight }))(window.topostream.view))`
	var view struct {
		Seq                  uint64
		Status               string
		Reason               *string
		Version              int
		Lans, Deckies, Edges []map[string]any
		InFlight             []struct{ ID, Op, State string } `json:"in_flight"`
	}
	if err := json.Unmarshal([]byte(chromeEval[string](t, p.ctx, look)), &view); err != nil {
		t.Fatal(err)
	}
	state := pastState{view.Seq, view.Status, view.Reason, view.Version,
		pastRows(t, view.Lans, view.Deckies, view.Edges), []string{}}
	for _, m := range view.InFlight {
		state.InFlight = append(state.InFlight, m.ID+" "+m.Op+" "+m.State)
	}
	return state
}

const (
	pastSlider = `[role="slider"]`
	pastBand   = `section[aria-label="The past"] [role="status"]`
)

// lookAt goes to a seq by the address, as a link does, and waits until the page shows it.
func (p *page) lookAt(seq uint64) {
	p.t.Helper()
	p.look("at", strconv.FormatUint(seq, 10))
	p.until(fmt.Sprintf(`document.querySelector(%q)?.dataset.seq === '%d' &&
		document.querySelector(%[1]q).dataset.reading === 'false'`, pastBand, seq))
}

func TestTheConsoleShowsATopologyAsItWasAtAnOlderSeq(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	server := serve(t, db.URL, withWorker)
	admin := newOperator(t, server.url, "operator", stream.RoleAdmin)
	id := admin.create(`{"name":"old","lans":[{"name":"dmz","is_dmz":true},{"name":"lan-1"}],
		"deckies":[{"name":"gw","lan":"dmz","forwards_l3":true},{"name":"web-1","lan":"lan-1","services":["ssh"]}]}`)
	at := pastRecorder{admin, id}
	recorded := []pastState{at.record()}
	edit := func(op string) {
		t.Helper()
		if r := admin.do(http.MethodPost, "/topologies/"+id+"/mutations", op); r.status != http.StatusAccepted {
			t.Fatalf("%s: %d %s", op, r.status, r.body)
		}
		pgtest.Eventually(t, "the mutation is finished", func() bool {
			return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`) == 0
		})
		recorded = append(recorded, at.record())
	}
	byHand := func(statement string) {
		t.Helper()
		pgtest.Exec(t, conn, statement)
		recorded = append(recorded, at.record())
	}
	edit(`{"op":"attach_decky","payload":{"decky":"gw","lan":"lan-1"}}`)
	edit(`{"op":"changeset","payload":{"ops":[{"op":"add_lan","payload":{"name":"lan-2","x":40,"y":80}},
		{"op":"add_decky","payload":{"name":"db-1","lan":"lan-2"}},
		{"op":"update_decky","payload":{"decky":"web-1","patch":{"banner":"x"}}}]}}`)
	byHand(`UPDATE deckies SET state = 'running', x = 7, decky_config = '{"by": "hand"}' WHERE name = 'web-1'`)
	edit(`{"op":"add_lan","payload":{"name":"dmz"}}`) // fails: the topology is degraded, with the reason
	for range 1200 {                                  // more than a page of the journal
		emit(t, conn, id)
	}

	page := openPage(t, server.url+"/#token="+operatorToken(t)+"&topology="+id)
	page.until(`!!window.topostream?.view`)
	// What follows comes live.
	byHand(`INSERT INTO lans (topology_id, name, subnet) SELECT id, 'many-' || i, ('10.' || i / 256 || '.' || i % 256 ||
		'.0/24')::cidr FROM topologies, generate_series(0, 1099) i`)
	byHand(`DELETE FROM lans WHERE name LIKE 'many-%' AND name <> 'many-7'`)
	edit(`{"op":"remove_decky","payload":{"decky":"db-1"}}`)
	edit(`{"op":"remove_lan","payload":{"name":"lan-2"}}`)
	byHand(`UPDATE topologies SET status = 'active'`)
	byHand(`UPDATE topologies SET status = 'tearing_down', reason = 'over'`)
	byHand(`INSERT INTO mutations (topology_id, op, payload)
		SELECT id, 'add_lan', jsonb_build_object('name', 'w' || i) FROM topologies, generate_series(1, 3) i`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'degraded'`) // and the worker begins
	pgtest.Eventually(t, "what waited is applied", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state = 'applied'`) == 7
	})
	head := at.record()
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, head.Seq))

	shows := func(look string, want []string) {
		t.Helper()
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		page.until(fmt.Sprintf(`JSON.stringify(%s) === JSON.stringify(%s)`, look, text))
	}
	selected := "" // a decky's uuid
	compare := func(want pastState) {
		t.Helper()
		got := page.shown(t)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("at %d the page shows\n%.3000s\nand it was\n%.3000s", want.Seq, fmt.Sprint(got), fmt.Sprint(want))
		}
		shows(pastTable, want.table())
		if selected != "" {
			shows(pastDecky, want.decky(selected))
			return
		}
		about := []string{strconv.Itoa(want.Version), strconv.FormatUint(want.Seq, 10)}
		for _, m := range want.InFlight {
			about = append(about, m[strings.Index(m, " ")+1:])
		}
		shows(pastTopology, about)
	}
	page.look("view", "table")
	for _, order := range [][]pastState{recorded, reversedStates(recorded)} {
		for _, want := range order {
			page.lookAt(want.Seq)
			compare(want)
			frame := chromeEval[[]string](t, page.ctx, pastFrame)
			at := pgtest.Scan[time.Time](t, conn, `SELECT at FROM topology_events WHERE seq = $1`, want.Seq)
			at = at.Local() //nolint:gosmopolitan // as the browser, which is on this machine
			if len(frame) != 3 || frame[1] != "2px" || !strings.HasPrefix(frame[2], fmt.Sprintf("as of %d, ", want.Seq)) ||
				!strings.HasSuffix(frame[2], at.Format(time.TimeOnly)) {
				t.Errorf("at %d, which was at %s, the frame is %q", want.Seq, at, frame)
			}
		}
		selected = pgtest.Scan[string](t, conn, `SELECT uuid::text FROM deckies WHERE name = 'web-1'`)
		page.look("sel", "decky:"+selected)
	}
	editable := chromeEval[string](t, page.ctx, `String(window.topostream.editable)`)
	if !strings.Contains(editable, "not the present") {
		t.Errorf("the past can be edited: %s", editable)
	}
	page.says(pastBand, "edits are off")
	page.says(`section[aria-label="History"]`, "the journal begins at 1")

	// The present goes on meanwhile; Escape shows it.
	head.Seq = emit(t, conn, id)
	page.until(fmt.Sprintf(`window.topostream.lastSeq === %d`, head.Seq))
	compare(recorded[0])
	page.enter(pastSlider, "\x1b")
	page.until(`!location.hash.includes('at=') && !document.querySelector('section[aria-label="The past"]')`)
	compare(head)
	page.look("sel")
	page.until(`window.topostream.selection.length === 0`)
	selected = ""
	compare(head)
	if frame := chromeEval[string](t, page.ctx, `JSON.stringify(`+pastFrame+`)`); frame != `[null,"0px",null]` {
		t.Errorf("the frame of the present is %s", frame)
	}
}

func reversedStates(states []pastState) []pastState {
	states = slices.Clone(states)
	slices.Reverse(states)
	return states
}

func TestDraggingAndKeysGoThroughThePastOfATopology(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	// Three parts: 4 to 6.
	pgtest.Exec(t, conn, `INSERT INTO lans (topology_id, name, subnet) SELECT id, 'many-' || i,
		('10.' || i / 256 || '.' || i % 256 || '.0/24')::cidr FROM topologies, generate_series(0, 1099) i`)
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+testToken(t)+"&topology="+id)
	page.until(`document.querySelector('[role="slider"]')?.ariaValueMin === '1'`)
	lans := func(n int) string { return fmt.Sprintf(`window.topostream.view.graph.lans.length === %d`, n) }
	alt := func(key string) {
		t.Helper()
		page.with(chromedp.ModifierAlt, key)
	}
	page.until(lans(1100))
	for _, step := range []struct {
		key, address string
		lans         int
	}{{kb.ArrowLeft, "at=3", 0}, {kb.ArrowLeft, "at=2", 0}, {kb.ArrowRight, "at=3", 0}, {kb.ArrowRight, "", 1100}} {
		alt(step.key)
		page.until(fmt.Sprintf(`(/at=\d+/.exec(location.hash)?.[0] ?? '') === %q`, step.address))
		page.until(lans(step.lans))
	}

	// Between the parts of a statement the graph is as before it, and the page says so by its seq.
	page.look("at", "5")
	page.until(fmt.Sprintf(`document.querySelector(%q)?.dataset.seq === '3'`, pastBand))
	page.until(lans(0))
	const ground = `(() => {
		const canvas = document.querySelector('canvas[role=application]');
		const [r, g, b] = canvas.getContext('2d').getImageData(1, 1, 1, 1).data;
		return getComputedStyle(canvas.closest('main')).backgroundColor === 'rgb(' + [r, g, b].join(', ') + ')';
	})()`
	page.until(ground) // the drawing is tinted as what is around it

	// Dragged to the left end and back to the right one.
	var box struct{ Left, Width, Top float64 }
	if err := json.Unmarshal([]byte(chromeEval[string](t, page.ctx,
		`JSON.stringify((({ left, width, top }) => ({ left, width, top }))(
			document.querySelector('[role="slider"]').getBoundingClientRect()))`)), &box); err != nil {
		t.Fatal(err)
	}
	drag := func(from, to float64) {
		t.Helper()
		y := box.Top + 12
		if _, err := chromedp.Run(page.ctx,
			chromedp.DragAndDropXY(box.Left+from*box.Width, y, box.Left+to*box.Width, y)); err != nil {
			t.Fatal(err)
		}
	}
	drag(0.9, 0)
	page.until(fmt.Sprintf(`location.hash.includes('at=1') && document.querySelector(%q)?.dataset.seq === '1'`, pastBand))
	if status := page.shown(t).Status; status != "pending" {
		t.Errorf("at 1 the topology was %s", status)
	}
	alt(kb.ArrowLeft)
	page.says(pastBand, "the journal begins at 1")
	drag(0.1, 1)
	page.until(`!location.hash.includes('at=') && !window.topostream.past`)
	page.until(ground)

	// What is older than the journal, and what has not come, is said.
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE seq < 3`)
	page = openPage(t, server+"/#token="+testToken(t)+"&topology="+id)
	page.until(`!!window.topostream?.view`)
	page.look("at", "2")
	page.says(pastBand, "the journal begins at 3: what was at 2 is not known any more")
	page.look("at", "7")
	page.says(pastBand, "seq 7 has not come yet: the head is 6")
	emit(t, conn, id)
	emit(t, conn, id)
	page.until(fmt.Sprintf(`document.querySelector(%q)?.dataset.seq === '7'`, pastBand))
}

func TestARevertThatIsAppliedTakesTheEditBack(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), seedNothing)
	mutation := enqueueLAN(t, page.conn, page.id, "lan-1")
	page.until(`window.topostream.open?.version === 1`)
	page.look("sel", "mutation:"+mutation)
	page.says(`aside[aria-label="Inspector"] .mutation-state`, "applied")
	page.until(`!document.querySelector('aside[aria-label="Inspector"] [role=alert]')`)
	page.click(`aside[aria-label="Inspector"] .revert button`)
	page.says(`section[aria-label="Staged edits"]`, "lan-1")
	page.editClick("edit.apply")
	page.until(`window.topostream.open?.version === 2`)
	if n := pgtest.Scan[int](t, page.conn, `SELECT count(*) FROM lans`); n != 0 {
		t.Errorf("%d LANs are left", n)
	}
}

func TestRevertStagesTheInverseOfWhatIsSelectedAndSaysWhatDoesNotComeBack(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), editGraph)
	removal := enqueueOp(t, page.conn, page.id, "remove_decky", `{"decky":"web"}`)
	page.until(`window.topostream.open?.version === 2`)
	page.look("sel", "mutation:"+removal)
	page.says(`aside[aria-label="Inspector"] .mutation-state`, "applied")
	page.click(`aside[aria-label="Inspector"] .revert button`)
	page.until(`window.topostream.staged.length > 0`)
	const want = `{"op":"add_decky","decky":"web","lan":"office","services":["ssh"],"x":40,"y":60}`
	const first = `JSON.stringify((({ op, payload: { name, lan, services, x, y } }) =>
		({ op, decky: name, lan, services, x, y }))(window.topostream.staged[0]))`
	if got := chromeEval[string](t, page.ctx, first); got != want {
		t.Errorf("staged is %s, want %s", got, want)
	}
	for _, where := range []string{`aside[aria-label="Inspector"] .revert`, `section[aria-label="Staged edits"]`} {
		page.says(where, "What does not come back: ")
		page.says(where, "uuid")
	}

	// An event that has changed nothing, and the past, cannot be undone; both say why.
	page.look("sel", "event:1")
	page.says(`aside[aria-label="Inspector"] .revert`, "status has changed nothing of the graph")
	page.look("at", "4")
	page.until(`window.topostream.past`)
	if said := page.why("Revert what is selected"); !strings.Contains(said, "not the present") {
		t.Errorf("in the past a revert says %q", said)
	}
}
