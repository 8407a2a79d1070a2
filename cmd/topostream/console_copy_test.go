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
	copies := func(of, button, text string) {
		t.Helper()
		button = of + button
		page.until(fmt.Sprintf(`!!document.querySelector('%s')`, button))
		// It says so for two seconds, which a slow machine may not look at.
		chromeEval[bool](t, page.ctx, fmt.Sprintf(`((button) => {
			window.labels = [];
			new MutationObserver(() => {
				window.labels.push(button.ariaLabel + (document.activeElement === button ? ', focused' : ''));
			}).observe(button, { attributeFilter: ['aria-label'] });
			return true;
		})(document.querySelector('%s'))`, button))
		page.tap(button)
		page.until(`window.labels.length > 0`)
		if got := chromeEval[string](t, page.ctx, `window.labels[0]`); got != "Copied, focused" {
			t.Errorf("what copies %s says %q", of, got)
		}
		if got := page.pasted(); got != text {
			t.Errorf("what %s copies is pasted as %q, not %q", of, got, text)
		}
		page.until(fmt.Sprintf(`!!document.querySelector('%s')`, button))
	}
	for _, clipboard := range []bool{true, false} {
		if !clipboard {
			chromeEval[bool](t, page.ctx, `(Object.defineProperty(navigator, 'clipboard', { value: undefined }),
				navigator.clipboard === undefined)`)
		}
		copies(`[aria-label^="Payload of copied"] `, `button[aria-label^="Copy the"]`, written)
		copies(`[aria-label="Failed edits"] .failed-acts `, `button[aria-label^="Copy the"]`, reason)
		copies(`[aria-label=Inspector] `, `button[aria-label^="Copy the"]`, written)
	}
	page.look("panel", "inject")
	page.until(`!!document.querySelector('[data-line=emit] code')`)
	copies(`[data-line=emit] `, `button[aria-label^="Copy: "]`,
		chromeEval[string](t, page.ctx, `document.querySelector('[data-line=emit] code').textContent`))
}
