package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"topostream/harness/metric"
)

// A ListRow is what our server did while topologies changed.
type ListRow struct {
	Clients      int     `json:"clients"`      // of the list; 0: the same without any
	Server       float64 `json:"server_cpu"`   // CPU seconds a second of the server
	Transactions float64 `json:"transactions"` // of the server, for each second of changes: see List
	Reads        float64 `json:"list_reads"`   // statements a second that the server says it read the list by
	Rows         float64 `json:"rows"`         // changed rows a second that clients got
}

// A ListReport is what List found.
type ListReport struct {
	About

	Rate float64   `json:"changes_per_second"`
	Rows []ListRow `json:"rows"`
}

// List measures what the list of topologies costs our server and its database: plan.Clients clients follow the whole
// list while plan.Rate topologies a second change, one after the other; before, it measures the same without clients.
// Each client must get each change.
//
// Transactions are those that the database counts (pg_stat_database), without those of who changes and who watches,
// from the first change until some seconds after the last, when all are reported. Each NOTIFY that a LISTEN connection
// is woken by is one of them, also without clients of the list: the list costs what there are more with clients.
func List(ctx context.Context, plan Plan) (_ *ListReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &ListReport{About: plan.about(p), Rate: plan.Rate}
	for _, clients := range []int{0, plan.Clients} {
		row, err := plan.list(ctx, p, clients)
		if err != nil {
			return nil, fmt.Errorf("%d clients: %w", clients, err)
		}
		report.Rows = append(report.Rows, row)
	}
	return report, nil
}

// list is one measurement.
func (plan *Plan) list(ctx context.Context, p *place, clients int) (row ListRow, err error) {
	s, err := plan.startOwn(ctx, p)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	f := newFollowers(ctx)
	defer f.close()
	for n := range clients {
		if err := f.follow(s, "/topologies/events", "", `,"more":false}`, n == 0); err != nil {
			return row, err
		}
	}
	if err := f.begun(ctx, plan.Patience); err != nil {
		return row, err
	}
	watch, err := watchDatabase(ctx, p, plan.StatsReport)
	if err != nil {
		return row, err
	}
	reads, err := metric.Read(ctx, s.metrics, "topostream_list_reads_total")
	if err != nil {
		return row, errors.Join(err, watch.close())
	}
	before, _, err := cpuOf(s.PID())
	if err != nil {
		return row, errors.Join(err, watch.close())
	}
	start, got := time.Now(), f.rows.Load()
	changes, err := plan.change(ctx, p)
	if err == nil {
		err = eventually(ctx, "each change at each client", func() (bool, error) {
			return f.rows.Load()-got >= uint64(clients*changes), f.failure()
		})
	}
	took := time.Since(start).Seconds()
	after, _, cpuErr := cpuOf(s.PID())
	readsAfter, readsErr := metric.Read(ctx, s.metrics, "topostream_list_reads_total")
	use, useErr := watch.end(ctx)
	if err := errors.Join(err, cpuErr, readsErr, useErr); err != nil {
		return row, err
	}
	return ListRow{
		Clients: clients, Server: (after - before).Seconds() / took,
		Transactions: float64(use.transactions-changes) / took, Reads: (readsAfter - reads) / took,
		Rows: float64(f.rows.Load()-got) / took,
	}, nil
}

// change changes topologies at the rate, each in a transaction of its own, and gives how many.
func (plan *Plan) change(ctx context.Context, p *place) (n int, err error) {
	const change = `UPDATE topologies SET reason = $2 WHERE id = $1::uuid`
	gap, start := time.Duration(float64(time.Second)/plan.Rate), time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ; time.Since(start) < plan.Duration; n++ {
		timer.Reset(time.Until(start.Add(gap * time.Duration(n))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if _, err := p.conn.Exec(ctx, change, p.topologies[n%len(p.topologies)], start.Format(time.RFC3339Nano)+
			strconv.Itoa(n)); err != nil {
			return n, fmt.Errorf("change a topology: %w", err)
		}
	}
	return n, nil
}

// String is the report as a table.
func (r *ListReport) String() string {
	t := newTable(len(r.Rows), "clients of the list", "server's CPU", "its transactions", "more by the list",
		"reads of the list", "rows to clients")
	for _, row := range r.Rows {
		t = append(t, []string{
			strconv.Itoa(row.Clients), fmt.Sprintf("%.3f s/s", row.Server), fmt.Sprintf("%.1f/s", row.Transactions),
			fmt.Sprintf("%.1f/s", row.Transactions-r.Rows[0].Transactions),
			fmt.Sprintf("%.1f/s", row.Reads), fmt.Sprintf("%.0f/s", row.Rows),
		})
	}
	return r.About.String() + fmt.Sprintf("%g changes/s\n\n", r.Rate) + t.String()
}
