package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topocheck/check"
	"topostream/cmd/topocheck/fault"
	"topostream/harness/command"
	scene "topostream/harness/stage"
	"topostream/harness/token"
)

// stageConfig is what a stage is told.
type stageConfig struct {
	faults   string // --faults
	seed     uint64
	duration time.Duration // of the writing
	output   command.Output
	flags    stageFlags
}

// A stage is what the checker starts where no --url is given.
type stage struct {
	urls        func() []string
	databaseURL string
	issuer      token.Issuer
	idle        time.Duration
	faults      check.FaultRunner
	close       func() error // ends everything and waits
}

// stageFlags are about the stage, which is started where no --url is given.
type stageFlags struct {
	PostgresBin string `type:"existingdir" help:"${help_postgresbin}" placeholder:"DIR"`
	Topostream  string `help:"${help_topostream}" placeholder:"PATH"`
	OldBinary   string `type:"existingfile" help:"${help_oldbinary}" placeholder:"FILE"`
	Race        bool   `help:"Build the stage's topostream with -race; a data race is a violation."`
	Servers     int    `default:"2" help:"Servers on the stage, behind its balancer."`
	Bus         string `default:"notify" enum:"notify,wal,poll" help:"The stage's bus: notify, wal or poll."`
	KeepLogs    bool   `help:"${help_keeplogs}"`
}

const (
	stageKeepalive = 5 * time.Second
	openTimeout    = 5 * time.Minute // a build from nothing among it
	// censusTimeout is longer than a feed without clients lingers (60 s).
	censusTimeout = 100 * time.Second
)

// startStage puts the stage up and gives what the checker must know of it. Its close says what the servers hold more
// than before, and what did not end in order.
func startStage(ctx context.Context, cfg stageConfig) (_ *stage, err error) {
	kinds, err := chosenFaults(cfg.faults)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(cfg.output.Err, nil))
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := scene.Open(opening, scene.Config{
		PostgresBin: cfg.flags.PostgresBin, Topostream: cfg.flags.Topostream, Race: cfg.flags.Race,
		Servers: cfg.flags.Servers, Bus: cfg.flags.Bus, Keep: cfg.flags.KeepLogs, Logger: log,
		Before:    cfg.flags.OldBinary,
		ServeArgs: []string{"--keepalive=" + stageKeepalive.String()},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	before, err := s.Baseline(opening)
	if err != nil {
		return nil, err
	}
	out := &stage{
		// Writers that wait for a lock that a fault holds for half a minute would be none of the load by then.
		urls: func() []string { return []string{s.URL()} }, databaseURL: s.DatabaseURL() + "&lock_timeout=1s",
		issuer: s.Issuer(), idle: 3 * stageKeepalive,
		close: func() error { return closeStage(ctx, s, before, cfg) },
	}
	if len(kinds) > 0 || cfg.flags.OldBinary != "" {
		out.faults, err = runner(ctx, &fault.Env{DatabaseURL: s.DatabaseURL(), Stage: s, Logger: log}, kinds, cfg)
	}
	return out, err
}

// closeStage counts what is left on the stage, unless its servers are others than before, and ends it.
func closeStage(ctx context.Context, s *scene.Stage, before scene.Census, cfg stageConfig) error {
	clean := context.WithoutCancel(ctx)
	if cfg.flags.OldBinary != "" {
		return s.Close(clean)
	}
	// Interrupted, the run has removed its topologies, and feeds go with them: the census is soon done.
	wait, cancel := context.WithTimeout(clean, censusTimeout)
	defer cancel()
	census := s.AwaitCensus(wait, before)
	if census == nil {
		fmt.Fprintln(cfg.output.Out, "no goroutine, feed, channel, stream or backend more than before, and no violation "+
			"that a server counted itself")
	} else {
		s.KeepLogs() // which may tell why
	}
	return errors.Join(census, s.Close(clean))
}

// foreignFaults are what SQL can do to somebody else's database.
func foreignFaults(ctx context.Context, databaseURL string, cfg stageConfig) (check.FaultRunner, error) {
	kinds, err := chosenFaults(cfg.faults)
	if err != nil || len(kinds) == 0 {
		return nil, err
	}
	return runner(ctx, &fault.Env{DatabaseURL: databaseURL,
		Logger: slog.New(slog.NewTextHandler(cfg.output.Err, nil))}, kinds, cfg)
}

func chosenFaults(list string) ([]fault.Kind, error) {
	if list == "none" {
		return nil, nil
	}
	kinds, err := fault.Select(list)
	if err != nil {
		return nil, command.UsageError(err)
	}
	return kinds, nil
}

// faultHelp tells all faults.
func faultHelp() string {
	var text strings.Builder
	text.WriteString("\n\nFaults, by --faults:\n")
	for _, k := range fault.Kinds() {
		fmt.Fprintf(&text, "\n%s: %s\n", k.Name, k.Doc)
	}
	return text.String()
}

// runner makes a campaign and prints what is skipped and why; the campaign prints at its end what was done.
func runner(ctx context.Context, e *fault.Env, kinds []fault.Kind, cfg stageConfig) (check.FaultRunner, error) {
	const version = `SELECT current_setting('server_version_num')::int / 10000`
	conn, err := pgx.Connect(ctx, e.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("ask the database for its version: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, version).Scan(&e.Version); err != nil {
		return nil, fmt.Errorf("ask the database for its version: %w", err)
	}
	campaign := fault.New(e, kinds, cfg.seed)
	if cfg.flags.OldBinary != "" {
		if err := campaign.Upgrade(cfg.duration); err != nil {
			return nil, err
		}
	}
	skipped := campaign.Report().Skipped
	for _, kind := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Fprintf(cfg.output.Out, "SKIPPED fault %s: %s\n", kind, skipped[kind])
	}
	return func(ctx context.Context, m check.Monitor) error {
		defer func() { writeCampaign(cfg.output.Out, campaign.Report()) }()
		return campaign.Run(ctx, m)
	}, nil
}

func writeCampaign(w io.Writer, r fault.Report) {
	spoiled := 0
	for _, n := range r.Spoiled {
		spoiled += n
	}
	fmt.Fprintf(w,
		"faults injected: %d of %d kinds; %d that another fault kept from being injected; %d kinds skipped\n",
		r.Total(), len(r.Injected), spoiled, len(r.Skipped))
	for _, kind := range slices.Sorted(maps.Keys(r.Spoiled)) {
		if r.Injected[kind] == 0 {
			fmt.Fprintf(w, "  %s was never injected: another fault kept it %d times\n", kind, r.Spoiled[kind])
		}
	}
}
