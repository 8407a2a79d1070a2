package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
	following "topostream/stream/client"
)

// A lister follows the list of topologies, and maybe some topologies beside it, by the client that users have
// (stream/client). What it shows at the end must be what the table holds.
type lister struct {
	run     *run
	name    string
	rng     *rand.Rand
	request following.ListRequest
	ids     []string // of the topologies that its token is limited to; nil: all
	restive bool     // it leaves now and then, and comes again

	mu     sync.Mutex
	list   following.List
	newest map[stream.TopologyID]stream.Seq // of each row in this connection, those that are gone, too
}

// makeListers makes the clients of the list.
func (r *run) makeListers() {
	if r.cfg.Single {
		return
	}
	add := func(name string, req following.ListRequest) *lister {
		l := &lister{run: r, name: name, request: req, rng: rand.New(rand.NewPCG(r.cfg.Seed, uint64(2_000+len(r.listers))))}
		r.listers = append(r.listers, l)
		return l
	}
	add("list", following.ListRequest{})
	add("list, restive", following.ListRequest{}).restive = true
	add("list of the active", following.ListRequest{Statuses: []string{"active"}})
	var beside []following.Request
	for _, t := range r.plain[:min(3, len(r.plain))] {
		beside = append(beside, following.Request{Topology: stream.TopologyID(t.id)})
	}
	add("list beside topologies", following.ListRequest{Topologies: beside})
	if r.cfg.Limited != nil {
		add("list of some", following.ListRequest{}).ids = idsOf(r.topologies[:(len(r.topologies)+1)/2])
	}
}

// follow reads until ctx ends.
func (l *lister) follow(ctx context.Context) {
	transport := &http.Transport{DisableCompression: true, ResponseHeaderTimeout: 20 * time.Second}
	defer transport.CloseIdleConnections()
	c := following.Client{
		URL: "http://topocheck", Transport: elsewhere{l, transport}, Keepalive: l.run.cfg.Idle / 3, Token: l.token,
		LeastWait: 50 * time.Millisecond, MostWait: 2 * time.Second,
	}
	for ctx.Err() == nil {
		err := l.read(ctx, &c)
		if err != nil && ctx.Err() == nil {
			l.judge(err)
		}
		pause(ctx, 10*time.Millisecond+time.Duration(l.rng.Int64N(int64(200*time.Millisecond))))
	}
}

func (l *lister) token(context.Context) (string, error) {
	subject := "topocheck-" + url.PathEscape(l.name)
	if l.ids != nil {
		return l.run.cfg.Limited(subject, l.ids)
	}
	return l.run.cfg.Token(subject)
}

// elsewhere sends each request to one of the servers that there are now.
type elsewhere struct {
	lister *lister
	to     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (e elsewhere) RoundTrip(req *http.Request) (*http.Response, error) {
	base, err := url.Parse(e.lister.run.server(e.lister.rng))
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.Host = base.Scheme, base.Host, ""
	e.lister.run.stats.listConnections.Add(1)
	e.lister.connects()
	return e.to.RoundTrip(req)
}

// connects begins a connection. Within one no row may go back; the next may be to a server that is behind.
func (l *lister) connects() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = map[stream.TopologyID]stream.Seq{}
}

// read reads until the client ends, which it does by itself only where that is final, or until this one leaves.
func (l *lister) read(ctx context.Context, c *following.Client) error {
	leave := 1 + l.rng.IntN(20)
	for event, err := range c.FollowList(ctx, l.request) {
		if err != nil {
			return err
		}
		l.take(event)
		if leave--; l.restive && leave < 0 && !l.run.calmed.Load() {
			return nil
		}
	}
	return nil
}

func (l *lister) take(e following.Event) {
	if e.Journaled || e.Type == following.TypeSnapshot {
		for i := range l.request.Topologies { // whoever begins anew goes on there
			if req := &l.request.Topologies[i]; req.Topology == e.Topology {
				req.Resume, req.After = true, e.Seq
			}
		}
	}
	if e.List == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list.Take(e.List)
	for _, row := range e.List.Rows {
		l.run.stats.listRows.Add(1)
		last := l.newest[row.ID]
		if last.Epoch() == row.Seq.Epoch() && row.Seq < last {
			l.report(Back, string(row.ID), row.Seq, last, "an older row of the list came after a newer one")
		}
		l.newest[row.ID] = row.Seq
	}
}

func (l *lister) report(kind Kind, topology string, seq, last stream.Seq, detail string) {
	l.run.violations.add(Violation{
		Kind: kind, Client: l.name, ClientKind: "list", Topology: topology, Seq: uint64(seq), Previous: uint64(last),
		At: l.run.since(), Fault: l.run.faults.now(), Detail: detail,
	})
}

// judge reports why the client ended: it comes back by itself from whatever is no violation.
func (l *lister) judge(err error) {
	broken, ok := errors.AsType[*following.BrokenError](err)
	if !ok {
		l.report(Refused, "", 0, 0, err.Error())
		return
	}
	kind := Torn
	switch broken.Fault {
	case following.Hole:
		kind = Lost
	case following.Repeated:
		kind = Doubled
	case following.Backwards:
		kind = Back
	case following.Unfounded, following.AfterDeleted:
		kind = Reordered
	case following.Mislabelled, following.Unreadable:
	}
	l.report(kind, string(broken.Topology), broken.Seq, broken.Last, err.Error())
}

// shows tells whether a row of the table belongs in this lister's list.
func (l *lister) shows(row following.Row) bool {
	return (l.ids == nil || slices.Contains(l.ids, string(row.ID))) &&
		(l.request.Statuses == nil || slices.Contains(l.request.Statuses, row.Status))
}

// A rowFault is a row of a list that is not the table's.
type rowFault struct {
	lister *lister
	kind   Kind
	id     stream.TopologyID
	seq    stream.Seq
	has    stream.Seq
	detail string
}

// compare gives the rows that are not as the table has them.
func (l *lister) compare(table map[stream.TopologyID]following.Row) (faults []rowFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, want := range table {
		got, has := l.list.Rows()[id]
		fault := rowFault{l, Stale, id, want.Seq, got.Seq, ""}
		switch shows := l.shows(want); {
		case has && !shows:
			fault.detail = "the list shows a row that is not of it"
		case !has && shows:
			fault.kind, fault.detail = Lost, "the list lacks a row"
		case has && got.Seq > want.Seq && got.Seq.Epoch() == want.Seq.Epoch():
			fault.detail = "the list is ahead of the table: " + differs(got, want)
		case has:
			fault.detail = differs(got, want)
		}
		if fault.detail != "" {
			faults = append(faults, fault)
		}
	}
	return faults
}

// differs says what one row has that another has not, but for seq; empty: nothing.
func differs(got, want following.Row) string {
	if a, b := words(got), words(want); a != b {
		return fmt.Sprintf("the list has %s, the table %s", a, b)
	}
	return ""
}

// words is all that a row says, but for its seq.
func words(r following.Row) string {
	reason := "none"
	if r.Reason != nil {
		reason = strconv.Quote(*r.Reason)
	}
	return fmt.Sprintf("%q, %s (%s), version %d, made %s, changed %s, status changed %s, %d in flight", r.Name, r.Status,
		reason, r.Version, r.CreatedAt, r.UpdatedAt, r.StatusChangedAt, r.InFlight)
}

// table reads the run's rows as the list has them.
func (r *run) table(ctx context.Context, conn *pgx.Conn) (map[stream.TopologyID]following.Row, error) {
	const query = `
SELECT t.id::text, t.name, t.status, t.reason, t.version, to_char(t.created_at AT TIME ZONE 'UTC', $2::text),
       to_char(t.updated_at AT TIME ZONE 'UTC', $2::text), to_char(t.status_changed_at AT TIME ZONE 'UTC', $2::text),
       h.seq, (SELECT count(*) FROM mutations m WHERE m.topology_id = t.id AND m.state IN ('pending', 'applying'))
  FROM topologies t JOIN topology_heads h ON h.topology_id = t.id WHERE t.id = ANY ($1::text[]::uuid[])`
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, err := conn.Query(ctx, query, idsOf(r.topologies), `YYYY-MM-DD"T"HH24:MI:SS.US"Z"`)
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	rows, err := pgx.CollectRows(found, pgx.RowToStructByPos[following.Row])
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	table := make(map[stream.TopologyID]following.Row, len(rows))
	for _, row := range rows {
		table[row.ID] = row
	}
	return table, nil
}

// awaitLists waits until every list shows what the table holds. A row that is another one for as long as clients may
// take, though the table's is the same all that time, is a violation. The worker may go on meanwhile.
func (r *run) awaitLists(ctx context.Context) error {
	if len(r.listers) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(5*r.cfg.CatchUp, headsTimeout))
	defer cancel()
	conn, err := r.connect(ctx, "list")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	before, since := map[stream.TopologyID]following.Row{}, map[stream.TopologyID]time.Duration{}
	for {
		table, err := r.table(ctx, conn)
		if err != nil {
			return err
		}
		for id, row := range table {
			if old, ok := before[id]; !ok || differs(old, row) != "" {
				since[id] = r.since()
			}
		}
		before = table
		waits, overdue := false, []rowFault(nil)
		for _, l := range r.listers {
			for _, fault := range l.compare(table) {
				if r.since()-since[fault.id] > r.cfg.CatchUp {
					overdue = append(overdue, fault)
				} else {
					waits = true
				}
			}
		}
		if !waits {
			for _, f := range overdue {
				f.lister.report(f.kind, string(f.id), f.seq, f.has, f.detail)
			}
			return nil
		}
		pause(ctx, 200*time.Millisecond)
	}
}
