package bench

import (
	"fmt"
	"slices"
	"time"

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

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratio divides round by round, and gives the median.
func ratio(values, by []float64) float64 {
	each := make([]float64, len(values))
	for i, v := range values {
		each[i] = v / by[i]
	}
	return median(each)
}

func each[T, U any](values []T, f func(T) U) []U {
	out := make([]U, len(values))
	for i, v := range values {
		out[i] = f(v)
	}
	return out
}

// perSecond is n by a time; 0 where there is no time.
func perSecond[N int | uint64](n N, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func milliseconds(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtPercentile(percentile)) / 1e6
}
