package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"topostream/pgbus/pgtest"
)

// enter types into a field that holds nothing.
func (p *page) enter(selector, text string) {
	p.t.Helper()
	if _, err := chromedp.Run(p.ctx, chromedp.SendKeys(selector, text)); err != nil {
		p.t.Fatalf("type into %s: %v", selector, err)
	}
}

// says waits until the text of an element holds a sentence.
func (p *page) says(selector, sentence string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector(%q)?.textContent.includes(%q)`, selector, sentence))
}

const lifecycleSection = `section[aria-label="Lifecycle"] `

func TestATopologyIsMadeDeployedDegradedRecoveredTornDownAndDeletedInTheConsole(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	topology(t, conn, "taken")
	server := serve(t, db.URL, withWorker)
	page := openPage(t, server.url+"/#token="+operatorToken(t))
	page.until(`window.topostream?.rows !== null && window.topostream.state === 'open'`)
	page.command("New topology…")

	// What the server refuses is said at the field.
	page.enter(`dialog input[name="name"]`, "taken")
	page.click(`dialog button[type="submit"]`)
	page.says(`dialog input[name="name"] ~ [role="alert"]`, `there is a topology "taken" already`)
	page.enter(`dialog input[name="name"]`, " 2")
	page.enter(`dialog input[name="lanSubnet"]`, "10.1.2.3/24")
	page.click(`dialog button[type="submit"]`)
	page.says(`dialog input[name="lanSubnet"] ~ [role="alert"]`, "10.1.2.0/24")
	page.until(`document.querySelectorAll('dialog [role="alert"]').length === 1`)
	for range len("10.1.2.3/24") {
		page.enter(`dialog input[name="lanSubnet"]`, "\b")
	}
	page.click(`dialog button[type="submit"]`)
	page.says(`aside[aria-label="Inspector"] h2`, "taken 2")
	const made = `SELECT string_agg(l.name || ' ' || l.is_dmz || ' ' || d.name || ' ' || e.forwards_l3, ', '
			ORDER BY l.name)
		FROM lans l JOIN edges e ON e.lan_id = l.id JOIN deckies d ON d.uuid = e.decky_uuid`
	if got := pgtest.Scan[string](t, conn, made); got != "dmz true gateway-1 true, lan-1 false web-1 false" {
		t.Errorf("the starter is %s", got)
	}

	// Only what is legal is offered, and the page follows what the database says.
	offers := func(want string) {
		t.Helper()
		page.until(fmt.Sprintf(
			`[...document.querySelectorAll('%s[data-step]')].map((b) => b.dataset.step).join(' ') === %q`,
			lifecycleSection, strings.TrimSpace(want+" delete")))
	}
	offers("deploying torn_down")
	page.click(lifecycleSection + `[data-step="deploying"]`)
	offers("active failed degraded tearing_down")
	if said := page.why("Deploy"); !strings.Contains(said, "deploying may become active or failed") {
		t.Errorf("what is deploying may be deployed: %s", said)
	}
	if editable := chromeEval[string](t, page.ctx, `String(window.topostream.editable)`); editable == "true" {
		t.Error("what is deploying can be edited")
	}
	page.click(lifecycleSection + `[data-step="active"]`)
	offers("degraded tearing_down")
	page.until(`window.topostream.editable === true`)
	page.click(lifecycleSection + `[data-step="degraded"]`)
	page.enter(`dialog input[name="reason"]`, "the <b>uplink</b> is down")
	page.click(`dialog button[type="submit"]`)
	offers("active tearing_down")
	page.says(lifecycleSection+"blockquote", "the <b>uplink</b> is down")
	page.until(`window.topostream.editable === true`)

	// By the menu and the keyboard.
	page.click(`button[aria-haspopup="menu"]`)
	page.until(`document.activeElement.dataset.step === 'active'`)
	page.enter(`[role="menuitem"][data-step="active"]`, "\r")
	offers("degraded tearing_down")
	page.until(`!document.querySelector('[role="menu"]')`)
	if reason := pgtest.Scan[bool](t, conn, `SELECT reason IS NULL FROM topologies WHERE name = 'taken 2'`); !reason {
		t.Error("what recovered keeps the reason of its failure")
	}

	page.click(lifecycleSection + `[data-step="tearing_down"]`)
	page.click(`dialog button[type="submit"]`)
	offers("torn_down degraded")
	page.click(lifecycleSection + `[data-step="torn_down"]`)
	page.click(`dialog button[type="submit"]`)
	offers("")

	// Deleting asks for the name.
	page.click(lifecycleSection + `[data-step="delete"]`)
	page.enter(`dialog input[name="name"]`, "taken")
	page.until(`document.querySelector('dialog button[type="submit"]').disabled`)
	page.enter(`dialog input[name="name"]`, " 2")
	page.click(`dialog button[type="submit"]`)
	page.until(`location.hash === '#/' && window.topostream.rows === 1`)
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topologies`); n != 1 {
		t.Errorf("%d topologies are left", n)
	}
}

func TestWhatSomebodyElseDidFirstIsRefusedInTheServersWords(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+operatorToken(t)+"&topology="+id)
	page.click(lifecycleSection + `[data-step="degraded"]`)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []string{"tearing_down", "torn_down"} {
		if _, err := tx.Exec(t.Context(), `UPDATE topologies SET status = $1`, status); err != nil {
			t.Fatal(err)
		}
	}
	page.click(`dialog button[type="submit"]`)
	waiting := db.Conn(t)
	pgtest.Eventually(t, "the page's request waits for the other's transaction", func() bool {
		return pgtest.Scan[bool](t, waiting, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	page.says(`[role="alert"]`, "torn_down cannot become degraded: from torn_down it may become nothing else")
	page.says(lifecycleSection, "torn down")
}

func TestTheConsoleOffersAViewerNoStepOfTheLifecycle(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := live(t, db.Conn(t), 1)[0]
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+testToken(t)+"&topology="+id)
	page.says(lifecycleSection, "this token may only look")
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll('[data-step], [aria-haspopup]').length`); n != 0 {
		t.Errorf("a viewer is offered %d steps", n)
	}
	if said := page.why("Tear down…"); !strings.Contains(said, "may only look") {
		t.Errorf("a viewer's command says %q", said)
	}
	page.look("panel", "delete")
	page.until(`location.hash.includes('panel=delete')`)
	if n := chromeEval[int](t, page.ctx, `document.querySelectorAll('dialog').length`); n != 0 {
		t.Error("an address opens a viewer the dialog that deletes")
	}
}

// Each line of the drawer is run as it stands: by a shell, and at psql's prompt.
func TestThePsqlLinesOfTheConsoleWorkAsTheyStandAndThePageHearsThem(t *testing.T) {
	t.Parallel()
	long(t)
	const name = `o'brien's "net" \ $HOME !1 :x é`
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := topology(t, conn, name)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'deploying'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET status = 'active'`)
	pgtest.Exec(t, conn,
		`INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'l''an \1', '10.0.0.0/24')`, id)
	server := serve(t, db.URL, withWorker)
	page := openPage(t, server.url+"/#token="+operatorToken(t)+"&topology="+id)
	page.until(`window.topostream?.lastSeq >= 4`)
	page.choose(`l'an \1`)
	page.look("panel", "inject")

	psql, err := filepath.Abs(pgtest.Bin(t, "psql"))
	if err != nil {
		t.Fatal(err)
	}
	plain := func(line string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+db.URL, "PATH="+filepath.Dir(psql)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for i, form := range []struct {
		name string
		run  func(line string) (string, error)
	}{
		{"a shell", plain},
		{"psql’s prompt", func(line string) (string, error) { return db.Psql(t, line) }},
	} {
		if i > 0 {
			page.command("Discard what is staged")
		}
		for _, name := range []string{"sta'ged for ", `two\ for `} {
			page.command("Add a subnet…")
			page.until(`document.activeElement?.name === 'name'`)
			page.editKey("a")
			page.keys(name+form.name, kb.Enter)
			page.until(`!document.querySelector('dialog[open]')`)
		}
		page.look("panel", "inject") // the commands were in its place
		page.click(fmt.Sprintf(`aside[aria-label="psql"] label:nth-of-type(%d) input`, i+1))
		page.until(fmt.Sprintf(`document.querySelector('[data-line="emit"] code').textContent.startsWith('psql') === %t`,
			form.name == "a shell"))
		text := func(line string) string {
			t.Helper()
			code := fmt.Sprintf(`[data-line=%q] code`, line)
			page.until(fmt.Sprintf(`!!document.querySelector(%q)`, code))
			return chromeEval[string](t, page.ctx, fmt.Sprintf(`document.querySelector(%q).textContent`, code))
		}
		run := func(text string) string {
			t.Helper()
			out, err := form.run(text)
			if err != nil {
				t.Fatalf("%s: %s: %v: %s", form.name, text, err, out)
			}
			return out
		}
		hears := func(text, heard string) {
			t.Helper()
			before := chromeEval[int](t, page.ctx, `window.topostream.kept`)
			run(text)
			page.until(fmt.Sprintf(`window.topostream.events.slice(%d).some((e) =>
				(e.type + ' ' + e.summary).startsWith(%q))`, before, heard))
			page.until(`window.topostream.open.in_flight === 0`)
		}
		for _, line := range []struct{ id, heard string }{
			{"emit", `hello {"from":"psql"}`},
			{"staged", `mutation.enqueued`},
			{"mutation-add_lan", `mutation.enqueued`},
			{"insert-lan", `graph `},
			{"notify", `note {"text":"anybody there?"}`},
			{"selected-0", `mutation.enqueued`},
			{"status-degraded", `status to degraded: by hand`},
			{"status-active", `status to active`},
		} {
			hears(text(line.id), line.heard)
		}

		// Each line of a bridge, of its decky, and, at last, of what they have made.
		pgtest.Exec(t, conn, `INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'far', '172.30.0.0/24')
			ON CONFLICT DO NOTHING`, id)
		for _, op := range []struct{ op, payload string }{
			{"add_decky", `{"name":"o'web","lan":"l'an \\1","services":["ssh"]}`},
			{"attach_decky", `{"decky":"o'web","lan":"far"}`},
		} {
			awaitMutation(t, conn, enqueueOp(t, conn, id, op.op, op.payload), "applied")
		}
		page.until(`window.topostream.head.graph.edges.some((edge) => edge.is_bridge)`)
		selects := func(key string, lines int) (texts []string) {
			t.Helper()
			page.look("sel", key)
			page.until(fmt.Sprintf(`window.topostream.selection.map((one) => one.kind + ':' + one.key).join() === %q &&
				document.querySelectorAll('[data-line^=selected-]').length === %d`, key, lines))
			for i := range lines {
				texts = append(texts, text(fmt.Sprint("selected-", i)))
			}
			return texts
		}
		lines := selects("edge:"+pgtest.Scan[string](t, conn, `SELECT id::text FROM edges WHERE is_bridge`), 2)
		hears(lines[0], "mutation.applied detach_decky: 1 removed")
		hears(lines[1], "mutation.applied attach_decky: 1 edge")
		lines = selects("decky:"+pgtest.Scan[string](t, conn, `SELECT uuid::text FROM deckies WHERE name LIKE 'o%'`), 5)
		hears(lines[0], "mutation.applied update_decky")
		hears(lines[1], "mutation.applied update_decky: o'web")
		hears(lines[3], "graph o'web")
		hears(lines[4], `decky.note {"decky":"o'web"}`)
		hears(lines[2], "mutation.applied remove_decky: 3 removed")
		const newest = `SELECT seq || ' ' || (payload ->> 'mutation_id') FROM topology_events
			WHERE type = 'mutation.applied' ORDER BY seq DESC LIMIT 1`
		seq, mutation, _ := strings.Cut(pgtest.Scan[string](t, conn, newest), " ")
		if out := run(selects("mutation:"+mutation, 1)[0]); !strings.Contains(out, "applied") {
			t.Errorf("psql says of the mutation: %s", out)
		}
		if out := run(selects("event:"+seq, 1)[0]); !strings.Contains(out, mutation) {
			t.Errorf("psql says of the event: %s", out)
		}
		page.choose(`l'an \1`)
	}
	const mutations = `SELECT coalesce(string_agg(state || ' ' || payload::text, '; '), '') FROM mutations
		WHERE payload::text LIKE '%sta''ged%' OR payload::text LIKE '%l''an%'`
	got := pgtest.Scan[string](t, conn, mutations)
	for _, name := range []string{`"sta'ged for a shell"`, `"two\\ for a shell"`, `"l'an \\1"`} {
		if !strings.Contains(got, name) {
			t.Errorf("%s did not survive: %s", name, got)
		}
	}
}

// While a request is under way no other step can be taken, and what offers one looks so.
func TestAStepThatCannotBeTakenYetLooksSo(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := topology(t, db.Conn(t), "site-1")
	page := openPage(t, startServer(t, db.URL)+"/#token="+operatorToken(t)+"&topology="+id)
	page.until(`window.topostream?.open?.status === 'pending'`)
	chromeEval[bool](t, page.ctx, `((fetched) => {
		window.fetch = (...request) => request[1]?.method === 'PATCH' ? new Promise(() => {}) : fetched(...request);
		return true;
	})(window.fetch)`)
	page.click(lifecycleSection + `[data-step="deploying"]`)
	page.click(`.lifecycle > button`)
	page.until(`[...document.querySelectorAll('.lifecycle, section[aria-label="Lifecycle"]')].every((place) => {
		const colour = (step) => getComputedStyle(place.querySelector('[data-step="' + step + '"]')).color;
		return colour('deploying') === colour('torn_down') && colour('deploying') !== colour('delete');
	})`)
	page.editPicture("step-under-way")
}

// The events of a step come before its answer: the page goes on with them, and the answer closes nothing that was
// opened since.
func TestAStepWhoseAnswerIsLateHoldsNothingUpAndClosesNothing(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := make([]string, 4)
	for i := range ids {
		ids[i] = topology(t, conn, fmt.Sprintf("site-%d", i+1))
	}
	server := startServer(t, db.URL)
	page := openPage(t, server+"/#token="+operatorToken(t)+"&topology="+ids[0])
	page.until(`window.topostream?.open?.status === 'pending'`)
	// Answers to steps wait until the page is given them; taken counts those that it has dealt with.
	chromeEval[bool](t, page.ctx, `((fetched) => {
		window.held = [];
		window.taken = 0;
		window.fetch = async (...request) => {
			const answer = await fetched(...request);
			if (!['PATCH', 'DELETE'].includes(request[1]?.method)) return answer;
			const body = await answer.json().catch(() => null);
			await new Promise((go) => window.held.push(go));
			if (answer.status === 204) setTimeout(() => { window.taken++; });
			answer.json = async () => (setTimeout(() => { window.taken++; }), body);
			return answer;
		};
		return true;
	})(window.fetch)`)
	taken := 0
	answer := func() {
		t.Helper()
		page.until(`window.held.length === 1`)
		chromeEval[bool](t, page.ctx, `(window.held.shift()(), true)`)
		taken++
		page.until(fmt.Sprintf(`window.taken === %d`, taken))
	}
	becomes := func(status string) {
		t.Helper()
		page.until(fmt.Sprintf(`window.topostream.open.status === %q`, status))
	}
	psql := func(status string) {
		t.Helper()
		pgtest.Exec(t, conn, `UPDATE topologies SET status = $2 WHERE id = $1::text::uuid`, ids[0], status)
		becomes(status)
	}
	asks := func(title string) {
		t.Helper()
		page.until(fmt.Sprintf(`document.querySelector('dialog[open] h2')?.textContent === %q`, title))
	}
	leave := func() {
		t.Helper()
		page.keys(kb.Escape)
		page.until(`!document.querySelector('dialog[open]')`)
	}

	page.look("panel", "inject")
	page.click(lifecycleSection + `[data-step="deploying"]`)
	becomes("deploying")
	answer()
	page.until(`location.hash.includes('panel=inject')`)

	// The status is another already when the answer comes, and the same dialog is open again.
	psql("active")
	page.command("Mark degraded…")
	page.click(`dialog button[type="submit"]`)
	becomes("degraded")
	psql("active")
	page.command("Mark degraded…")
	asks("Mark degraded: site-1")
	answer()
	asks("Mark degraded: site-1")
	leave()

	page.command("Tear down…")
	page.click(`dialog button[type="submit"]`)
	becomes("tearing_down")
	page.until(`!document.querySelector('dialog[open]')`)
	page.command("New topology…")
	answer()
	asks("New topology")
	leave()

	page.command("Delete…")
	page.enter(`dialog input[name="name"]`, "site-1")
	page.click(`dialog button[type="submit"]`)
	page.until(`!document.querySelector('dialog[open]') && window.topostream.rows === 3`)
	page.command("New topology…")
	answer()
	page.until(`location.hash.startsWith('#/?')`)
	asks("New topology")
	leave()

	// Who is about to change what somebody else deletes is asked nothing about the next topology.
	for i, title := range []string{"Mark torn down…", "Delete…"} {
		page.click(`[role=option][data-id="` + ids[i+1] + `"]`)
		becomes("pending")
		page.command(title)
		page.until(`document.querySelector('dialog[open] h2')?.textContent.endsWith('` + fmt.Sprintf("site-%d", i+2) + `')`)
		pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, ids[i+1])
		page.until(fmt.Sprintf(`!document.querySelector('dialog[open]') && window.topostream.rows === %d`, 2-i))
		page.click(`[role=option][data-id="` + ids[i+2] + `"]`)
		page.until(`window.topostream.open?.id === '` + ids[i+2] + `' && window.topostream.open.status === 'pending'`)
		if asked := chromeEval[bool](t, page.ctx, `!!document.querySelector('dialog[open]')`); asked {
			t.Errorf("%s is asked of the next one", title)
		}
	}
}
