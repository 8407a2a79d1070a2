package bench

import (
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"

	"topostream/cmd/topobench/fleet"
)

// A Curve is one server's latencies of all rounds.
type Curve struct {
	Server string  `json:"server"`
	Points []Point `json:"points"`
}

// A Point says that so many percent of the events took at most so long.
type Point struct {
	Percentile float64 `json:"percentile"`
	MS         float64 `json:"ms"`
}

func newCurve(server string, rounds []*hdrhistogram.Histogram) Curve {
	all := fleet.NewLatencies()
	for _, h := range rounds {
		all.Merge(h)
	}
	c := Curve{Server: server}
	for _, p := range []float64{0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 99.99} {
		c.Points = append(c.Points, Point{p, milliseconds(all, p)})
	}
	return c
}

// figure prints a figure; 0 is none.
func figure(format string, v float64) string {
	if v == 0 {
		return "—"
	}
	return fmt.Sprintf(format, v)
}
