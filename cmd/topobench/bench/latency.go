package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"topostream/cmd/topobench/chart"
	"topostream/pgbus/setting"

	"golang.org/x/sync/errgroup"
)

// rawListen is no bus: a bare connection that LISTENs.
const rawListen = "raw LISTEN"

// A LatencyRow is how long events took on a bus, from when COMMIT is sent to when the client has the whole frame.
type LatencyRow struct {
	Rate     float64 `json:"events_per_second"`
	Bus      string  `json:"bus"`
	Reached  float64 `json:"reached_events_per_second"` // less than the rate where writers could not commit so fast
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	RatioP50 float64 `json:"p50_ratio_to_raw_listen"`
	RatioP99 float64 `json:"p99_ratio_to_raw_listen"`
}

// A LatencyReport is what Latency found.
type LatencyReport struct {
	About

	Rows  []LatencyRow `json:"rows"`
	Edits []EditRow    `json:"edits"`
}

// Latency measures the time from COMMIT to the frame in a client's hands, of one server process with a client on a
// socket for each topology, on each bus and at each rate; and beside them that of a bare LISTEN, which no bus on NOTIFY
// can beat. Then it measures the time of edits, from the POST on. program is topostream's path; empty: it is built from
// this module.
func Latency(ctx context.Context, cfg Config, program string, rates []float64) (_ *LatencyReport, err error) {
	p, err := openPlace(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = p.close(err) }()
	if program == "" {
		if program, err = buildTopostream(ctx, p.dir); err != nil {
			return nil, err
		}
	}
	l, err := newLoad(ctx, p, 16, cfg.Seed, nil)
	if err != nil {
		return nil, err
	}
	defer l.close()
	report := &LatencyReport{About: cfg.about(p)}
	for _, rate := range rates {
		rows, err := cfg.compareLatency(ctx, program, p, l, rate)
		if err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, rows...)
	}
	report.Edits, err = cfg.compareEdits(ctx, program, p)
	return report, err
}

func (c Config) compareLatency(ctx context.Context, program string, p *place, l *load,
	rate float64) (rows []LatencyRow, err error) {
	buses := []string{rawListen, setting.Notify, setting.WAL, setting.Poll}
	reached, p50, p99 := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for round := range c.Rounds {
		for _, bus := range buses {
			times, took, err := c.latencyUnder(ctx, program, p, l, bus, rate)
			if err != nil {
				return nil, fmt.Errorf("%g events/s, %s: %w", rate, bus, err)
			}
			slices.Sort(times)
			half, most := times[len(times)/2], times[len(times)*99/100]
			c.Log("round %d of %d, %g events/s, %s: p50 %s, p99 %s", round+1, c.Rounds, rate, bus,
				half.Round(time.Microsecond), most.Round(time.Microsecond))
			reached[bus] = append(reached[bus], float64(len(times))/took.Seconds())
			p50[bus], p99[bus] = append(p50[bus], half.Seconds()*1e3), append(p99[bus], most.Seconds()*1e3)
		}
	}
	for _, bus := range buses {
		rows = append(rows, LatencyRow{
			rate, bus, median(reached[bus]), median(p50[bus]), median(p99[bus]), ratio(p50[bus], p50[rawListen]),
			ratio(p99[bus], p99[rawListen]),
		})
	}
	return rows, nil
}

// latencyUnder is one round.
func (c Config) latencyUnder(ctx context.Context, program string, p *place, l *load, bus string,
	rate float64) (times []time.Duration, took time.Duration, err error) {
	triggers := bus
	if bus == rawListen {
		triggers = setting.Notify
	}
	if err := p.use(ctx, triggers); err != nil {
		return nil, 0, err
	}
	e := newReceived()
	clientsCtx, stop := context.WithCancel(ctx)
	g, gctx := errgroup.WithContext(clientsCtx)
	defer func() {
		stop()
		err = errors.Join(g.Wait(), err)
	}()
	if bus == rawListen {
		err = e.listen(gctx, g, p, p.topologies)
	} else {
		var s *server
		if s, err = startServer(ctx, program, p, bus, c.ServeFlags...); err != nil {
			return nil, 0, err
		}
		defer func() {
			stop() // the clients go first
			err = errors.Join(err, s.stop())
		}()
		err = e.follow(gctx, g, s, p.topologies)
	}
	if err != nil {
		return nil, 0, err
	}
	warm, err := l.pace(gctx, rate, min(c.Duration, time.Second), len(p.topologies))
	if err != nil {
		return nil, 0, err
	}
	if _, err := e.latencies(gctx, warm, 0); err != nil {
		return nil, 0, err
	}
	start := time.Now()
	events, err := l.pace(gctx, rate, c.Duration, len(p.topologies))
	if err != nil {
		return nil, 0, err
	}
	took = time.Since(start)
	times, err = e.latencies(gctx, events, len(warm))
	return times, took, err
}

// Panels are the report as drawings.
func (r *LatencyReport) Panels() (panels []chart.Panel) {
	for i, row := range r.Rows {
		if i == 0 || r.Rows[i-1].Rate != row.Rate {
			panels = append(panels, chart.Panel{Title: fmt.Sprintf("p99 in ms at %g events/s", row.Rate)})
		}
		p := &panels[len(panels)-1]
		p.Bars = append(p.Bars, chart.Bar{Name: row.Bus, Value: row.P99})
	}
	return panels
}

// String is the report as a table.
func (r *LatencyReport) String() string {
	t := newTable(len(r.Rows), "events/s", "bus", "reached", "p50", "p99", "p50 of raw LISTEN's", "p99 of raw LISTEN's")
	for _, row := range r.Rows {
		t = append(t, []string{
			fmt.Sprint(row.Rate), row.Bus, fmt.Sprintf("%.0f/s", row.Reached), fmt.Sprintf("%.2f ms", row.P50),
			fmt.Sprintf("%.2f ms", row.P99),
			fmt.Sprintf("%.2f ×", row.RatioP50), fmt.Sprintf("%.2f ×", row.RatioP99),
		})
	}
	edits := newTable(len(r.Edits), "from POST to mutation.applied at", "p50", "p99", "p50 of raw LISTEN's")
	for _, row := range r.Edits {
		edits = append(edits, []string{row.At, fmt.Sprintf("%.2f ms", row.P50), fmt.Sprintf("%.2f ms", row.P99),
			fmt.Sprintf("%.2f ×", row.RatioP50)})
	}
	return r.About.String() + t.String() + "\n" + edits.String()
}
