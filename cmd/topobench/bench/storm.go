package bench

import (
	"context"
	"fmt"
	"time"

	"topostream/cmd/topobench/fleet"
)

// A StormRow is what one server did when all its clients came back at once.
type StormRow struct {
	Server       string  `json:"server"`
	Connect      float64 `json:"connect_seconds"` // of the same clients, before
	Storm        float64 `json:"storm_seconds"`   // until each had its document or its missing events
	Ratio        float64 `json:"storm_ratio_to_connect"`
	CPU          float64 `json:"storm_cpu_seconds"` // of the server's process
	Again        float64 `json:"connections_made_anew"`
	Backends     float64 `json:"backends"`     // of the database, the most at once, without ours
	Transactions float64 `json:"transactions"` // of the database meanwhile, without ours
}

// A StormReport is what Storm found.
type StormReport struct {
	About

	Clients int        `json:"clients"`
	Missed  int        `json:"missed_events"` // of each topology
	Rows    []StormRow `json:"rows"`
}

// Storm connects clients, cuts all of them, has events published that they miss, and lets them come back at once,
// whatever `retry` they were told, until each has its document or its missing events. Meanwhile it counts what the
// server does to its database. In the end each client must get two more events.
func Storm(ctx context.Context, plan Plan) (_ *StormReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &StormReport{About: plan.about(p), Clients: plan.Clients, Missed: plan.Missed}
	subjects := plan.subjects(p)
	found, err := inRounds(ctx, &plan, subjects, func(sub subject) (stormed, error) {
		return plan.storm(ctx, sub, p)
	}, func(s stormed) string {
		return fmt.Sprintf("connect %.2fs, storm %.2fs, %d transactions", s.connect.Seconds(), s.storm.Seconds(),
			s.use.transactions)
	})
	if err != nil {
		return nil, err
	}
	for _, sub := range subjects {
		report.Rows = append(report.Rows, stormRow(sub.name, found[sub.name]))
	}
	return report, nil
}

func stormRow(name string, found []stormed) StormRow {
	connect := each(found, func(s stormed) float64 { return s.connect.Seconds() })
	storm := each(found, func(s stormed) float64 { return s.storm.Seconds() })
	return StormRow{
		Server: name, Connect: median(connect), Storm: median(storm), Ratio: ratio(storm, connect),
		CPU:          median(each(found, func(s stormed) float64 { return s.cpu.Seconds() })),
		Again:        median(each(found, func(s stormed) float64 { return float64(s.again) })),
		Backends:     median(each(found, func(s stormed) float64 { return float64(s.use.backends) })),
		Transactions: median(each(found, func(s stormed) float64 { return float64(s.use.transactions) })),
	}
}

// stormed is what one round found.
type stormed struct {
	connect, storm, cpu time.Duration
	again               uint64
	use                 databaseUse
}

// storm is one round of one subject.
func (plan *Plan) storm(ctx context.Context, sub subject, p *place) (found stormed, err error) {
	err = plan.with(ctx, sub, shape{}, func(r *running, s *eventSource) error {
		clients, err := plan.fleet(r, s)
		if err != nil {
			return err
		}
		defer clients.Close()
		if found.connect, err = clients.Connect(ctx, plan.Clients); err != nil {
			return err
		}
		if err := plan.twoMore(ctx, s, clients); err != nil { // each client has a number to come back with
			return err
		}
		clients.Take()
		clients.Cut()
		if err := s.publishInEach(ctx, max(1, plan.Missed)); err != nil {
			return err
		}
		if err := plan.comeBack(ctx, r, clients, p, &found); err != nil {
			return err
		}
		return plan.twoMore(ctx, s, clients)
	})
	return found, err
}

// comeBack waits until the clients are back. They are away for plan.StatsReport: that the LISTEN connection reads a
// notification of what they miss is a transaction, too, and none of the storm's.
func (plan *Plan) comeBack(
	ctx context.Context, r *running, clients *fleet.Fleet, p *place, found *stormed,
) (err error) {
	watch, err := watchDatabase(ctx, p, plan.StatsReport)
	if err != nil {
		return err
	}
	defer func() {
		use, end := watch.end(ctx)
		if found.use = use; err == nil {
			err = end
		}
	}()
	cpu, _, err := cpuOf(r.target.PID)
	if err != nil {
		return err
	}
	if found.storm, err = clients.Return(ctx); err != nil {
		return err
	}
	cpuAfter, _, err := cpuOf(r.target.PID)
	if err != nil {
		return err
	}
	tally := clients.Take()
	found.cpu, found.again = cpuAfter-cpu, tally.Again
	return tally.Err()
}

// String is the report as a table.
func (r *StormReport) String() string {
	t := newTable(len(r.Rows), "server", "connect", "storm", "of connect's", "CPU of the storm", "made anew", "backends",
		"transactions")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Server, fmt.Sprintf("%.2f s", row.Connect), fmt.Sprintf("%.2f s", row.Storm),
			fmt.Sprintf("%.2f ×", row.Ratio), figure("%.2f s", row.CPU), fmt.Sprintf("%.0f", row.Again),
			figure("%.0f", row.Backends), figure("%.0f", row.Transactions),
		})
	}
	return r.About.String() + fmt.Sprintf("%d clients, each misses %d events\n\n", r.Clients, r.Missed) + t.String()
}
