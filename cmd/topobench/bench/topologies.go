package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"topostream/pgbus/setting"
)

// A TopologiesRow is what an event costs with so many topologies attached.
type TopologiesRow struct {
	Bus        string  `json:"bus"`
	Attached   int     `json:"attached"`
	Server     float64 `json:"server_us_per_event"`     // CPU time of the server
	PostgreSQL float64 `json:"postgresql_us_per_event"` // CPU time of the server's connections in PostgreSQL
	Event      float64 `json:"us_per_event"`            // both
	Ratio      float64 `json:"ratio_to_fewest"`         // of both, to the same bus with the fewest topologies
	Idle       float64 `json:"idle_ms_per_second"`      // CPU time of both while nothing happens
}

// A TopologiesReport is what Topologies found.
type TopologiesReport struct {
	About

	EventRate float64         `json:"events_per_second"`
	Rows      []TopologiesRow `json:"rows"`
}

// Topologies measures what the delivery of an event costs one server with these numbers of topologies attached, on
// notify and on wal, at a fixed rate.
//
// The cost is CPU time: that of the server, and that of its own connections in PostgreSQL (listener or WAL sender, and
// its pool), less what both use while idle. Latency would show nothing before the walk through the list of channels
// takes longer than the pause between two events. Writers are not counted: they pay the same however many topologies
// are attached. cfg.DatabaseURL, if it is given, must lead to a server on this machine: the CPU time of its processes
// is read here.
func Topologies(ctx context.Context, cfg Config, attached []int, rate float64) (_ *TopologiesReport, err error) {
	cfg.Topologies = slices.Max(attached)
	p, err := openPlace(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = p.close(err) }()
	l, err := newLoad(ctx, p, 8, cfg.Seed, nil)
	if err != nil {
		return nil, err
	}
	defer l.close()
	// plans are made, pages read
	if _, err := l.pace(ctx, rate, min(cfg.Duration, time.Second), cfg.Topologies); err != nil {
		return nil, err
	}
	report := &TopologiesReport{About: cfg.about(p), EventRate: rate}
	buses := []string{setting.Notify, setting.WAL}
	costs := map[string]map[int][]cost{setting.Notify: {}, setting.WAL: {}}
	for round := range cfg.Rounds {
		for _, n := range attached {
			for _, bus := range buses {
				c, err := cfg.deliver(ctx, p, l, bus, n, rate)
				if err != nil {
					return nil, fmt.Errorf("%d topologies on %s: %w", n, bus, err)
				}
				cfg.Log("round %d of %d, %d topologies, %s: %.1f µs/event", round+1, cfg.Rounds, n, bus,
					c.server+c.postgres)
				costs[bus][n] = append(costs[bus][n], c)
			}
		}
	}
	for _, bus := range buses {
		fewest := each(costs[bus][slices.Min(attached)], cost.event)
		for _, n := range attached {
			c := costs[bus][n]
			report.Rows = append(report.Rows, TopologiesRow{
				bus, n, median(each(c, func(c cost) float64 { return c.server })),
				median(each(c, func(c cost) float64 { return c.postgres })),
				median(each(c, cost.event)), ratio(each(c, cost.event), fewest),
				median(each(c, func(c cost) float64 { return c.idle })),
			})
		}
	}
	return report, nil
}

// A cost is what one round found: µs an event, and ms a second while idle.
type cost struct{ server, postgres, idle float64 }

func (c cost) event() float64 { return c.server + c.postgres }

// deliver is one round: as long idle as under load, so that the heartbeat falls into both alike.
func (c Config) deliver(ctx context.Context, p *place, l *load, bus string, attached int, rate float64) (_ cost,
	err error) {
	if err := p.use(ctx, bus); err != nil {
		return cost{}, err
	}
	f, err := c.startFeeds(ctx, p, bus, attached)
	if err != nil {
		return cost{}, err
	}
	defer func() {
		if stop := f.stop(); err == nil {
			err = stop
		}
	}()
	warm, err := l.pace(ctx, rate, min(c.Duration, time.Second), attached)
	if err != nil {
		return cost{}, err
	}
	before, err := c.spent(ctx, p, f, uint64(len(warm)))
	if err != nil {
		return cost{}, err
	}
	select {
	case <-time.After(c.Duration):
	case <-ctx.Done():
		return cost{}, ctx.Err()
	}
	idle, err := c.spent(ctx, p, f, uint64(len(warm)))
	if err != nil {
		return cost{}, err
	}
	events, err := l.pace(ctx, rate, c.Duration, attached)
	if err != nil {
		return cost{}, err
	}
	after, err := c.spent(ctx, p, f, uint64(len(warm)+len(events)))
	if err != nil {
		return cost{}, err
	}
	took := after.at.Sub(idle.at).Seconds() / idle.at.Sub(before.at).Seconds() // of load, by that of idleness
	perEvent := func(load, idle time.Duration) float64 {
		return (load - time.Duration(float64(idle)*took)).Seconds() * 1e6 / float64(len(events))
	}
	return cost{
		server:   perEvent(after.server-idle.server, idle.server-before.server),
		postgres: perEvent(after.postgres.since(idle.postgres), idle.postgres.since(before.postgres)),
		idle: (idle.server - before.server +
			idle.postgres.since(before.postgres)).Seconds() * 1e3 / idle.at.Sub(before.at).Seconds(),
	}, nil
}

// A spending is the CPU time used by a moment.
type spending struct {
	at       time.Time
	server   time.Duration
	postgres backends
}

// spent waits for n events to have come.
func (c Config) spent(ctx context.Context, p *place, f *feedsProcess, n uint64) (s spending, err error) {
	u, err := f.await(ctx, n)
	if err != nil {
		return s, err
	}
	s.at, s.server = time.Now(), u.CPU
	s.postgres, err = p.backendsCPU(ctx)
	return s, err
}

// String is the report as a table.
func (r *TopologiesReport) String() string {
	t := newTable(len(r.Rows), "bus", "attached", "µs CPU an event", "of it server", "of it PostgreSQL", "of fewest",
		"idle, ms CPU a second")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Bus, strconv.Itoa(row.Attached), fmt.Sprintf("%.1f", row.Event), fmt.Sprintf("%.1f", row.Server),
			fmt.Sprintf("%.1f", row.PostgreSQL),
			fmt.Sprintf("%.2f ×", row.Ratio), fmt.Sprintf("%.1f", row.Idle),
		})
	}
	return r.About.String() +
		fmt.Sprintf("%g events/s; CPU time of the server and of its connections in PostgreSQL\n\n", r.EventRate) +
		t.String()
}
