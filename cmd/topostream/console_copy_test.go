package main

import (
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// pasted is what the browser's clipboard holds, as whoever pastes it into a field gets it.
func (p *page) pasted() string {
	p.t.Helper()
	chromeEval[bool](p.t, p.ctx, `(window.pasted = null, addEventListener('paste', (event) => {
		window.pasted = event.clipboardData.getData('text/plain');
		event.preventDefault();
	}, { once: true, capture: true }), document.getElementById('timeline-filter').focus(), true)`)
	p.editDo(chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, input.DispatchKeyEvent, input.DispatchKeyEventParams{
			Type: input.DispatchKeyEventTypeKeyDown, Key: "v", Code: "KeyV", Modifiers: int64(chromedp.ModifierCtrl),
			Commands: []string{"paste"},
		})
		return err
	}))
	p.until(`window.pasted !== null`)
	return chromeEval[string](p.t, p.ctx, `window.pasted`)
}

// A page that comes over plain HTTP from elsewhere has no navigator.clipboard.
func TestWhatTheConsoleCopiesIsOnTheClipboardAlsoWithoutTLS(t *testing.T) {
	t.Parallel()
	long(t)
	page := openDesk(t, operatorToken(t), seedNothing)
	const payload = `{"by": "psql", "deep": [1, {"two": "  2"}]}`
	pgtest.Exec(t, page.conn, `SELECT topology_emit($1::text::uuid, 'copied', $2::text::jsonb)`, page.id, payload)
	enqueueOp(t, page.conn, page.id, "remove_lan", `{"name":"nowhere"}`)
	page.until(`!!document.querySelector('[aria-label="Failed edits"] [data-reason]')`)
	reason := pgtest.Scan[string](t, page.conn, `SELECT reason FROM mutations WHERE state = 'failed'`)
	page.click(`[role=option][data-type=copied]`)
	page.press(shellEvents, "Enter")
	written := chromeEval[string](t, page.ctx, fmt.Sprintf(`JSON.stringify(%s, null, 2)`, payload))
	for _, clipboard := range []bool{true, false} {
		if !clipboard {
			chromeEval[bool](t, page.ctx, `(Object.defineProperty(navigator, 'clipboard', { value: undefined }),
				navigator.clipboard === undefined)`)
		}
		for _, copied := range []struct{ of, text string }{
			{`[aria-label^="Payload of copied"] `, written},
			{`[aria-label="Failed edits"] .failed-acts `, reason},
			{`[aria-label=Inspector] `, written},
		} {
			button := copied.of + `button[aria-label^="Copy the"]`
			page.tap(button)
			page.until(fmt.Sprintf(`document.activeElement === document.querySelector('%sbutton[aria-label="Copied"]')`,
				copied.of))
			if got := page.pasted(); got != copied.text {
				t.Errorf("with a clipboard: %t, what %s copies is pasted as %q, not %q", clipboard, copied.of, got, copied.text)
			}
			page.until(fmt.Sprintf(`!!document.querySelector('%s')`, button))
		}
	}
}
