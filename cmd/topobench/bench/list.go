package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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

// List measures what the list of topologies costs our server and its database: plan.Clients clients of the whole list
// while plan.Rate topologies a second change, one after the other; before them the same without clients. Each client
// must get each change.
//
// Transactions are those that the database counts (pg_stat_database), without those of who changes and who watches,
// from the first change until some seconds after the last, when all are reported. Each NOTIFY that a LISTEN connection
// is woken by is one of them, also without clients of the list: what the list costs is what there are more with them.
func List(ctx context.Context, plan Plan) (_ *ListReport, err error) {
	plan.fill()
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

// own starts our server, with metrics of its own, and figures in our own time.
func (plan *Plan) own(ctx context.Context, p *place) (*server, error) {
	args := append([]string{"--rate-limit", "0", "--metrics-addr", "127.0.0.1:0", "--pprof"}, plan.ServeFlags...)
	return startServer(ctx, plan.Topostream, p, plan.Bus, args...)
}

// list is one measurement.
func (plan *Plan) list(ctx context.Context, p *place, clients int) (row ListRow, err error) {
	s, err := plan.own(ctx, p)
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
	watch, err := watchDatabase(ctx, p, plan.StatsSettle)
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

// close ends a watch whose figures nobody wants.
func (w *databaseWatch) close() error {
	if w == nil {
		return nil
	}
	w.stop()
	<-w.most
	return w.conn.Close(context.Background())
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

// A ManyRow is what streams of the same topologies cost our server.
type ManyRow struct {
	Streams  int     `json:"streams"`
	Each     int     `json:"topologies_each"`
	Attaches float64 `json:"attach_transactions"`
	Memory   float64 `json:"memory_kib"` // RssAnon of the server, after collection
	Growth   float64 `json:"growth_kib"` // over no clients
}

// A ManyReport is what Many found.
type ManyReport struct {
	About

	Rows []ManyRow `json:"rows"`
}

// Many measures what one stream of all topologies costs our server, beside a stream for each.
func Many(ctx context.Context, plan Plan) (_ *ManyReport, err error) {
	plan.fill()
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
	s, err := plan.own(ctx, p)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r := &running{target: Target{PID: s.PID(), GC: s.metrics + "/debug/free"}}
	before, err := r.settled(ctx, plan.MemorySettle)
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
	after, err := r.settled(ctx, plan.MemorySettle)
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

// followers are clients that count, and keep nothing.
type followers struct {
	ctx     context.Context //nolint:containedctx // of their connections
	cancel  context.CancelCauseFunc
	all     errgroup.Group
	client  *http.Client
	made    int
	ready   atomic.Int64 // clients that have what a stream begins with
	rows    atomic.Uint64
	closing atomic.Bool
}

func newFollowers(ctx context.Context) *followers {
	f := &followers{client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	return f
}

func (f *followers) close() {
	f.closing.Store(true)
	f.cancel(os.ErrClosed)
	_ = f.all.Wait() // what ended one was seen, or is the close
}

// failure is why one ended.
func (f *followers) failure() error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	return nil
}

// follow follows a stream, which has begun with the line that holds mark. Where wait is true it returns then.
func (f *followers) follow(s *server, path, body, mark string, wait bool) error {
	if err := f.followAll(s, path, body, mark, 1); err != nil || !wait {
		return err
	}
	return f.begun(f.ctx, time.Minute)
}

// followAll follows a stream that has begun with the n-th line that holds mark.
func (f *followers) followAll(s *server, path, body, mark string, n int) error {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(f.ctx, method, s.url+"/api/v1"+path, bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	f.made++
	f.all.Go(func() error {
		err := f.read(req, []byte(mark), n)
		if !f.closing.Load() {
			f.cancel(fmt.Errorf("a client's stream ended: %w", err))
		}
		return err
	})
	return nil
}

func (f *followers) read(req *http.Request, mark []byte, n int) error {
	res, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	var before []byte // the end of what a long line has so far
	for lines := bufio.NewReaderSize(res.Body, 8<<10); ; {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			before = append(before[:0], line[len(line)-len(mark):]...)
			continue
		}
		if err != nil {
			return err
		}
		if len(before) > 0 {
			line, before = append(before, line...), nil
		}
		if bytes.Equal(line, []byte("event: topology\n")) || bytes.Equal(line, []byte("event: bench\n")) {
			f.rows.Add(1)
		}
		if n > 0 && bytes.Contains(line, mark) {
			if n--; n == 0 {
				f.ready.Add(1)
			}
		}
	}
}

// begun waits until all streams have.
func (f *followers) begun(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return eventually(ctx, "all streams to begin", func() (bool, error) {
		return f.ready.Load() == int64(f.made), f.failure()
	})
}
