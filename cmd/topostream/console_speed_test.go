package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/profiler"
	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// How quick the console is: times, and counts, such as how often a frame is drawn, how many rows the document has and
// how much is kept. The tests run only where TOPOSTREAM_FRAMES says for how long to measure, because then nothing else
// runs:
//
//	TOPOSTREAM_FRAMES=1m go test -v -count=1 -timeout 30m -run '^TestSpeed' ./cmd/topostream
//
// TOPOSTREAM_PROFILE=DIR writes the browser's CPU profile of each part there, as its DevTools open it.

const (
	speedFrame     = 33.0 // milliseconds: the p95 of frame times
	speedScroll    = 34.0 // the same of a list that scrolls: two frames of a screen of 60 Hz
	speedFirstRows = 1000.0
	speedHeap      = 1.2 // the last third's least heap by the middle third's

	speedFailures = 500
	speedRows     = 80     // in the document, of a list however long
	speedKept     = 22_000 // events in the timeline while it follows: 20,000, and a tenth until they are let go of

	speedNothing = 1e-9 // of a wheel that turns the other way: the protocol wants both, and none is left out
)

// speedTime is how long each part is measured. It leaves a test out unless TOPOSTREAM_FRAMES says so.
func speedTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TOPOSTREAM_FRAMES")
	if text == "" {
		t.Skip("measured: it runs with TOPOSTREAM_FRAMES=1m, while nothing else does")
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return duration
}

// speedTable prints lines in columns, all at once.
func speedTable(t testing.TB, lines [][]string) {
	t.Helper()
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	var out strings.Builder
	for _, line := range lines {
		out.WriteByte('\n')
		for i, cell := range line {
			if i == 0 {
				fmt.Fprintf(&out, "%-*s", widths[i], cell)
			} else {
				fmt.Fprintf(&out, "  %*s", widths[i], cell)
			}
		}
	}
	t.Log(out.String())
}

// speedMetrics are the browser's own measurements of the page: seconds, bytes and numbers since it was loaded.
func (p *page) speedMetrics() map[string]float64 {
	p.t.Helper()
	result, err := chromedp.Call(p.ctx, performance.GetMetrics, cdp.Empty{})
	if err != nil {
		p.t.Fatal(err)
	}
	metrics := make(map[string]float64)
	for _, metric := range result.Metrics {
		metrics[metric.Name] = metric.Value
	}
	return metrics
}

// speedStart begins to measure; what it gives ends that.
func (p *page) speedStart(name string) (stop func()) {
	p.t.Helper()
	directory := os.Getenv("TOPOSTREAM_PROFILE")
	if directory == "" {
		return func() {}
	}
	if _, err := chromedp.Call(p.ctx, profiler.Enable, cdp.Empty{}); err != nil {
		p.t.Fatal(err)
	}
	if _, err := chromedp.Call(p.ctx, profiler.Start, cdp.Empty{}); err != nil {
		p.t.Fatal(err)
	}
	return func() {
		result, err := chromedp.Call(p.ctx, profiler.Stop, cdp.Empty{})
		if err != nil {
			p.t.Fatal(err)
		}
		content, err := json.Marshal(result.Profile)
		if err != nil {
			p.t.Fatal(err)
		}
		file := directory + "/" + strings.ReplaceAll(name, " ", "-") + ".cpuprofile"
		if err := os.WriteFile(file, content, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
}

// speedWriter commits every 10 ms until it is stopped: perTick statements that change a decky each, and now and then an
// event with a payload, a raw NOTIFY, and a mutation that fails. Stopping gives how many events it made.
func speedWriter(t testing.TB, conn *pgx.Conn, id string, perTick int) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		events := 0
		for n := 0; ctx.Err() == nil; n++ {
			var script strings.Builder
			for i := range perTick {
				k := n*perTick + i
				fmt.Fprintf(&script, `UPDATE deckies SET state = CASE state WHEN 'running' THEN 'degraded' ELSE 'running' END
					WHERE name = 'd-%d-%d';`, k%200+1, k*7%10+1)
			}
			events += perTick
			if perTick > 1 && n%10 == 0 {
				fmt.Fprintf(&script, `
					SELECT topology_emit('%[1]s', 'decky.seen', jsonb_build_object('n', %[2]d, 'blob', repeat('x', 500)));
					INSERT INTO mutations (topology_id, op, payload) VALUES ('%[1]s', 'remove_lan', '{"name":"no-%[2]d"}');
					UPDATE mutations SET state = 'applying' WHERE state = 'pending' AND topology_id = '%[1]s';
					UPDATE mutations SET state = 'failed', reason = 'not there' WHERE state = 'applying' AND topology_id = '%[1]s';
					SELECT pg_notify('topology.%[1]s', 'by hand');`, id, n)
				events += 4
			}
			if _, err := conn.Exec(ctx, script.String(), pgx.QueryExecModeSimpleProtocol); err != nil && ctx.Err() == nil {
				t.Error(err)
				break
			}
			<-ticker.C
		}
		done <- events
	}()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-done
	})
	t.Cleanup(func() { stop() })
	return stop
}

// speedMeasure measures frames for a time: window.speed has their number, the times' p50, p95 and longest, how many of
// them the browser calls long, how often the canvas was drawn, how often again in the same frame, and how often for a
// scene that was another, or at other places.
const speedMeasure = `(async () => {
	window.speed = null;
	const times = [], end = performance.now() + %d, graph = window.topostream.graph;
	let long = 0;
	const first = graph?.work();
	const observer = new PerformanceObserver((list) => { long += list.getEntries().length; });
	observer.observe({ type: 'long-animation-frame' });
	let last = await new Promise(requestAnimationFrame);
	while (last < end) {
		const now = await new Promise(requestAnimationFrame);
		times.push(now - last);
		last = now;
	}
	observer.disconnect();
	times.sort((a, b) => a - b);
	const rank = (q) => times[Math.floor(q * (times.length - 1))];
	const work = graph?.work();
	window.speed = {
		frames: times.length, p50: rank(0.5), p95: rank(0.95), longest: times.at(-1), long,
		draws: work ? work.draws - first.draws : 0, again: work ? work.again - first.again : 0,
		scenes: work ? work.scenes - first.scenes : 0,
		indexes: work ? work.indexes - first.indexes : 0,
	};
})(), true`

type speedFrames struct {
	Frames, P50, P95, Longest, Long, Draws, Again, Scenes, Indexes float64
}

// speedRun measures frames, with what the hand does meanwhile, and gives a line for the table.
func (p *page) speedRun(name string, duration time.Duration, hand func(n int)) (speedFrames, []string) {
	p.t.Helper()
	stop := p.speedStart(name)
	before := p.speedMetrics()
	received := chromeEval[float64](p.t, p.ctx, `window.topostream.received`)
	chromeEval[bool](p.t, p.ctx, fmt.Sprintf(speedMeasure, duration.Milliseconds()))
	if hand != nil {
		for n := 0; !chromeEval[bool](p.t, p.ctx, `window.speed !== null`); n++ {
			hand(n)
		}
	}
	p.until(`window.speed !== null`)
	after := p.speedMetrics()
	stop()
	events := chromeEval[float64](p.t, p.ctx, `window.topostream.received`) - received
	text := chromeEval[string](p.t, p.ctx, `JSON.stringify(window.speed)`)
	var f speedFrames
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		p.t.Fatalf("%s: %v", text, err)
	}
	each := func(metric string, n float64) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", (after[metric]-before[metric])*1000/n)
	}
	number := func(x float64) string { return strconv.FormatFloat(x, 'f', 0, 64) }
	return f, []string{
		name, number(f.Frames), fmt.Sprintf("%.1f", f.P50), fmt.Sprintf("%.1f", f.P95), fmt.Sprintf("%.1f", f.Longest),
		number(f.Long), number(events), number(f.Draws), number(f.Scenes), number(f.Indexes),
		each("TaskDuration", f.Frames), each("TaskDuration", events), each("ScriptDuration", events),
		each("LayoutDuration", events), each("RecalcStyleDuration", events),
		fmt.Sprintf("%.1f", (after["LayoutCount"]-before["LayoutCount"])/f.Frames),
	}
}

var speedHeadings = []string{
	"", "frames", "p50", "p95", "longest", "long", "events", "draws", "scenes", "indexes",
	"task/frame", "task/event", "script", "layout", "style", "layouts/frame",
}

func (p *page) speedMouse(params input.DispatchMouseEventParams) {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, input.DispatchMouseEvent, params); err != nil {
		p.t.Fatal(err)
	}
}

// speedGraph opens the console on a graph of 2,000 deckies, to which a speedWriter writes.
func speedGraph(t *testing.T, perTick int) (p *page, stop func() int) {
	t.Helper()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	graphSeed(t, conn, id, 200, 10)
	p = graphPage(t, startServer(t, db.URL), testToken(t), id, 2000)
	p.speedEnable()
	return p, speedWriter(t, db.Conn(t), id, perTick)
}

func TestSpeedOfFramesWhileAHundredEventsASecondCome(t *testing.T) {
	t.Parallel()
	duration := speedTime(t)
	p, stop := speedGraph(t, 1)
	const x, y = 700.0, 400.0
	wheel := func(turn float64) {
		p.speedMouse(input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseWheel, X: x, Y: y, DeltaX: speedNothing, DeltaY: turn,
		})
	}
	near := func(zoom float64) {
		for range 200 {
			if chromeEval[float64](t, p.ctx, `window.topostream.graph.zoom()`) >= zoom {
				return
			}
			wheel(-60)
		}
		t.Fatal("the wheel does not zoom")
	}
	pan := func(n int) {
		at := float64(n % 100)
		if at > 50 {
			at = 100 - at
		}
		event := input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseMoved, X: x + 4*at, Y: y + at, Button: input.MouseButtonLeft, Buttons: 1,
		}
		if n == 0 {
			event.Type, event.ClickCount = input.DispatchMouseEventTypeMousePressed, 1
		}
		p.speedMouse(event)
	}
	release := func() {
		p.speedMouse(input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseReleased, X: x, Y: y, Button: input.MouseButtonLeft, ClickCount: 1,
		})
	}
	table := [][]string{speedHeadings}
	for _, run := range []struct {
		name string
		zoom float64
		hand func(n int)
	}{
		{"far, all of it", 0, nil},
		{"panning from afar", 0, pan},
		{"middle", 0.28, nil},
		{"panning in the middle", 0.28, pan},
		{"near", 0.8, nil},
		{"panning near", 0.8, pan},
		{"zooming", 0, func(n int) { wheel([]float64{-40, 40}[n/40%2]) }},
	} {
		p.graphFocus()
		p.graphKeys("f")
		near(run.zoom)
		f, line := p.speedRun(run.name, duration, run.hand)
		if run.hand != nil && run.name != "zooming" {
			release()
		}
		table = append(table, line)
		if f.Again > 0 {
			t.Errorf("%s: %.0f times a frame was drawn twice", run.name, f.Again)
		}
		if f.Scenes > f.Draws {
			t.Errorf("%s: %.0f scenes were made for %.0f frames", run.name, f.Scenes, f.Draws)
		}
		if f.Indexes > 0 {
			t.Errorf("%s: %.0f times everything was indexed, though nothing has moved", run.name, f.Indexes)
		}
		if f.P95 > speedFrame {
			t.Errorf("%s: p95 %.1f ms, more than %.0f", run.name, f.P95, speedFrame)
		}
	}
	if n := stop(); n == 0 {
		t.Error("nothing was changed meanwhile")
	}
	speedTable(t, table)
}

// speedEnable has the browser collect what speedMetrics reads.
func (p *page) speedEnable() {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, performance.Enable, performance.EnableParams{
		TimeDomain: performance.EnableTimeDomainThreadTicks, // what the machine does besides is not measured
	}); err != nil {
		p.t.Fatal(err)
	}
}

// speedHeap collects garbage and gives the bytes of JavaScript's heap that are in use.
func (p *page) speedHeap() float64 {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
		p.t.Fatal(err)
	}
	return p.speedMetrics()["JSHeapUsedSize"]
}

func TestSpeedHeapIsFlatAtFiveHundredEventsASecond(t *testing.T) {
	t.Parallel()
	duration := speedTime(t)
	p, stop := speedGraph(t, 5)
	table := [][]string{{"after", "heap", "nodes", "listeners", "received", "kept", "failures"}}
	var heaps []float64
	const samples = 12
	for i := range samples {
		end := time.Now().Add(2 * duration / time.Duration(samples))
		p.until(fmt.Sprintf(`Date.now() >= %d`, end.UnixMilli()))
		heap := p.speedHeap()
		heaps = append(heaps, heap)
		m := p.speedMetrics()
		held := chromeEval[[]float64](t, p.ctx, `[window.topostream.received, window.topostream.kept,
			document.querySelectorAll('[data-failure]').length]`)
		table = append(table, []string{
			(2 * duration * time.Duration(i+1) / time.Duration(samples)).String(), fmt.Sprintf("%.1f MB", heap/1e6),
			fmt.Sprint(m["Nodes"]), fmt.Sprint(m["JSEventListeners"]), fmt.Sprint(held[0]), fmt.Sprint(held[1]),
			fmt.Sprint(held[2]),
		})
	}
	stop()
	if kept := chromeEval[int](t, p.ctx, `window.topostream.kept`); kept > speedKept {
		t.Errorf("%d events are kept", kept)
	}
	if n := chromeEval[int](t, p.ctx, `document.querySelectorAll('[data-failure]').length`); n > speedFailures {
		t.Errorf("%d failures are kept", n)
	}
	speedTable(t, table)
	third := samples / 3
	middle, last := slices.Min(heaps[third:2*third]), slices.Min(heaps[2*third:])
	t.Logf("least heap of the middle third %.1f MB, of the last %.1f MB", middle/1e6, last/1e6)
	if last > speedHeap*middle {
		t.Errorf("the heap grows: %.1f MB, then %.1f MB", middle/1e6, last/1e6)
	}
}

func TestSpeedOfATimelineOfAHundredThousandEvents(t *testing.T) {
	t.Parallel()
	duration := speedTime(t)
	duration = min(duration, 10*time.Second)
	const events = 100_000
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object('n', n))
		FROM generate_series(1, $2::int) n`, id, events)
	head := pgtest.Scan[int](t, conn, `SELECT max(seq)::int FROM topology_events`)
	p := shellOpen(t, startServer(t, db.URL), testToken(t), id)
	p.speedEnable()
	row := func(seq int) string {
		return fmt.Sprintf(`!!document.querySelector('[role=option][data-seq="%d"]')`, seq)
	}
	p.until(row(head))
	place := chromeEval[[]float64](t, p.ctx, `(() => {
		const box = document.querySelector('.timeline-scroll').getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	})()`)
	wheel := func(by float64) {
		p.speedMouse(input.DispatchMouseEventParams{
			Type: input.DispatchMouseEventTypeMouseWheel, X: place[0], Y: place[1], DeltaX: speedNothing, DeltaY: by,
		})
	}
	most := 0
	// Every row says its place, and its seq fits that place; what is seen is drawn; and no more than some rows are.
	look := func(where string) {
		t.Helper()
		const state = `(() => {
			const rows = [...document.querySelectorAll('[aria-label=Events] [role=option]')];
			const first = window.topostream.lastSeq - window.topostream.kept;
			const wrong = rows.filter((row) => Number(row.dataset.seq) !== row.ariaPosInSet - -first);
			const box = document.querySelector('.timeline-scroll').getBoundingClientRect();
			const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)?.closest('[role=option]');
			return [rows.length, wrong.length, Number(seen?.dataset.seq ?? 0)];
		})()`
		is := chromeEval[[]int](t, p.ctx, state)
		most = max(most, is[0])
		if is[1] > 0 {
			t.Errorf("%s: %d of %d rows are not those of their places", where, is[1], is[0])
		}
		if is[0] > speedRows {
			t.Errorf("%s: %d rows are in the document", where, is[0])
		}
	}
	look("at the newest")
	table := [][]string{speedHeadings}
	before := p.speedMetrics()
	began := time.Now()
	pages := 0
	for ; !chromeEval[bool](t, p.ctx, row(1)); pages++ { // each time it is at the top, a page of the journal comes
		wheel(-1e6)
		p.until(`document.querySelector('.timeline-scroll').scrollTop > 0 || ` + row(1))
		if pages%20 == 0 {
			look("on the way to the first")
		}
	}
	after := p.speedMetrics()
	t.Logf("%d events came from the journal in %d turns of the wheel, %v, of the page %.1f s", events, pages,
		time.Since(began).Round(time.Millisecond), after["TaskDuration"]-before["TaskDuration"])
	look("at the first")
	if kept := chromeEval[int](t, p.ctx, `window.topostream.kept`); kept != head {
		t.Errorf("%d events are kept of %d", kept, head)
	}
	p.until(`document.querySelector('[aria-label=Events] [aria-posinset="1"]')?.dataset.seq === '1'`)
	down, line := p.speedRun("scrolling down", duration, func(int) { wheel(900) })
	table = append(table, line)
	look("scrolled down")
	up, line := p.speedRun("scrolling up", duration, func(int) { wheel(-700) })
	table = append(table, line)
	look("scrolled up")
	p.until(fmt.Sprintf(`(document.querySelector('.timeline-scroll').scrollTop = %d, %s)`, events/2*28,
		row(events/2))) // again while the last turns of the wheel still move it
	look("in the middle")
	for !chromeEval[bool](t, p.ctx, row(head)) {
		wheel(1e7)
	}
	p.until(`!document.querySelector('.timeline-tools button:nth-of-type(2)')`) // "To the newest"
	look("at the newest again")
	head = int(emit(t, conn, id))
	p.until(row(head)) // it follows
	look("at one that came")
	speedTable(t, table)
	t.Logf("at most %d rows were in the document", most)
	for name, f := range map[string]speedFrames{"down": down, "up": up} {
		if f.P95 > speedScroll {
			t.Errorf("scrolling %s: p95 %.1f ms, more than %.0f", name, f.P95, speedScroll)
		}
	}
}

func TestSpeedOfTheFirstRowsOfTwentyThousandTopologies(t *testing.T) {
	t.Parallel()
	duration := speedTime(t)
	const times = 8
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'site-' || i FROM generate_series(1, 20000) i`)
	server := startServer(t, db.URL)
	p := shellOpen(t, server, testToken(t), "") // the server has read the list once
	p.speedEnable()
	var took []float64
	table := [][]string{{"load", "page", "script", "app", "stream", "list", "rows", "task ms", "script ms"}}
	for i := range times {
		if _, err := chromedp.Run(p.ctx, chromedp.Reload()); err != nil {
			t.Fatal(err)
		}
		p.until(`window.topostream?.rows === 20000 && performance.getEntriesByName('topostream.rows').length > 0`)
		at := chromeEval[[]float64](t, p.ctx, `(() => {
			const mark = (name) => performance.getEntriesByName('topostream.' + name)[0]?.startTime ?? 0;
			const script = performance.getEntriesByType('resource').find((e) => e.name.endsWith('console.js'));
			return [performance.getEntriesByType('navigation')[0].responseEnd, script.responseEnd, mark('app'),
				mark('stream'), mark('list'), mark('rows')];
		})()`)
		m := p.speedMetrics()
		took = append(took, at[5])
		line := []string{strconv.Itoa(i + 1)}
		for _, ms := range at {
			line = append(line, fmt.Sprintf("%.0f", ms))
		}
		table = append(table, append(line, fmt.Sprintf("%.0f", m["TaskDuration"]*1000),
			fmt.Sprintf("%.0f", m["ScriptDuration"]*1000)))
	}
	speedTable(t, table)
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("the first rows of 20,000 are there after %.0f ms, at best %.0f, at worst %.0f", median, took[0],
		took[len(took)-1])
	if median > speedFirstRows {
		t.Errorf("the first rows come after %.0f ms, more than %.0f", median, speedFirstRows)
	}
	if n := chromeEval[int](t, p.ctx, `document.querySelectorAll('[role=option]').length`); n > speedRows {
		t.Errorf("%d rows are in the document", n)
	}
	place := chromeEval[[]float64](t, p.ctx, `(() => {
		const box = document.querySelector('[role=listbox][aria-label=Topologies]').parentElement.getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	})()`)
	type step func(n int)
	do := func(js string) step {
		return func(n int) {
			chromeEval[bool](t, p.ctx, fmt.Sprintf(`(%s, true)`, strings.ReplaceAll(js, "N", strconv.Itoa(n))))
		}
	}
	const typed = `((field) => { field.value = 'site-N'.slice(0, 5 + N %% 5); ` +
		`field.dispatchEvent(new InputEvent('input', { bubbles: true })); })(document.getElementById('list-search'))`
	frames := [][]string{speedHeadings}
	for _, run := range []struct {
		name string
		hand step
	}{
		{"scrolling the list", func(int) {
			p.speedMouse(input.DispatchMouseEventParams{
				Type: input.DispatchMouseEventTypeMouseWheel, X: place[0], Y: place[1], DeltaX: speedNothing, DeltaY: 700,
			})
		}},
		{"searching", do(strings.ReplaceAll(typed, "%%", "%"))},
		{"sorting", do(`document.querySelectorAll('.list-head button')[N % 5].click()`)},
	} {
		if run.name != "searching" {
			p.fill("#list-search", "")
		}
		f, line := p.speedRun(run.name, min(duration, 10*time.Second), run.hand)
		frames = append(frames, line)
		if n := chromeEval[int](t, p.ctx, `document.querySelectorAll('[role=option]').length`); n > speedRows {
			t.Errorf("%s: %d rows are in the document", run.name, n)
		}
		if run.name == "scrolling the list" && f.P95 > speedScroll {
			t.Errorf("%s: p95 %.1f ms, more than %.0f", run.name, f.P95, speedScroll)
		}
	}
	speedTable(t, frames)
}
