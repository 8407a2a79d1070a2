package bench

import (
	"context"
	"fmt"
	"time"

	"topostream/cmd/topobench/fleet"
)

// A ConnectRow is what connections cost one server.
type ConnectRow struct {
	Server       string  `json:"server"`
	PerSecond    float64 `json:"connects_per_second"` // until each client is ready: with ours it has its document
	PerCPUSecond float64 `json:"connects_per_cpu_second"`
	IdleKiB      float64 `json:"idle_kib_per_connection"` // growth of the server's RssAnon over no clients
	Bytes        float64 `json:"bytes_per_connection"`    // head and document
	KeepaliveP50 float64 `json:"keepalive_p50_seconds"`   // silence before a comment; 0: none came
	KeepaliveMax float64 `json:"keepalive_max_seconds"`
	Silence      float64 `json:"longest_silence_seconds"` // of any client when the idle time was over
	RatioToBare  float64 `json:"connects_per_second_ratio_to_bare_hijack"`
}

// A ConnectReport is what Connect found.
type ConnectReport struct {
	About

	Clients int          `json:"clients"`
	Hold    float64      `json:"hold_seconds"`
	Rows    []ConnectRow `json:"rows"`
}

// Connect measures how many clients a second a server takes, each with its token and its document, and then what an
// idle connection costs in memory and whether keepalives come on time; beside it two bare servers, whose document has
// the same size. At the end each client must get two more events.
func Connect(ctx context.Context, plan Plan) (_ *ConnectReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &ConnectReport{About: plan.about(p), Clients: plan.Clients, Hold: plan.Hold.Seconds()}
	report.Rows, err = plan.connects(ctx, plan.subjects(p, plan.bareHijack(p), plan.bareHTTP(p)))
	return report, err
}

func (plan *Plan) connects(ctx context.Context, subjects []subject) (rows []ConnectRow, err error) {
	var as shape
	found, err := inRounds(ctx, plan, subjects, func(sub subject) (c connected, err error) {
		c, err = plan.connect(ctx, sub, as)
		if err == nil && as.document == 0 {
			as.document = max(1, int(c.bytes)-bareHead)
		}
		return c, err
	}, func(c connected) string {
		return fmt.Sprintf("%.0f connects/s, %.2f KiB each", c.perSecond, c.idle)
	})
	if err != nil {
		return nil, err
	}
	speed := func(c connected) float64 { return c.perSecond }
	for _, sub := range subjects {
		cs := found[sub.name]
		if len(cs) == 0 { // a peer that failed
			continue
		}
		row := ConnectRow{
			Server: sub.name, PerSecond: median(each(cs, speed)),
			PerCPUSecond: median(each(cs, func(c connected) float64 { return c.perCPU })),
			IdleKiB:      median(each(cs, func(c connected) float64 { return c.idle })),
			Bytes:        median(each(cs, func(c connected) float64 { return c.bytes })),
			KeepaliveP50: median(each(cs, func(c connected) float64 { return c.keepaliveP50 })),
			KeepaliveMax: median(each(cs, func(c connected) float64 { return c.keepaliveMax })),
			Silence:      median(each(cs, func(c connected) float64 { return c.silence.Seconds() })),
		}
		if by := found[bareHijack]; by != nil {
			row.RatioToBare = ratio(each(cs, speed), each(by, speed))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// bareHead is about how many bytes a bare server answers before the document.
const bareHead = 110

// connected is what one round found.
type connected struct {
	perSecond, perCPU, idle, bytes, keepaliveP50, keepaliveMax float64
	silence                                                    time.Duration
}

// connect is one round of one subject.
func (plan *Plan) connect(ctx context.Context, sub subject, as shape) (c connected, err error) {
	err = plan.with(ctx, sub, as, func(r *running, s *eventSource) error {
		var before uint64
		if r.hasProcess() {
			if before, err = r.lowest(ctx, plan.MemoryFall); err != nil {
				return err
			}
		}
		clients, err := plan.fleet(r, s)
		if err != nil {
			return err
		}
		defer clients.Close()
		if c, err = plan.connectAll(ctx, r, clients); err != nil {
			return err
		}
		if err := plan.hold(ctx, r, clients, &c); err != nil {
			return err
		}
		if r.hasProcess() {
			after, err := r.lowest(ctx, plan.MemoryFall)
			if err != nil {
				return err
			}
			c.idle = (float64(after) - float64(before)) / 1024 / float64(plan.Clients)
		}
		return plan.twoMore(ctx, s, clients)
	})
	return c, err
}

// connectAll has all clients connect, and gives what that took.
func (plan *Plan) connectAll(ctx context.Context, r *running, clients *fleet.Fleet) (c connected, err error) {
	cpu, _, err := cpuOf(r.target.PID)
	if err != nil {
		return c, err
	}
	took, err := clients.Connect(ctx, plan.Clients)
	if err != nil {
		return c, err
	}
	cpuAfter, _, err := cpuOf(r.target.PID)
	if err != nil {
		return c, err
	}
	tally := clients.Take()
	c.perSecond, c.perCPU = perSecond(plan.Clients, took), perSecond(plan.Clients, cpuAfter-cpu)
	c.bytes = float64(tally.Bytes) / float64(plan.Clients)
	return c, tally.Err()
}

// hold leaves the connections idle. A bare server sends no keepalives.
func (plan *Plan) hold(ctx context.Context, r *running, clients *fleet.Fleet, c *connected) error {
	if r.bare {
		return nil
	}
	select {
	case <-time.After(plan.Hold):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.silence = clients.LongestSilence()
	tally := clients.Take()
	if tally.Silence.TotalCount() > 0 {
		c.keepaliveP50, c.keepaliveMax = milliseconds(tally.Silence, 50)/1e3, milliseconds(tally.Silence, 100)/1e3
	}
	return tally.Err()
}

// twoMore sends two events to each topology, which each client must get: were the first one doubled, its double would
// come before the second.
func (plan *Plan) twoMore(ctx context.Context, s *eventSource, clients *fleet.Fleet) error {
	want := clients.Delivered() - s.deliveries(plan.Clients)
	if err := s.publishInEach(ctx, 2); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, plan.Patience, errLate)
	defer cancel()
	if err := clients.Await(ctx, want+s.deliveries(plan.Clients)); err != nil {
		return err
	}
	return clients.Broken()
}

// String is the report as a table.
func (r *ConnectReport) String() string {
	t := newTable(len(r.Rows), "server", "connects", "of bare hijack's", "connects a CPU-second", "idle connection",
		"bytes each", "keepalives p50", "max", "longest silence")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Server, fmt.Sprintf("%.0f/s", row.PerSecond), figure("%.2f ×", row.RatioToBare),
			figure("%.0f", row.PerCPUSecond), figure("%.2f KiB", row.IdleKiB), fmt.Sprintf("%.0f", row.Bytes),
			figure("%.2f s", row.KeepaliveP50), figure("%.2f s", row.KeepaliveMax), figure("%.2f s", row.Silence),
		})
	}
	return r.About.String() + fmt.Sprintf("%d clients, idle for %gs\n\n", r.Clients, r.Hold) + t.String()
}
