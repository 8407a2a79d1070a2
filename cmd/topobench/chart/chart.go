// Package chart draws the figures of a measurement as one SVG.
package chart

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A Panel is one drawing of the picture: bars or curves.
type Panel struct {
	Title  string
	Bars   []Bar
	Curves []Curve
}

// A Bar is one server's figure; what is 0 was not measured and is left out.
type Bar struct {
	Name  string
	Value float64
}

// A Curve is one server's latencies: (percentile, ms), in rising order.
type Curve struct {
	Name   string
	Points [][2]float64
}

const (
	width  = 7 * vg.Inch
	height = 3.5 * vg.Inch // of one panel
)

// Write draws the panels one below the other.
func Write(w io.Writer, panels ...Panel) error {
	canvas := vgsvg.New(width, height*vg.Length(len(panels)))
	tiles := draw.Tiles{Rows: len(panels), Cols: 1, PadTop: vg.Points(6), PadBottom: vg.Points(6), PadY: vg.Points(12),
		PadLeft: vg.Points(6), PadRight: vg.Points(12)}
	for i, p := range panels {
		drawn, err := p.plot()
		if err != nil {
			return fmt.Errorf("draw %s: %w", p.Title, err)
		}
		drawn.Draw(tiles.At(draw.New(canvas), 0, i))
	}
	if _, err := canvas.WriteTo(w); err != nil {
		return fmt.Errorf("write the SVG: %w", err)
	}
	return nil
}

func (p Panel) plot() (*plot.Plot, error) {
	drawn := plot.New()
	drawn.Title.Text = p.Title
	if len(p.Curves) > 0 {
		return drawn, drawCurves(drawn, p.Curves)
	}
	return drawn, drawBars(drawn, p.Bars)
}

func drawBars(p *plot.Plot, bars []Bar) error {
	values, names := plotter.Values{}, []string{}
	for _, b := range bars {
		if b.Value != 0 {
			values = append(values, b.Value)
			names = append(names, fmt.Sprintf("%s\n%.4g", b.Name, b.Value))
		}
	}
	if len(values) == 0 {
		return nil
	}
	chart, err := plotter.NewBarChart(values, vg.Points(40))
	if err != nil {
		return err
	}
	chart.Color, chart.LineStyle.Width = plotutil.Color(2), 0
	p.Add(chart)
	p.NominalX(names...)
	p.Y.Min = 0
	return nil
}

// drawCurves has percentiles by their nines, 0, 90, 99, 99.9 at equal distances, and times by their logarithm.
func drawCurves(p *plot.Plot, curves []Curve) error {
	p.X.Label.Text, p.Y.Label.Text = "percentile", "ms"
	p.X.Tick.Marker = plot.ConstantTicks(nines())
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Add(plotter.NewGrid())
	for i, c := range curves {
		points := make(plotter.XYs, 0, len(c.Points))
		for _, point := range c.Points {
			points = append(points, plotter.XY{X: nine(point[0]), Y: max(point[1], 1e-3)})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		line.Dashes = plotutil.Dashes(i)
		p.Add(line)
		p.Legend.Add(c.Name, line)
	}
	p.Legend.Top, p.Legend.Left = true, true
	return nil
}

// nine is how many nines a percentile has.
func nine(percentile float64) float64 { return -math.Log10(1 - min(percentile, 99.999)/100) }

func nines() (ticks []plot.Tick) {
	for _, p := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		ticks = append(ticks, plot.Tick{Value: nine(p), Label: strconv.FormatFloat(p, 'g', -1, 64)})
	}
	return ticks
}
