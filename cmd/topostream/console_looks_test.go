package main

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"
)

// TestTheConsoleIsReadInWhateverWindowColoursAndScriptSomebodyHas looks at one page as different people have it.
func TestTheConsoleIsReadInWhateverWindowColoursAndScriptSomebodyHas(t *testing.T) {
	t.Parallel()
	long(t)
	d := openDesk(t, operatorToken(t), func(t *testing.T, conn *pgx.Conn, id string) {
		topology(t, conn, "شبكة الفخاخ الشمالية في المبنى القديم")
		graphSeed(t, conn, id, 4, 3)
	})

	// Forced colours leave no ground of what is selected; the drawing and its states are still there.
	const colours = `new Set(new Uint32Array(canvas.getContext('2d')
		.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size`
	d.until(`(window.canvas = document.querySelector('canvas[role=application]')) && ` + colours + ` > 20`)
	d.media("forced-colors", "active")
	d.look("view", "table")
	d.until(`!document.querySelector('canvas')`)
	d.look("view") // it is drawn anew
	d.until(`(window.canvas = document.querySelector('canvas[role=application]')) && ` + colours + ` > 20`)
	selected := fmt.Sprintf(`getComputedStyle(document.querySelector('[role=option][data-id=%q]'))`, d.id)
	d.until(selected + `.outlineStyle === 'solid' && parseFloat(` + selected + `.outlineWidth) > 0`)
	d.until(`getComputedStyle(document.querySelector('.knob')).backgroundColor === ` + selected + `.outlineColor`)
	d.media()

	// A name of another direction is cut at its own end, and begins where it is read from.
	const name = `[...document.querySelectorAll('.list-name')].find((name) => name.textContent.startsWith('شبكة'))`
	d.until(`getComputedStyle(` + name + `).direction === 'rtl' && getComputedStyle(` + name + `).textAlign === 'left'`)

	// At 200 % a window of 1440 pixels has 720: the canvas keeps half of it, and the list its names.
	d.editDo(chromedp.EmulateViewport(720, 450))
	d.until(`document.querySelector('main').clientWidth >= 360`)
	d.until(`document.querySelector('.list-name').clientWidth >= 60 && document.querySelector('aside').clientWidth >= 160`)
}
