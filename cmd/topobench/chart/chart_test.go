package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestBarsAndCurvesAreOneSVG(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	err := Write(&b,
		Panel{Title: "connects a second", Bars: []Bar{{"ours", 5000}, {"not measured", 0}, {"bare", 12500}}},
		Panel{Title: "latency", Curves: []Curve{
			{"ours", [][2]float64{{0, 0.1}, {50, 1}, {99, 3}}}, {"raw", [][2]float64{{0, 0}, {50, 0.5}, {99.99, 3}}},
		}},
		Panel{Title: "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "connects a second", "5000", "latency", "raw", "99.9"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(b.String(), "not measured") {
		t.Error("a bar of 0")
	}
	for d := xml.NewDecoder(&b); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
