package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"topostream/cmd/topocheck/check"
	"topostream/harness/command"
	"topostream/harness/token"
)

type checkCmd struct {
	URL           []string      `name:"url" sep:"none" help:"${help_url}" placeholder:"URL"`
	DatabaseURL   string        `env:"TOPOCHECK_DATABASE_URL,DATABASE_URL" help:"${help_databaseurl}" placeholder:"DSN"`
	Token         string        `help:"${help_token}" placeholder:"TOKEN"`
	JWTSecretFile string        `name:"jwt-secret-file" help:"${help_jwtsecretfile}" placeholder:"FILE"`
	Topologies    int           `default:"50" help:"${help_topologies}"`
	Backlog       int           `default:"3000" help:"${help_backlog}" placeholder:"N"`
	Writers       int           `default:"8" help:"Writers, each one transaction after another."`
	Clients       int           `default:"40" help:"${help_clients}"`
	Duration      time.Duration `default:"30s" help:"How long writers write."`
	CatchUp       time.Duration `default:"60s" help:"How long, at the end, clients may take to get everything."`
	Idle          time.Duration `default:"45s" help:"${help_idle}"`
	Rate          float64       `default:"0" help:"${help_rate}"`
	Seed          *uint64       `help:"Repeat a run's random choices. A random one is printed." placeholder:"N"`
	Faults        string        `default:"none" help:"${help_faults}"`
	MayLose       bool          `help:"${help_maylose}"`
	Keep          bool          `help:"Leave the topologies behind."`
	JSON          string        `name:"json" help:"Write the report as JSON to this file, too." placeholder:"FILE"`

	Stage stageFlags `embed:""`
}

// Help is the long form of --help.
func (*checkCmd) Help() string {
	return "It makes topologies of its own, writes to them through SQL and REST, follows them with clients of five " +
		"kinds and of the list, and compares every event and snapshot that they got with the journal, the journal with " +
		"what was committed, and the list with the table. It shares no code with the server. The last line of the report " +
		"counts what is lost, doubled, reordered, torn, and wrong snapshots." + faultHelp()
}

// errViolated: the report says what.
var errViolated = errors.New("the promise is broken")

// Run checks and reports.
func (c *checkCmd) Run(ctx context.Context, o command.Output) (err error) {
	cfg := check.Config{
		Topologies: c.Topologies, Backlog: c.Backlog, Writers: c.Writers, Clients: c.Clients,
		Duration: c.Duration, CatchUp: c.CatchUp, Idle: c.Idle, Rate: c.Rate, Seed: rand.Uint64N(1 << 32),
		MayLose: c.MayLose, Keep: c.Keep, Single: c.Stage.OldBinary != "",
		Progress: func(p check.Progress) {
			if int(p.Elapsed.Seconds())%10 == 0 {
				fmt.Fprintf(o.Err, "%s: %d commits, %d deliveries, %d problems\n", p.Elapsed.Round(time.Second),
					p.Commits, p.Deliveries, p.Problems)
			}
		},
	}
	if c.Seed != nil {
		cfg.Seed = *c.Seed
	}
	if err := c.validate(); err != nil {
		return command.UsageError(err)
	}
	fmt.Fprintf(o.Err, "seed %d: repeat it with --seed %d\n", cfg.Seed, cfg.Seed)
	prepare := c.ownStage
	if len(c.URL) > 0 {
		prepare = c.foreignServers
	}
	end, err := prepare(ctx, &cfg, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	report, err := check.Run(ctx, cfg)
	if report == nil {
		return err
	}
	report.Write(o.Out)
	if !report.Clean() {
		err = errors.Join(err, errViolated)
	}
	err = errors.Join(err, report.Judged())
	return errors.Join(err, command.WriteJSON(c.JSON, report))
}

// foreignServers has the run check the servers at --url.
func (c *checkCmd) foreignServers(ctx context.Context, cfg *check.Config, o command.Output) (
	end func() error, err error,
) {
	cfg.URLs, cfg.DatabaseURL = func() []string { return c.URL }, c.DatabaseURL
	if cfg.Token, cfg.Limited, err = c.tokens(); err != nil {
		return nil, command.UsageError(err)
	}
	cfg.Faults, err = foreignFaults(ctx, c.DatabaseURL, stageConfig{c.Faults, cfg.Seed, c.Duration, o, c.Stage})
	return func() error { return nil }, err
}

// ownStage has the run check servers of its own.
func (c *checkCmd) ownStage(ctx context.Context, cfg *check.Config, o command.Output) (end func() error, err error) {
	s, err := startStage(ctx, stageConfig{c.Faults, cfg.Seed, c.Duration, o, c.Stage})
	if err != nil {
		return nil, fmt.Errorf("start the stage: %w", err)
	}
	cfg.URLs, cfg.DatabaseURL, cfg.Faults, cfg.Idle = s.urls, s.databaseURL, s.faults, s.idle
	cfg.Token, cfg.Limited = s.issuer.Token, s.issuer.Limited
	return s.close, nil
}

func (c *checkCmd) validate() error {
	switch {
	case len(c.URL) == 0 && (c.Token != "" || c.JWTSecretFile != ""):
		return errors.New("--token and --jwt-secret-file are for servers that you name by --url: the stage's own have a " +
			"secret of their own")
	case len(c.URL) > 0 && c.Stage.OldBinary != "":
		return errors.New("--old-binary is for a stage of the checker's own: leave --url out")
	case len(c.URL) > 0 && c.DatabaseURL == "":
		return errors.New("--database-url is missing: give the database of the servers at --url")
	case len(c.URL) > 0 && (c.Token == "") == (c.JWTSecretFile == ""):
		return errors.New("give one of --token and --jwt-secret-file")
	case min(c.Topologies, c.Writers, c.Clients) < 1 || c.Backlog < 0 || c.Duration <= 0 || c.CatchUp <= 0 ||
		c.Idle <= 0 || c.Rate < 0:
		return errors.New("--topologies, --writers, --clients, --duration, --catch-up and --idle must be above 0, --rate " +
			"not below")
	}
	for _, u := range c.URL {
		if base, err := url.Parse(u); err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
			return fmt.Errorf("--url: %q is no address of a server: give for example http://127.0.0.1:8080", u)
		}
	}
	for i, u := range c.URL {
		c.URL[i] = strings.TrimSuffix(u, "/")
	}
	return nil
}

// tokens gives what makes tokens, and limited ones where that can be.
func (c *checkCmd) tokens() (
	tokens func(string) (string, error), limited func(string, []string) (string, error), err error,
) {
	if c.Token != "" {
		return func(string) (string, error) { return c.Token, nil }, nil, nil
	}
	secret, err := os.ReadFile(c.JWTSecretFile)
	if err != nil {
		return nil, nil, fmt.Errorf("--jwt-secret-file: %w", err)
	}
	issuer := token.Issuer(firstSecret(secret))
	return issuer.Token, issuer.Limited, nil
}

// firstSecret is the one that signs: a server's file may hold several, each on a line.
func firstSecret(text []byte) []byte {
	first, _, _ := bytes.Cut(bytes.TrimLeft(text, "\r\n"), []byte("\n"))
	return bytes.TrimRight(first, "\r")
}
