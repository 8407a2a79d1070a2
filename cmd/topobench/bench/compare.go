package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A ComparisonRow is what one server did in three measurements; a nil one is not for it.
type ComparisonRow struct {
	Server  string      `json:"server"`
	Connect *ConnectRow `json:"connect,omitempty"`
	Fanout  *FanoutRow  `json:"fanout,omitempty"`
	Spread  *SpreadRow  `json:"spread,omitempty"`
}

// A Comparison is what Compare found.
type Comparison struct {
	About

	Clients int             `json:"clients"`
	Rate    float64         `json:"events_per_second"`
	Rows    []ComparisonRow `json:"rows"`
	Failed  []PeerFailure   `json:"failed,omitempty"`
	Fanout  []Curve         `json:"fanout_curves"`
	Spread  []Curve         `json:"spread_curves"`
}

// A PeerFailure is a measurement that a peer did not stand.
type PeerFailure struct {
	Server      string `json:"server"`
	Measurement string `json:"measurement"`
	Reason      string `json:"reason"`
}

// Compare measures our server and others in one run: connections and a fan-out with plan.Clients clients of one
// topology, then the spread over plan.Topologies, each with one client. A peer that fails in one has no figure there,
// and the report says why.
func Compare(ctx context.Context, plan Plan) (_ *Comparison, err error) {
	plan.setDefaults()
	for _, peer := range plan.Peers {
		if err := peer.check(); err != nil {
			return nil, err
		}
	}
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &Comparison{About: plan.about(p), Clients: plan.Clients, Rate: plan.Rate}
	one := *p
	one.topologies = p.topologies[:1]
	connects, err := plan.connects(ctx, append(plan.servers(&one, "connect", report), plan.bareHijack(&one)))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	fanouts, curves, err := plan.fanouts(ctx, append(plan.servers(&one, "fan-out", report), plan.bareWrite(&one)))
	if err != nil {
		return nil, fmt.Errorf("fan-out: %w", err)
	}
	report.Fanout = curves
	plan.Clients = len(p.topologies)
	spreads, curves, err := plan.spreads(ctx, append(plan.servers(p, "spread", report), plan.rawListeners(p)...))
	if err != nil {
		return nil, fmt.Errorf("spread: %w", err)
	}
	report.Spread = curves
	report.Rows = joinRows(connects, fanouts, spreads)
	return report, nil
}

// servers are ours and the peers, whose failures are reported.
func (plan *Plan) servers(p *place, measurement string, report *Comparison) []subject {
	subjects := plan.subjects(p)
	for _, peer := range plan.Peers {
		sub := plan.peer(peer, p)
		sub.failed = func(err error) {
			report.Failed = append(report.Failed, PeerFailure{peer.Name, measurement, err.Error()})
		}
		subjects = append(subjects, sub)
	}
	return subjects
}

// joinRows has one row for each server, in the order in which they were named first.
func joinRows(connects []ConnectRow, fanouts []FanoutRow, spreads []SpreadRow) (rows []ComparisonRow) {
	at := map[string]int{}
	row := func(server string) *ComparisonRow {
		i, ok := at[server]
		if !ok {
			i = len(rows)
			at[server] = i
			rows = append(rows, ComparisonRow{Server: server})
		}
		return &rows[i]
	}
	for i := range connects {
		row(connects[i].Server).Connect = &connects[i]
	}
	for i := range fanouts {
		row(fanouts[i].Server).Fanout = &fanouts[i]
	}
	for i := range spreads {
		row(spreads[i].Server).Spread = &spreads[i]
	}
	return rows
}

// ReadPeers reads a file of peers:
//
//	peers:
//	  - name: pg_eventserv
//	    command: [pg_eventserv]
//	    env: {ES_HTTPPORT: "{port}", DATABASE_URL: "{database}"}
//	    url: "ws://127.0.0.1:{port}/listen/{topology}"
//	    publish: {notify: "{topology}"}
//	  - name: our portable engine
//	    serve: [--engine, portable]
//
// The fields are those of [Peer], [Target] and [Publish].
func ReadPeers(path string) ([]Peer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var file struct {
		Peers []Peer `yaml:"peers"`
	}
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Peers) == 0 {
		return nil, fmt.Errorf("%s: there are no peers", path)
	}
	names := map[string]bool{"topostream": true, "the server": true, bareWrite: true, bareHijack: true, rawListen: true}
	for _, peer := range file.Peers {
		if err := peer.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if names[peer.Name] {
			return nil, fmt.Errorf("%s: %w: %s", path, errTwice, peer.Name)
		}
		names[peer.Name] = true
	}
	return file.Peers, nil
}

var errTwice = errors.New("two servers have one name")

// String is the report as a table.
func (r *Comparison) String() string {
	t := newTable(len(r.Rows), "server", "connects", "idle connection", "deliveries a CPU-second", "fan-out p50", "p99",
		"spread p50", "p99")
	for _, row := range r.Rows {
		cells := []string{row.Server, "—", "—", "—", "—", "—", "—", "—"}
		if c := row.Connect; c != nil {
			cells[1], cells[2] = fmt.Sprintf("%.0f/s", c.PerSecond), figure("%.2f KiB", c.IdleKiB)
		}
		if f := row.Fanout; f != nil {
			cells[3], cells[4] = figure("%.0f", f.PerCPUSecond), fmt.Sprintf("%.2f ms", f.P50)
			cells[5] = fmt.Sprintf("%.2f ms", f.P99)
		}
		if s := row.Spread; s != nil {
			cells[6], cells[7] = fmt.Sprintf("%.2f ms", s.P50), fmt.Sprintf("%.2f ms", s.P99)
		}
		t = append(t, cells)
	}
	var failed strings.Builder
	for _, f := range r.Failed {
		fmt.Fprintf(&failed, "\n%s failed in %s: %s\n", f.Server, f.Measurement, f.Reason)
	}
	return r.About.String() + fmt.Sprintf("%d clients of one topology, then one of each; %g events/s\n\n", r.Clients,
		r.Rate) + t.String() + failed.String()
}
