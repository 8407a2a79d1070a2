package bench

import (
	"context"
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A FanoutRow is what one server did with the events of few topologies for many clients.
type FanoutRow struct {
	Server       string  `json:"server"`
	Reached      float64 `json:"reached_events_per_second"`
	Deliveries   float64 `json:"deliveries_per_second"`
	PerCPUSecond float64 `json:"deliveries_per_cpu_second"` // of the server's process; 0: its pid is not known
	Bytes        float64 `json:"bytes_per_delivery"`
	P50          float64 `json:"p50_ms"` // from when the event became visible to when its bytes were read
	P99          float64 `json:"p99_ms"`
	Generator    float64 `json:"generator_cpu_seconds_per_second"` // of topobench, whose limit is no server's
	RatioToBare  float64 `json:"deliveries_per_cpu_second_ratio_to_bare_write"`
}

// A FanoutReport is what Fanout found.
type FanoutReport struct {
	About

	Clients int         `json:"clients"`
	Rate    float64     `json:"events_per_second"`
	Rows    []FanoutRow `json:"rows"`
	Curves  []Curve     `json:"curves"`
}

// Fanout measures the delivery of plan.Rate events a second to plan.Clients clients, of one topology or a few, and
// beside it that of two bare servers, which send frames of the same size over sockets of the same kind.
func Fanout(ctx context.Context, plan Plan) (_ *FanoutReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &FanoutReport{About: plan.about(p), Clients: plan.Clients, Rate: plan.Rate}
	report.Rows, report.Curves, err = plan.fanouts(ctx, plan.subjects(p, plan.bareWrite(p), plan.bareHTTP(p)))
	return report, err
}

// fanouts measures subjects; the first one's frames are the size of all bare ones'.
func (plan *Plan) fanouts(ctx context.Context, subjects []subject) (rows []FanoutRow, curves []Curve, err error) {
	var as shape
	found, err := inRounds(ctx, plan, subjects, func(sub subject) (f fannedOut, err error) {
		f, err = plan.fanout(ctx, sub, as)
		if err == nil && as.event == 0 {
			as.event = max(1, int(f.bytes)-bareFrame)
		}
		return f, err
	}, func(f fannedOut) string {
		return fmt.Sprintf("%.0f deliveries a CPU-second, p50 %.2f ms, p99 %.2f ms", f.perCPU,
			milliseconds(f.latency, 50), milliseconds(f.latency, 99))
	})
	if err != nil {
		return nil, nil, err
	}
	perCPU := func(f fannedOut) float64 { return f.perCPU }
	for _, sub := range subjects {
		fs := found[sub.name]
		if len(fs) == 0 { // a peer that failed
			continue
		}
		row := FanoutRow{
			Server:       sub.name,
			Reached:      median(each(fs, func(f fannedOut) float64 { return f.reached })),
			Deliveries:   median(each(fs, func(f fannedOut) float64 { return f.perSecond })),
			PerCPUSecond: median(each(fs, perCPU)),
			Bytes:        median(each(fs, func(f fannedOut) float64 { return f.bytes })),
			P50:          median(each(fs, func(f fannedOut) float64 { return milliseconds(f.latency, 50) })),
			P99:          median(each(fs, func(f fannedOut) float64 { return milliseconds(f.latency, 99) })),
			Generator:    median(each(fs, func(f fannedOut) float64 { return f.generator })),
		}
		if by := found[bareWrite]; by != nil {
			row.RatioToBare = ratio(each(fs, perCPU), each(by, perCPU))
		}
		rows = append(rows, row)
		curves = append(curves, newCurve(sub.name, each(fs, func(f fannedOut) *hdrhistogram.Histogram { return f.latency })))
	}
	return rows, curves, nil
}

// bareFrame is about how many bytes a bare server's frame has beside the payload.
const bareFrame = len("event: bench\nid: 1234\ndata: \n\n")

// fannedOut is what one round found.
type fannedOut struct {
	reached, perSecond, perCPU, bytes, generator float64
	latency                                      *hdrhistogram.Histogram
}

// fanout is one round of one subject.
func (plan *Plan) fanout(ctx context.Context, sub subject, as shape) (f fannedOut, err error) {
	err = plan.with(ctx, sub, as, func(r *running, s *eventSource) error {
		clients, err := plan.fleet(r, s)
		if err != nil {
			return err
		}
		defer clients.Close()
		if _, err := clients.Connect(ctx, plan.Clients); err != nil {
			return err
		}
		w, err := plan.measure(ctx, s, clients, plan.Clients, r.target.PID)
		if err != nil {
			return err
		}
		f = w.fannedOut()
		return nil
	})
	return f, err
}

func (w window) fannedOut() fannedOut {
	f := fannedOut{
		reached: perSecond(w.events, w.took), perSecond: perSecond(w.tally.Deliveries, w.delivered),
		bytes:     float64(w.tally.Bytes) / float64(w.tally.Deliveries),
		generator: w.generator.Seconds() / w.delivered.Seconds(), latency: w.tally.Latency,
	}
	// A CPU time below one tick is none that could be divided by.
	f.perCPU = perSecond(w.tally.Deliveries, w.server)
	return f
}

// String is the report as a table.
func (r *FanoutReport) String() string {
	t := newTable(len(r.Rows), "server", "reached", "deliveries", "deliveries a CPU-second", "of bare write(2)'s",
		"bytes each", "p50", "p99", "CPU of the generator")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Server, fmt.Sprintf("%.0f/s", row.Reached), fmt.Sprintf("%.0f/s", row.Deliveries),
			figure("%.0f", row.PerCPUSecond), figure("%.2f ×", row.RatioToBare), fmt.Sprintf("%.0f", row.Bytes),
			fmt.Sprintf("%.2f ms", row.P50), fmt.Sprintf("%.2f ms", row.P99), fmt.Sprintf("%.2f", row.Generator),
		})
	}
	return r.About.String() + fmt.Sprintf("%d clients, %g events/s\n\n", r.Clients, r.Rate) + t.String()
}
