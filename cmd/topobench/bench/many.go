package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"topostream/harness/metric"
)

// A ManyRow is what streams of the same topologies cost our server.
type ManyRow struct {
	Streams  int     `json:"streams"`
	Each     int     `json:"topologies_each"`
	Attaches float64 `json:"attach_transactions"` // of the server
	Memory   float64 `json:"memory_kib"`          // RssAnon of the server, after collection
	Growth   float64 `json:"growth_kib"`          // over no clients
}

// A ManyReport is what Many found.
type ManyReport struct {
	About

	Rows []ManyRow `json:"rows"`
}

// Many measures what one stream of all topologies costs our server, beside a stream for each.
func Many(ctx context.Context, plan Plan) (_ *ManyReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	report := &ManyReport{About: plan.about(p)}
	for _, streams := range []int{1, len(p.topologies)} {
		row, err := plan.many(ctx, p, streams)
		if err != nil {
			return nil, err
		}
		report.Rows = append(report.Rows, row)
	}
	return report, nil
}

func (plan *Plan) many(ctx context.Context, p *place, streams int) (row ManyRow, err error) {
	s, err := plan.startOwn(ctx, p)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r := &running{target: Target{PID: s.PID(), GC: s.metrics + "/debug/free"}}
	before, err := r.lowest(ctx, plan.MemoryFall)
	if err != nil {
		return row, err
	}
	f := newFollowers(ctx)
	defer f.close()
	if row.Streams, row.Each = streams, len(p.topologies)/streams; streams == 1 {
		body := bytes.NewBufferString(`{"topologies":{`)
		for i, id := range p.topologies {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(body, "%q:null", id)
		}
		body.WriteString("}}")
		err = f.followAll(s, "/events", body.String(), "event: snapshot", len(p.topologies))
	} else {
		for _, id := range p.topologies {
			err = errors.Join(err, f.follow(s, "/topologies/"+id+"/events", "", "event: snapshot", false))
		}
	}
	if err = errors.Join(err, f.begun(ctx, plan.Patience)); err != nil {
		return row, err
	}
	if row.Attaches, err = metric.Read(ctx, s.metrics, "topostream_attach_batch_topologies_count"); err != nil {
		return row, err
	}
	after, err := r.lowest(ctx, plan.MemoryFall)
	row.Memory, row.Growth = float64(after)/1024, (float64(after)-float64(before))/1024
	return row, err
}

// String is the report as a table.
func (r *ManyReport) String() string {
	t := newTable(len(r.Rows), "streams", "topologies of each", "attach transactions", "memory", "over no clients")
	for _, row := range r.Rows {
		t = append(t, []string{strconv.Itoa(row.Streams), strconv.Itoa(row.Each), fmt.Sprintf("%.0f", row.Attaches),
			fmt.Sprintf("%.0f KiB", row.Memory), fmt.Sprintf("%+.0f KiB", row.Growth)})
	}
	return r.About.String() + t.String()
}
