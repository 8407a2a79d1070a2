package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"topostream/pgbus/setting"
)

// A ServersRow is what so many servers of ours cost one PostgreSQL. Times are CPU-seconds a second.
type ServersRow struct {
	Bus       string  `json:"bus"`
	Followed  int     `json:"followed"` // topologies that have a client on each server; of the others nobody follows any
	Servers   int     `json:"servers"`
	Theirs    float64 `json:"postgresql_for_servers"` // of PostgreSQL's processes for the servers, WAL senders included
	Writers   float64 `json:"postgresql_for_writers"`
	Ratio     float64 `json:"ratio_to_no_server"` // of both, to the writers' with no server on the same bus
	Server    float64 `json:"server"`             // of one server's own process; 0 without servers
	Bytes     float64 `json:"bytes"`              // a second, that the servers read, nearly all of it from PostgreSQL
	Delivered float64 `json:"delivered"`          // events a second to clients, of all servers
}

// A ServersSlope is what one more server adds, by least squares over all rows of a bus and a number of followed
// topologies.
type ServersSlope struct {
	Bus        string  `json:"bus"`
	Followed   int     `json:"followed"`
	PostgreSQL float64 `json:"postgresql"` // CPU-seconds a second, writers' processes included
	Theirs     float64 `json:"theirs"`     // of it, of the server's own connections, which other noise hits less
	Ratio      float64 `json:"ratio"`      // to the writers' with no server
	Bytes      float64 `json:"bytes"`      // a second
}

// A ServersReport is what Servers found.
type ServersReport struct {
	About

	Rate   float64        `json:"events_per_second"`
	Rows   []ServersRow   `json:"rows"`
	Slopes []ServersSlope `json:"slopes"`
}

// Servers measures what these numbers of servers of ours cost one PostgreSQL on each bus, while plan.Rate events a
// second are committed in all topologies alike; before them, with no server. On each server clients follow the first
// topologies, as many as followed says; each must get each event of those.
//
// PostgreSQL's work is that of its processes for the servers and for the writers: a NOTIFY has the writer wake each
// listener. It is read from /proc, so that the database must be on this machine; a connection that ends within a round
// takes its time with it.
func Servers(ctx context.Context, plan Plan, servers, followed []int) (_ *ServersReport, err error) {
	plan.setDefaults()
	p, done, err := plan.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = done(err) }()
	l, err := newLoad(ctx, p, 8, plan.Seed, nil)
	if err != nil {
		return nil, err
	}
	defer l.close()
	report := &ServersReport{About: plan.about(p), Rate: plan.Rate}
	for _, bus := range []string{setting.Notify, setting.WAL, setting.Poll} {
		plan.Bus = bus
		if err := p.use(ctx, bus); err != nil {
			return nil, err
		}
		none, err := plan.roundsOfServers(ctx, p, l, 0, 0)
		if err != nil {
			return nil, fmt.Errorf("no server on %s: %w", bus, err)
		}
		none.Ratio = 1
		report.Rows = append(report.Rows, none)
		for _, topologies := range followed {
			rows := []ServersRow{none}
			for _, n := range servers {
				row, err := plan.roundsOfServers(ctx, p, l, n, topologies)
				if err != nil {
					return nil, fmt.Errorf("%d servers on %s: %w", n, bus, err)
				}
				row.Ratio = (row.Theirs + row.Writers) / none.Writers
				rows = append(rows, row)
			}
			report.Rows = append(report.Rows, rows[1:]...)
			report.Slopes = append(report.Slopes, ServersSlope{
				Bus: bus, Followed: topologies,
				PostgreSQL: slope(rows, func(r ServersRow) float64 { return r.Theirs + r.Writers }),
				Theirs:     slope(rows, func(r ServersRow) float64 { return r.Theirs }),
				Ratio:      slope(rows, func(r ServersRow) float64 { return r.Ratio }),
				Bytes:      slope(rows, func(r ServersRow) float64 { return r.Bytes }),
			})
		}
	}
	return report, nil
}

// slope is that of the line through the rows by their number of servers, by least squares.
func slope(rows []ServersRow, value func(ServersRow) float64) float64 {
	var x, y, xx, xy float64
	for _, r := range rows {
		n, v := float64(r.Servers), value(r)
		x, y, xx, xy = x+n, y+v, xx+n*n, xy+n*v
	}
	n := float64(len(rows))
	return (n*xy - x*y) / (n*xx - x*x)
}

// roundsOfServers gives the medians of the rounds.
func (plan *Plan) roundsOfServers(ctx context.Context, p *place, l *load, servers, followed int) (row ServersRow,
	err error) {
	rounds := make([]ServersRow, plan.Rounds)
	for i := range rounds {
		if rounds[i], err = plan.runServers(ctx, p, l, servers, followed); err != nil {
			return row, err
		}
		plan.Log("round %d of %d, %s, %d servers, %d topologies followed: PostgreSQL %.3f s/s", i+1, plan.Rounds, plan.Bus,
			servers, followed, rounds[i].Theirs+rounds[i].Writers)
	}
	of := func(value func(ServersRow) float64) float64 { return median(each(rounds, value)) }
	return ServersRow{
		Bus: plan.Bus, Followed: followed, Servers: servers,
		Theirs:    of(func(r ServersRow) float64 { return r.Theirs }),
		Writers:   of(func(r ServersRow) float64 { return r.Writers }),
		Server:    of(func(r ServersRow) float64 { return r.Server }),
		Bytes:     of(func(r ServersRow) float64 { return r.Bytes }),
		Delivered: of(func(r ServersRow) float64 { return r.Delivered }),
	}, nil
}

// runServers is one round.
func (plan *Plan) runServers(ctx context.Context, p *place, l *load, servers, followed int) (row ServersRow,
	err error) {
	f := newFollowers(ctx)
	defer f.close()
	running := make([]*server, 0, servers)
	defer func() {
		f.close() // before their servers
		for _, s := range running {
			err = errors.Join(err, s.stop())
		}
	}()
	for range servers {
		s, err := plan.startOwn(ctx, p)
		if err != nil {
			return row, err
		}
		running = append(running, s)
		for _, id := range p.topologies[:followed] {
			if err := f.follow(s, "/topologies/"+id+"/events", "", "event: snapshot", false); err != nil {
				return row, err
			}
		}
	}
	if err := f.begun(ctx, plan.Patience); err != nil {
		return row, err
	}
	if plan.Bus == setting.WAL {
		const slots = `SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND active`
		if err := eventually(ctx, "each server's slot", func() (bool, error) {
			var n int
			err := p.conn.QueryRow(ctx, slots).Scan(&n)
			return n == servers, err
		}); err != nil {
			return row, err
		}
	}
	want := uint64(0)
	publish := func(d time.Duration) error {
		events, err := l.pace(ctx, plan.Rate, d, len(p.topologies))
		if err != nil {
			return err
		}
		for _, e := range events {
			if slices.Contains(p.topologies[:followed], e.topology) {
				want += uint64(servers)
			}
		}
		return eventually(ctx, "each event at each client", func() (bool, error) {
			if got := f.rows.Load(); got > want {
				return false, fmt.Errorf("clients got %d events instead of %d", got, want)
			}
			return f.rows.Load() == want, f.failure()
		})
	}
	if err := publish(min(plan.Duration, time.Second)); err != nil { // plans are made, pages read
		return row, err
	}
	before, err := p.useOfServers(ctx, running)
	if err != nil {
		return row, err
	}
	got := f.rows.Load()
	if err := publish(plan.Duration); err != nil {
		return row, err
	}
	after, err := p.useOfServers(ctx, running)
	if err != nil {
		return row, err
	}
	took := after.at.Sub(before.at).Seconds()
	return ServersRow{
		Theirs:    after.theirs.since(before.theirs).Seconds() / took,
		Writers:   after.writers.since(before.writers).Seconds() / took,
		Server:    (after.servers - before.servers).Seconds() / took / float64(max(1, servers)),
		Bytes:     float64(after.bytes-before.bytes) / took,
		Delivered: float64(f.rows.Load()-got) / took,
	}, nil
}

// A serversUse is what has been used by a moment.
type serversUse struct {
	at              time.Time
	theirs, writers backends
	servers         time.Duration // CPU time of all server processes
	bytes           uint64        // that they have read
}

func (p *place) useOfServers(ctx context.Context, running []*server) (u serversUse, err error) {
	const find = `
SELECT pid, application_name LIKE $1 || '%' FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()`
	rows, err := p.conn.Query(ctx, find, ownName)
	if err != nil {
		return u, fmt.Errorf("find PostgreSQL's processes: %w", err)
	}
	u.at, u.theirs, u.writers = time.Now(), backends{}, backends{}
	var (
		pid int
		own bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&pid, &own}, func() error {
		cpu, err := backendCPU(pid)
		if err != nil {
			return nil //nolint:nilerr // it has ended since, or the rest fails as well
		}
		if own {
			u.writers[pid] = cpu
		} else {
			u.theirs[pid] = cpu
		}
		return nil
	}); err != nil {
		return u, fmt.Errorf("find PostgreSQL's processes: %w", err)
	}
	if len(u.writers) == 0 {
		return u, errors.New("PostgreSQL's processes are not on this machine: no CPU time can be read")
	}
	for _, s := range running {
		cpu, err := processCPU(s.PID())
		if err != nil {
			return u, err
		}
		read, err := bytesRead(s.PID())
		if err != nil {
			return u, err
		}
		u.servers, u.bytes = u.servers+cpu, u.bytes+read
	}
	return u, nil
}

// bytesRead is what a process has read by read(2), from sockets, too (proc(5), rchar).
func bytesRead(pid int) (uint64, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, fmt.Errorf("bytes that process %d has read: %w", pid, err)
	}
	io, err := proc.IO()
	if err != nil {
		return 0, fmt.Errorf("bytes that process %d has read: %w", pid, err)
	}
	return io.RChar, nil
}

// String is the report as two tables.
func (r *ServersReport) String() string {
	t := newTable(len(r.Rows), "bus", "followed on each", "servers", "PostgreSQL for them", "for writers",
		"of no server's", "a server's CPU", "servers read", "to clients")
	for _, row := range r.Rows {
		t = append(t, []string{
			row.Bus, strconv.Itoa(row.Followed), strconv.Itoa(row.Servers), fmt.Sprintf("%.4f s/s", row.Theirs),
			fmt.Sprintf("%.4f s/s", row.Writers), fmt.Sprintf("%.2f ×", row.Ratio), fmt.Sprintf("%.4f s/s", row.Server),
			fmt.Sprintf("%.1f KiB/s", row.Bytes/1024), fmt.Sprintf("%.0f/s", row.Delivered),
		})
	}
	more := newTable(len(r.Slopes), "bus", "followed on each", "one more server: PostgreSQL", "of it its own",
		"of no server's", "PostgreSQL sends")
	for _, s := range r.Slopes {
		more = append(more, []string{
			s.Bus, strconv.Itoa(s.Followed), fmt.Sprintf("%+.4f s/s", s.PostgreSQL), fmt.Sprintf("%+.4f s/s", s.Theirs),
			fmt.Sprintf("%+.3f ×", s.Ratio), fmt.Sprintf("%+.1f KiB/s", s.Bytes/1024),
		})
	}
	return r.About.String() + fmt.Sprintf("%g events/s in all topologies alike\n\n", r.Rate) + t.String() + "\n" +
		more.String()
}
