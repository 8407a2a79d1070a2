package bench

import "topostream/cmd/topobench/chart"

func bars[R any](title string, rows []R, name func(R) string, value func(R) float64) chart.Panel {
	p := chart.Panel{Title: title}
	for _, r := range rows {
		p.Bars = append(p.Bars, chart.Bar{Name: name(r), Value: value(r)})
	}
	return p
}

func curves(title string, curves []Curve) chart.Panel {
	p := chart.Panel{Title: title}
	for _, c := range curves {
		drawn := chart.Curve{Name: c.Server}
		for _, point := range c.Points {
			drawn.Points = append(drawn.Points, [2]float64{point.Percentile, point.MS})
		}
		p.Curves = append(p.Curves, drawn)
	}
	return p
}

// Panels are the report as drawings.
func (r *ConnectReport) Panels() []chart.Panel {
	name := func(r ConnectRow) string { return r.Server }
	return []chart.Panel{
		bars("connects a second", r.Rows, name, func(r ConnectRow) float64 { return r.PerSecond }),
		bars("KiB an idle connection", r.Rows, name, func(r ConnectRow) float64 { return r.IdleKiB }),
	}
}

// Panels are the report as drawings.
func (r *FanoutReport) Panels() []chart.Panel {
	return []chart.Panel{
		bars("deliveries a CPU-second", r.Rows, func(r FanoutRow) string { return r.Server },
			func(r FanoutRow) float64 { return r.PerCPUSecond }),
		curves("latency of the fan-out", r.Curves),
	}
}

// Panels are the report as drawings.
func (r *SpreadReport) Panels() []chart.Panel {
	return []chart.Panel{curves("latency, one client of each topology", r.Curves)}
}

// Panels are the report as drawings.
func (r *StormReport) Panels() []chart.Panel {
	p := chart.Panel{Title: "seconds until all are there"}
	for _, row := range r.Rows {
		p.Bars = append(p.Bars, chart.Bar{Name: row.Server + " connect", Value: row.Connect},
			chart.Bar{Name: row.Server + " storm", Value: row.Storm})
	}
	return []chart.Panel{p}
}

// Panels are the report as drawings.
func (r *Comparison) Panels() []chart.Panel {
	var connects []ConnectRow
	var fanouts []FanoutRow
	for _, row := range r.Rows {
		if row.Connect != nil {
			connects = append(connects, *row.Connect)
		}
		if row.Fanout != nil {
			fanouts = append(fanouts, *row.Fanout)
		}
	}
	panels := (&ConnectReport{Rows: connects}).Panels()
	panels = append(panels, (&FanoutReport{Rows: fanouts, Curves: r.Fanout}).Panels()...)
	return append(panels, (&SpreadReport{Curves: r.Spread}).Panels()...)
}
