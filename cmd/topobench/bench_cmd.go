package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"time"

	"topostream/cmd/topobench/bench"
	"topostream/harness/command"
)

// benchCmds are the commands that measure the buses.
type benchCmds struct {
	Writers    writersCmd    `cmd:"" help:"Measure what each bus takes from writers that commit as fast as they can."`
	Latency    latencyCmd    `cmd:"" help:"Measure how long an event takes from COMMIT to a client: of our server on each bus, or of the one at --url."`
	Topologies topologiesCmd `cmd:"" help:"Measure what an event costs a server that has many topologies attached."`
	Feeds      feedsCmd      `cmd:"" hidden:"" help:"A server without sockets, which the other commands start."`
}

// benchFlags are every measurement's.
type benchFlags struct {
	Seed *uint64 `help:"Repeat a run's random choices. A random one is printed." placeholder:"N"`
	JSON string  `name:"json" help:"Write the report as JSON to this file, too." placeholder:"FILE"`
}

func (f benchFlags) config(rounds int, duration time.Duration, o command.Output) (bench.Config, error) {
	if rounds < 1 || duration <= 0 {
		return bench.Config{}, command.UsageError(errors.New("--rounds and --duration must be above 0"))
	}
	self, err := os.Executable()
	if err != nil {
		return bench.Config{}, err
	}
	cfg := bench.Config{
		Rounds: rounds, Duration: duration, Seed: rand.Uint64N(1 << 32),
		Feeds: func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, append([]string{"feeds"}, args...)...)
			cmd.Stderr = o.Err
			return cmd
		},
		Log: func(format string, args ...any) { fmt.Fprintf(o.Err, format+"\n", args...) },
	}
	if f.Seed != nil {
		cfg.Seed = *f.Seed
	}
	return cfg, nil
}

// write prints a report, unless it did not come about.
func (f benchFlags) write(o command.Output, report fmt.Stringer, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprint(o.Out, report)
	return command.WriteJSON(f.JSON, report)
}

type writersCmd struct {
	benchFlags

	DatabaseURL string        `env:"TOPOBENCH_DATABASE_URL" help:"${help_bench_databaseurl}" placeholder:"DSN"`
	Writers     []int         `default:"16,64" help:"Numbers of writers."`
	Topologies  int           `default:"1000" help:"Topologies that they write to, all attached."`
	Rounds      int           `default:"9" help:"Rounds of each measurement; the table has medians."`
	Duration    time.Duration `default:"2s" help:"Length of a round."`
}

// Run measures and prints.
func (c *writersCmd) Run(ctx context.Context, o command.Output) error {
	if c.Topologies < 1 || slices.Min(c.Writers) < 1 {
		return command.UsageError(errors.New("--writers and --topologies must be above 0"))
	}
	cfg, err := c.config(c.Rounds, c.Duration, o)
	if err != nil {
		return err
	}
	cfg.DatabaseURL, cfg.Topologies = c.DatabaseURL, c.Topologies
	report, err := bench.Writers(ctx, cfg, c.Writers)
	return c.write(o, report, err)
}

type latencyCmd struct {
	targetFlags

	Rate       []float64     `default:"100,2000" help:"Events a second."`
	Topologies int           `default:"100" help:"Topologies, each with a client on a socket."`
	Rounds     int           `default:"5" help:"Rounds of each measurement; the table has medians."`
	Duration   time.Duration `default:"5s" help:"Length of a round."`
}

// Run measures and prints. Without --url it compares our server's buses.
func (c *latencyCmd) Run(ctx context.Context, o command.Output) error {
	if c.URL != "" {
		return c.runAny(ctx, o)
	}
	if c.Topologies < 1 || slices.Min(c.Rate) <= 0 {
		return command.UsageError(errors.New("--rate and --topologies must be above 0"))
	}
	cfg, err := c.config(c.Rounds, c.Duration, o)
	if err != nil {
		return err
	}
	cfg.DatabaseURL, cfg.Topologies, cfg.ServeFlags = c.DatabaseURL, c.Topologies, c.ServeFlag
	report, err := bench.Latency(ctx, cfg, c.Topostream, c.Rate)
	return c.show(o, report, err)
}

type topologiesCmd struct {
	benchFlags

	Attached []int         `default:"100,1000,5000,20000" help:"Numbers of attached topologies."`
	Rate     float64       `default:"1000" help:"Events a second."`
	Rounds   int           `default:"3" help:"Rounds of each measurement; the table has medians."`
	Duration time.Duration `default:"10s" help:"${help_duration}"`
}

// Run measures and prints.
func (c *topologiesCmd) Run(ctx context.Context, o command.Output) error {
	if slices.Min(c.Attached) < 1 || c.Rate <= 0 {
		return command.UsageError(errors.New("--attached and --rate must be above 0"))
	}
	cfg, err := c.config(c.Rounds, c.Duration, o)
	if err != nil {
		return err
	}
	report, err := bench.Topologies(ctx, cfg, c.Attached, c.Rate)
	return c.write(o, report, err)
}

type feedsCmd struct {
	DatabaseURL string `required:"" env:"TOPOBENCH_DATABASE_URL"`
	Bus         string `arg:""`
	Topologies  int    `arg:""`
}

// Run serves until the end of its standard input.
func (c *feedsCmd) Run(ctx context.Context, o command.Output) error {
	log := slog.New(slog.NewTextHandler(o.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return bench.Feeds(ctx, bench.FeedsConfig{DatabaseURL: c.DatabaseURL, Bus: c.Bus, Topologies: c.Topologies,
		Logger: log}, os.Stdin, o.Out)
}

// runAny is the command with --url: a server of any make.
func (c *latencyCmd) runAny(ctx context.Context, o command.Output) error {
	plan, err := c.plan(c.Rounds, c.Duration, c.Topologies, o)
	if err != nil {
		return err
	}
	if len(c.Rate) != 1 || slices.Min(c.Rate) <= 0 {
		return command.UsageError(errors.New("with --url give one --rate, above 0"))
	}
	return runSpread(ctx, c.targetFlags, plan, c.Rate[0], o)
}
