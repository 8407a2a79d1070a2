package bench

import (
	"bytes"
	"testing"

	"topostream/cmd/topobench/chart"
)

// wantPicture fails unless the panels can be drawn.
func wantPicture(t *testing.T, panels []chart.Panel) {
	t.Helper()
	var b bytes.Buffer
	if err := chart.Write(&b, panels...); err != nil || !bytes.Contains(b.Bytes(), []byte("</svg>")) {
		t.Errorf("%v: %d bytes", err, b.Len())
	}
}
