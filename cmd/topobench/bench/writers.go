package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"topostream/pgbus/setting"
)

// A WritersRow is what so many writers reached on a bus.
type WritersRow struct {
	Writers   int     `json:"writers"`
	SlowFlush bool    `json:"slow_flush"` // each flush waits for 2 ms (commit_delay)
	Bus       string  `json:"bus"`
	Rate      float64 `json:"transactions_per_second"`
	Ratio     float64 `json:"ratio_to_journal_alone"`
	Behind    float64 `json:"behind_seconds"` // from the last commit to the last event's arrival
}

// A WritersReport is what Writers found.
type WritersReport struct {
	About

	Costs []CostRow    `json:"costs"`
	Rows  []WritersRow `json:"rows"`
}

// Writers measures transactions a second of writers that commit durably as fast as they can: with the journal alone,
// with one server on notify, and with one on wal, each attached to all topologies; with the disk as it is and with a
// slow flush. Before, it measures what a statement costs a writer that is alone, beside the least that an event can
// cost.
func Writers(ctx context.Context, cfg Config, writers []int) (_ *WritersReport, err error) {
	costs, err := cfg.compareCosts(ctx)
	if err != nil {
		return nil, err
	}
	p, err := openPlace(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = p.close(err) }()
	report := &WritersReport{About: cfg.about(p), Costs: costs}
	for _, slow := range []bool{false, true} {
		for _, n := range writers {
			rows, err := cfg.compareWriters(ctx, p, n, slow)
			if err != nil {
				return nil, err
			}
			report.Rows = append(report.Rows, rows...)
		}
	}
	return report, nil
}

func (c Config) compareWriters(ctx context.Context, p *place, writers int, slow bool) ([]WritersRow, error) {
	var settings map[string]string
	if slow {
		settings = slowFlush
	}
	l, err := newLoad(ctx, p, writers, c.Seed, settings)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if _, _, err := l.flatOut(ctx, min(c.Duration, time.Second)); err != nil { // plans are made, pages read
		return nil, err
	}
	rates, behinds := map[string][]float64{}, map[string][]float64{}
	buses := []string{journal, setting.Notify, setting.WAL}
	for round := range c.Rounds {
		for _, bus := range buses {
			rate, behind, err := c.writeUnder(ctx, p, l, bus)
			if err != nil {
				return nil, fmt.Errorf("%d writers, %s: %w", writers, bus, err)
			}
			c.Log("round %d of %d, %d writers, slow flush %t, %s: %.0f/s", round+1, c.Rounds, writers, slow, bus, rate)
			rates[bus], behinds[bus] = append(rates[bus], rate), append(behinds[bus], behind.Seconds())
		}
	}
	var rows []WritersRow
	for _, bus := range buses {
		rows = append(rows, WritersRow{writers, slow, bus, median(rates[bus]), ratio(rates[bus], rates[journal]),
			median(behinds[bus])})
	}
	return rows, nil
}

// writeUnder is one round.
func (c Config) writeUnder(ctx context.Context, p *place, l *load, bus string) (rate float64, behind time.Duration,
	err error) {
	if err := p.use(ctx, bus); err != nil {
		return 0, 0, err
	}
	if bus == journal {
		events, took, err := l.flatOut(ctx, c.Duration)
		return float64(events) / took.Seconds(), 0, err
	}
	f, err := c.startFeeds(ctx, p, bus, len(p.topologies))
	if err != nil {
		return 0, 0, err
	}
	events, took, err := l.flatOut(ctx, c.Duration)
	end := time.Now()
	if err == nil {
		_, err = f.await(ctx, events)
	}
	behind = time.Since(end)
	if stop := f.stop(); err == nil {
		err = stop
	}
	return float64(events) / took.Seconds(), behind, err
}

// String is the report as a table.
func (r *WritersReport) String() string {
	costs := newTable(len(r.Costs), "bus", "one event by", "µs", "against", "ratio")
	for _, row := range r.Costs {
		costs = append(costs, []string{row.Bus, row.Statement, fmt.Sprintf("%.0f", row.Micros), row.Against,
			fmt.Sprintf("%.2f", row.Ratio)})
	}
	t := newTable(len(r.Rows), "flush", "writers", "bus", "transactions/s", "of journal alone", "last event came after")
	for _, row := range r.Rows {
		flush := "the disk's"
		if row.SlowFlush {
			flush = "2 ms more"
		}
		behind := "–"
		if row.Bus != journal {
			behind = fmt.Sprintf("%.2f s", row.Behind)
		}
		t = append(t, []string{flush, strconv.Itoa(row.Writers), row.Bus, fmt.Sprintf("%.0f", row.Rate),
			fmt.Sprintf("%.0f %%", 100*row.Ratio), behind})
	}
	return r.About.String() + costs.String() + "\n" + t.String()
}
