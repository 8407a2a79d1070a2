package bench

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A SpreadRow is how long the events of many topologies took to a client of each.
type SpreadRow struct {
	Server       string  `json:"server"`
	Reached      float64 `json:"reached_events_per_second"`
	PerCPUSecond float64 `json:"deliveries_per_cpu_second"` // of the server's process; 0: its pid is not known
	P50          float64 `json:"p50_ms"`
	P99          float64 `json:"p99_ms"`
	RatioP50     float64 `json:"p50_ratio_to_raw_listen"`
	RatioP99     float64 `json:"p99_ratio_to_raw_listen"`
}

// A SpreadReport is what Spread found.
type SpreadReport struct {
	About

	Rate   float64     `json:"events_per_second"`
	Rows   []SpreadRow `json:"rows"`
	Curves []Curve     `json:"curves"`
}

// Spread measures how long events of many topologies take, each of which has one client. Where they are published in a
// database and told by NOTIFY, it measures a bare LISTEN for events that are published in the same way, too.
func Spread(ctx context.Context, plan Plan) (_ *SpreadReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	plan.Clients = len(p.topologies)
	report := &SpreadReport{About: plan.about(p), Rate: plan.Rate}
	report.Rows, report.Curves, err = plan.spreads(ctx, plan.subjects(p, plan.rawListeners(p)...))
	return report, err
}

func (plan *Plan) spreads(ctx context.Context, subjects []subject) (rows []SpreadRow, curves []Curve, err error) {
	found, err := inRounds(ctx, plan, subjects, func(sub subject) (fannedOut, error) {
		if sub.name == rawListen {
			return plan.rawListen(ctx, sub)
		}
		return plan.fanout(ctx, sub, shape{})
	}, func(f fannedOut) string {
		return fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", milliseconds(f.latency, 50), milliseconds(f.latency, 99))
	})
	if err != nil {
		return nil, nil, err
	}
	at := func(percentile float64) func(fannedOut) float64 {
		return func(f fannedOut) float64 { return math.Max(milliseconds(f.latency, percentile), 1e-3) }
	}
	for _, sub := range subjects {
		fs := found[sub.name]
		if len(fs) == 0 { // a peer that failed
			continue
		}
		row := SpreadRow{
			Server:       sub.name,
			Reached:      median(each(fs, func(f fannedOut) float64 { return f.reached })),
			PerCPUSecond: median(each(fs, func(f fannedOut) float64 { return f.perCPU })),
			P50:          median(each(fs, at(50))), P99: median(each(fs, at(99))),
		}
		if by := found[rawListen]; by != nil {
			row.RatioP50, row.RatioP99 = ratio(each(fs, at(50)), each(by, at(50))), ratio(each(fs, at(99)), each(by, at(99)))
		}
		rows = append(rows, row)
		curves = append(curves, newCurve(sub.name, each(fs, func(f fannedOut) *hdrhistogram.Histogram { return f.latency })))
	}
	return rows, curves, nil
}

// rawListeners is the bare LISTEN where there is something to hear.
func (plan *Plan) rawListeners(p *place) []subject {
	if plan.Target.URL != "" && !plan.Target.Publish.usesDatabase() || plan.Bus != "" && plan.Bus != "notify" {
		return nil
	}
	publish := Publish{SQL: EmitSQL}
	if plan.Target.URL != "" {
		publish = plan.Target.Publish
	}
	return []subject{{name: rawListen, start: func(context.Context, shape) (*running, error) {
		t := Target{URL: p.url, Publish: publish}
		return &running{target: t, topologies: p.topologies, publish: t.publishIn(p), stop: runsOn}, nil
	}}}
}

// rawListen is one round of the bare LISTEN.
func (plan *Plan) rawListen(ctx context.Context, sub subject) (f fannedOut, err error) {
	err = plan.with(ctx, sub, shape{}, func(r *running, s *eventSource) (err error) {
		raw, err := newRawListener(ctx, r, s.stamps)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, raw.close()) }()
		w, err := plan.measure(ctx, s, raw, len(r.topologies), 0)
		if err == nil {
			f = w.fannedOut()
		}
		return err
	})
	return f, err
}

// String is the report as a table.
func (r *SpreadReport) String() string {
	t := newTable(len(r.Rows), "server", "reached", "deliveries a CPU-second", "p50", "p99", "p50 of raw LISTEN's",
		"p99 of raw LISTEN's")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Server, fmt.Sprintf("%.0f/s", row.Reached), figure("%.0f", row.PerCPUSecond),
			fmt.Sprintf("%.2f ms", row.P50), fmt.Sprintf("%.2f ms", row.P99), figure("%.2f ×", row.RatioP50),
			figure("%.2f ×", row.RatioP99),
		})
	}
	return r.About.String() + fmt.Sprintf("one client of each topology, %g events/s\n\n", r.Rate) + t.String()
}
