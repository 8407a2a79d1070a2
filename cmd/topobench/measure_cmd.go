package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"topostream/cmd/topobench/baseline"
	"topostream/cmd/topobench/bench"
	"topostream/cmd/topobench/chart"
	"topostream/harness/command"
)

// measureCmds are the commands that measure a server of any make.
type measureCmds struct {
	Connect connectCmd `cmd:"" help:"Measure how many clients a second a server takes, and what an idle one costs."`
	Fanout  fanoutCmd  `cmd:"" help:"Measure the delivery of one topology's events to many clients."`
	Spread  spreadCmd  `cmd:"" help:"Measure how long events of many topologies take, each with one client."`
	Storm   stormCmd   `cmd:"" help:"Measure how long it takes until clients that were all cut are back."`
	List    listCmd    `cmd:"" help:"Measure what the list of topologies costs our server and its database."`
	Many    manyCmd    `cmd:"" help:"Measure what one stream of many topologies costs our server, beside one of each."`
	Servers serversCmd `cmd:"" help:"Measure what each server of ours costs one PostgreSQL, on each bus."`
	Compare compareCmd `cmd:"" help:"Run our server beside others, and print one table."`
	Bare    bareCmd    `cmd:"" hidden:"" help:"The least server, which the other commands start."`
}

// targetFlags say which server is measured. Without --url it is ours.
type targetFlags struct {
	benchFlags

	SVG           string        `name:"svg" help:"Draw the figures into this file." placeholder:"FILE"`
	DatabaseURL   string        `env:"TOPOBENCH_DATABASE_URL" help:"${help_measure_databaseurl}" placeholder:"DSN"`
	Topostream    string        `help:"${help_bench_topostream}" type:"path" placeholder:"FILE"`
	ServeFlag     []string      `sep:"none" help:"${help_serveflag}" placeholder:"FLAG"`
	Bus           string        `default:"notify" enum:"notify,wal,poll" help:"Bus of our server; latency measures each."`
	URL           string        `name:"url" help:"${help_measure_url}" placeholder:"URL"`
	Token         string        `help:"${help_measure_token}" placeholder:"JWT"`
	Header        []string      `sep:"none" help:"Header of the clients' requests, \"Name: value\" (repeatable)." placeholder:"HEADER"`
	Send          []string      `sep:"none" help:"Message that a WebSocket client sends first (repeatable)." placeholder:"TEXT"`
	Snapshot      *string       `help:"${help_snapshot}" placeholder:"EVENT"`
	Ready         string        `help:"${help_ready}" placeholder:"TEXT"`
	Numbered      bool          `default:"true" negatable:"" help:"Ids count up by 1 in each topology: judge them, too."`
	Resume        bool          `default:"true" negatable:"" help:"The server understands Last-Event-ID."`
	Topology      []string      `help:"${help_topology}" placeholder:"ID"`
	PublishSQL    string        `name:"publish-sql" help:"${help_publishsql}" placeholder:"SQL"`
	PublishNotify string        `help:"Publish by NOTIFY on this channel, for example topology.{topology}." placeholder:"CHANNEL"`
	PublishHTTP   string        `name:"publish-http" help:"Publish by a POST to this URL." placeholder:"URL"`
	PublishBody   string        `help:"Body of that POST; {payload} is the event's JSON. Default: it alone." placeholder:"TEXT"`
	PublishHeader []string      `sep:"none" help:"Header of that POST (repeatable)." placeholder:"HEADER"`
	PID           int           `name:"pid" help:"${help_pid}" placeholder:"PID"`
	GCURL         string        `name:"gc-url" help:"${help_gcurl}" placeholder:"URL"`
	Payload       int           `default:"0" help:"Bytes of an event's payload, at least."`
	Patience      time.Duration `default:"1m" help:"How long deliveries may take after the last event was published."`
	Window        int           `default:"128" help:"Connections that are made at once."`
}

// plan is what the flags ask for.
func (f targetFlags) plan(rounds int, duration time.Duration, topologies int, o command.Output) (
	p bench.Plan, err error,
) {
	if topologies < 1 || f.Window < 1 || f.Payload < 0 || f.Payload > maxPayload {
		return p, command.UsageError(fmt.Errorf("--topologies and --window must be above 0, --payload from 0 to %d",
			maxPayload))
	}
	if p.Config, err = f.config(rounds, duration, o); err != nil {
		return p, err
	}
	if p.Target, err = f.target(); err != nil {
		return p, command.UsageError(err)
	}
	self, err := os.Executable()
	if err != nil {
		return p, err
	}
	p.Bare = func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, self, append([]string{"bare"}, args...)...)
		cmd.Stderr = o.Err
		return cmd
	}
	p.DatabaseURL, p.Topologies = f.DatabaseURL, topologies
	p.Topostream, p.ServeFlags, p.Bus = f.Topostream, f.ServeFlag, f.Bus
	p.IDs, p.Payload, p.Window, p.Patience = f.Topology, f.Payload, f.Window, f.Patience
	p.MemoryFall, p.StatsReport = memoryFall, statsReport
	return p, nil
}

const (
	maxPayload  = 7000 // a NOTIFY of more has the event's number alone, which a bare LISTEN cannot time
	memoryFall  = 15 * time.Second
	statsReport = 10500 * time.Millisecond // PostgreSQL's idle backends report after 10 s
)

// target is the server at --url.
func (f targetFlags) target() (t bench.Target, err error) {
	t.GC = f.GCURL
	if f.URL == "" {
		return t, nil
	}
	t.URL, t.Header, t.Send, t.PID = strings.ReplaceAll(f.URL, "{token}", f.Token), f.Header, f.Send, f.PID
	if f.Token != "" && !strings.Contains(f.URL, "{token}") {
		t.Header = append(t.Header, "Authorization: Bearer "+f.Token)
	}
	t.Ready, t.Numbered, t.Resume = f.Ready, f.Numbered, f.Resume
	if f.Snapshot != nil {
		t.Snapshot = *f.Snapshot
	}
	t.Publish = bench.Publish{SQL: f.PublishSQL, Notify: f.PublishNotify, HTTP: f.PublishHTTP, Body: f.PublishBody,
		Header: f.PublishHeader}
	if f.PublishSQL+f.PublishNotify+f.PublishHTTP == "" { // it is a topostream
		t.Publish.SQL = bench.EmitSQL
		if f.Snapshot == nil && f.Ready == "" {
			t.Snapshot = "snapshot"
		}
	}
	if f.PublishHTTP == "" && f.DatabaseURL == "" {
		return t, errors.New("--database-url is missing: events are published there; or give --publish-http")
	}
	return t, nil
}

// A drawing is a report that can be drawn.
type drawing interface {
	fmt.Stringer
	Panels() []chart.Panel
}

// show prints a report and writes its files, unless it did not come about.
func (f targetFlags) show(o command.Output, report drawing, err error) error {
	if err := f.write(o, report, err); err != nil || f.SVG == "" {
		return err
	}
	var b bytes.Buffer
	if err := chart.Write(&b, report.Panels()...); err != nil {
		return fmt.Errorf("--svg: %w", err)
	}
	if err := os.WriteFile(f.SVG, b.Bytes(), 0o644); err != nil { //nolint:gosec // it holds no secret
		return fmt.Errorf("--svg: %w", err)
	}
	return nil
}

type connectCmd struct {
	targetFlags

	Clients    int           `default:"10000" help:"Clients."`
	Topologies int           `default:"1" help:"Topologies that they follow, in turn."`
	Hold       time.Duration `default:"35s" help:"How long the connections are left idle, to see keepalives."`
	Rounds     int           `default:"3" help:"Rounds of each server; the table has medians."`
}

// Run measures and prints.
func (c *connectCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, time.Second, c.Topologies, o)
	if err != nil {
		return err
	}
	if c.Clients < 1 || c.Hold < 0 {
		return command.UsageError(errors.New("--clients must be above 0, --hold must not be negative"))
	}
	plan.Clients, plan.Hold = c.Clients, c.Hold
	report, err := bench.Connect(ctx, plan)
	return c.show(o, report, err)
}

type fanoutCmd struct {
	targetFlags

	Clients    int           `default:"1000" help:"Clients."`
	Topologies int           `default:"1" help:"Topologies that they follow, in turn."`
	Rate       float64       `default:"100" help:"Events a second, of all topologies together."`
	Batch      int           `default:"1" help:"Events of one topology that are committed together."`
	Rounds     int           `default:"3" help:"Rounds of each server; the table has medians."`
	Duration   time.Duration `default:"10s" help:"Length of a round."`
}

// Run measures and prints.
func (c *fanoutCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	if c.Clients < 1 || c.Rate <= 0 || c.Batch < 1 {
		return command.UsageError(errors.New("--clients, --rate and --batch must be above 0"))
	}
	plan.Clients, plan.Rate, plan.Batch = c.Clients, c.Rate, c.Batch
	report, err := bench.Fanout(ctx, plan)
	return c.show(o, report, err)
}

type spreadCmd struct {
	targetFlags

	Topologies int           `default:"1000" help:"Topologies, each with a client."`
	Rate       float64       `default:"1000" help:"Events a second, of all topologies together."`
	Rounds     int           `default:"3" help:"Rounds of each server; the table has medians."`
	Duration   time.Duration `default:"10s" help:"Length of a round."`
}

// Run measures and prints.
func (c *spreadCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	return runSpread(ctx, c.targetFlags, plan, c.Rate, o)
}

func runSpread(ctx context.Context, f targetFlags, plan bench.Plan, rate float64, o command.Output) error {
	if rate <= 0 {
		return command.UsageError(errors.New("--rate must be above 0"))
	}
	plan.Rate = rate
	report, err := bench.Spread(ctx, plan)
	return f.show(o, report, err)
}

type stormCmd struct {
	targetFlags

	Clients    int     `default:"10000" help:"Clients."`
	Topologies int     `default:"1000" help:"Topologies that they follow, in turn."`
	Missed     int     `default:"1" help:"Events of each topology that are published while the clients are away."`
	Fresh      float64 `default:"0" help:"Share of the clients, from 0 to 1, that come back without Last-Event-ID."`
	Rounds     int     `default:"3" help:"Rounds of each server; the table has medians."`
}

// Run measures and prints.
func (c *stormCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, time.Second, c.Topologies, o)
	if err != nil {
		return err
	}
	if c.Clients < 1 || c.Missed < 1 || c.Fresh < 0 || c.Fresh > 1 {
		return command.UsageError(errors.New("--clients and --missed must be above 0, --fresh from 0 to 1"))
	}
	plan.Clients, plan.Missed, plan.Fresh = c.Clients, c.Missed, c.Fresh
	report, err := bench.Storm(ctx, plan)
	return c.show(o, report, err)
}

// oursFlags are those of measurements that only our server can take part in.
type oursFlags struct {
	benchFlags

	DatabaseURL string   `env:"TOPOBENCH_DATABASE_URL" help:"${help_measure_databaseurl}" placeholder:"DSN"`
	Topostream  string   `help:"${help_bench_topostream}" type:"path" placeholder:"FILE"`
	ServeFlag   []string `sep:"none" help:"${help_serveflag}" placeholder:"FLAG"`
	Bus         string   `default:"notify" enum:"notify,wal,poll" help:"Bus of the server."`
}

func (f oursFlags) plan(duration time.Duration, topologies int, o command.Output) (bench.Plan, error) {
	t := targetFlags{
		benchFlags: f.benchFlags, DatabaseURL: f.DatabaseURL, Topostream: f.Topostream, ServeFlag: f.ServeFlag, Bus: f.Bus,
		Patience: 2 * time.Minute, Window: 1,
	}
	return t.plan(1, duration, topologies, o)
}

type listCmd struct {
	oursFlags

	Clients    int           `default:"1000" help:"Clients of the whole list."`
	Topologies int           `default:"20000" help:"Topologies in the list."`
	Rate       float64       `default:"100" help:"Topologies that change, a second."`
	Duration   time.Duration `default:"30s" help:"How long they change."`
}

// Run measures and prints.
func (c *listCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	if c.Clients < 1 || c.Rate <= 0 {
		return command.UsageError(errors.New("--clients and --rate must be above 0"))
	}
	plan.Clients, plan.Rate = c.Clients, c.Rate
	report, err := bench.List(ctx, plan)
	return c.write(o, report, err)
}

type manyCmd struct {
	oursFlags

	Topologies int `default:"200" help:"Topologies."`
}

// Run measures and prints.
func (c *manyCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(time.Second, c.Topologies, o)
	if err != nil {
		return err
	}
	report, err := bench.Many(ctx, plan)
	return c.write(o, report, err)
}

type serversCmd struct {
	benchFlags

	DatabaseURL string        `env:"TOPOBENCH_DATABASE_URL" help:"${help_measure_databaseurl}" placeholder:"DSN"`
	Topostream  string        `help:"${help_bench_topostream}" type:"path" placeholder:"FILE"`
	ServeFlag   []string      `sep:"none" help:"${help_serveflag}" placeholder:"FLAG"`
	Servers     []int         `default:"1,2,4,8" help:"Numbers of servers."`
	Followed    []int         `default:"0,10" help:"Numbers of topologies that have a client on each server."`
	Topologies  int           `default:"100" help:"Topologies that events are published in."`
	Rate        float64       `default:"500" help:"Events a second, of all topologies together."`
	Rounds      int           `default:"3" help:"Rounds of each measurement; the table has medians."`
	Duration    time.Duration `default:"15s" help:"Length of a round. A server's heartbeat comes every 10 s."`
}

// Run measures and prints.
func (c *serversCmd) Run(ctx context.Context, o command.Output) error {
	f := targetFlags{benchFlags: c.benchFlags, DatabaseURL: c.DatabaseURL, Topostream: c.Topostream,
		ServeFlag: c.ServeFlag, Patience: 2 * time.Minute, Window: 1}
	plan, err := f.plan(c.Rounds, c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	if slices.Min(c.Servers) < 1 || c.Rate <= 0 || slices.Min(c.Followed) < 0 || slices.Max(c.Followed) > c.Topologies {
		return command.UsageError(errors.New("--servers and --rate must be above 0, --followed from 0 to --topologies"))
	}
	plan.Rate = c.Rate
	report, err := bench.Servers(ctx, plan, c.Servers, c.Followed)
	return c.write(o, report, err)
}

type compareCmd struct {
	targetFlags

	Peers      string        `help:"${help_peers}" type:"path" placeholder:"FILE"`
	Clients    int           `default:"1000" help:"Clients of one topology, for connections and fan-out."`
	Topologies int           `default:"100" help:"Topologies of the spread, each with a client."`
	Rate       float64       `default:"100" help:"Events a second, of all topologies together."`
	Hold       time.Duration `default:"0s" help:"How long the connections are left idle, to see keepalives."`
	Rounds     int           `default:"3" help:"Rounds of each server; the table has medians."`
	Duration   time.Duration `default:"5s" help:"Length of a round."`
}

// Run measures and prints.
func (c *compareCmd) Run(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	if c.Clients < 1 || c.Rate <= 0 || c.Hold < 0 {
		return command.UsageError(errors.New("--clients and --rate must be above 0, --hold must not be negative"))
	}
	if c.Peers != "" {
		if plan.Peers, err = bench.ReadPeers(c.Peers); err != nil {
			return command.UsageError(err)
		}
	}
	plan.Clients, plan.Rate, plan.Hold = c.Clients, c.Rate, c.Hold
	report, err := bench.Compare(ctx, plan)
	return c.show(o, report, err)
}

type bareCmd struct {
	Kind     string `arg:""`
	Document int    `arg:""`
}

// Run serves until the end of its standard input.
func (c *bareCmd) Run(ctx context.Context, o command.Output) error {
	return baseline.Serve(ctx, baseline.Config{Kind: c.Kind, Document: c.Document}, os.Stdin, o.Out)
}
