package main

import (
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// openBrowser starts a real Chromium without a window.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine: install it, for example `apt-get install chromium`")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancelAllocator := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancelAllocator)
	ctx, cancelContext := chromedp.NewContext(ctx)
	t.Cleanup(cancelContext)
	return ctx
}

func TestARealBrowserGetsTheSnapshotAndWhatPsqlInjects(t *testing.T) {
	t.Parallel()
	ctx := openBrowser(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server := startServer(t, db.URL)
	token := testToken(t)
	open := fmt.Sprintf(`window.got = []; window.opens = 0;
		const es = new EventSource('/api/v1/topologies/%s/events?token=%s');
		es.onopen = () => window.opens++;
		for (const type of ['snapshot', 'test', 'unavailable']) es.addEventListener(type, (e) => window.got.push(type + ' ' + e.lastEventId));
		true`, id, token)
	until := func(js string) {
		t.Helper()
		if _, err := chromedp.Run(ctx, chromedp.Poll[bool](js, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(60*time.Second))); err != nil {
			t.Fatalf("%s: %v", js, err)
		}
	}
	_, err := chromedp.Run(ctx, chromedp.Navigate(server+"/#token="+token+"&topology="+id))
	if err != nil {
		t.Fatal(err)
	}
	until(`!!window.topostream && window.topostream.lastSeq === 1`)
	if state, err := chromedp.Run(ctx, chromedp.Text("#state")); err != nil || state != "open" {
		t.Errorf("the console shows %q, %v", state, err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](open)); err != nil {
		t.Fatal(err)
	}
	until(`window.got.includes('snapshot 1')`)
	const emit = `SELECT topology_emit(id, 'test', '{"by": "psql"}') FROM topologies, generate_series(1, 3) WHERE name = 'demo'`
	if out, err := db.Psql(t, emit); err != nil {
		t.Fatalf("psql: %v: %s", err, out)
	}
	until(`window.got.length === 4 && window.topostream.lastSeq === 4`)
	got, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](`window.got`))
	if err != nil || fmt.Sprint(got) != "[snapshot 1 test 2 test 3 test 4]" {
		t.Errorf("the page got %v, %v", got, err)
	}
}
