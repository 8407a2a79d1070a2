package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2
	exitBroken  = 3 // tail: the promise was broken
	exitTimeout = 4 // tail --until: it has not come within --timeout
)

type cli struct {
	withDev

	Serve   serveCmd   `cmd:"" help:"Stream topologies from a PostgreSQL of yours to browsers."`
	Mutator mutatorCmd `cmd:"" help:"Apply queued mutations: the worker. Run as many as you like."`
	Migrate migrateCmd `cmd:"" help:"Create or change the schema."`
	Bus     busCmd     `cmd:"" help:"Choose how servers hear of events, or say how they do."`
	Token   tokenCmd   `cmd:"" help:"Print a signed token."`
	Tail    tailCmd    `cmd:"" help:"Follow a stream in a terminal and check that no event is lost, doubled or reordered."`
	Health  healthCmd  `cmd:"" help:"Ask a server whether it is ready: exit 0 or 1, for a container's health check."`
	Version versionCmd `cmd:"" help:"Print the version, the commit and Go."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version, the commit and Go." env:"-"`
}

// output is where a command writes: results on out, everything else on err.
type output struct{ out, err io.Writer }

// codedError is an error that asks for a certain exit code.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

// newParser reads a command line into c.
func newParser(c *cli, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append([]kong.Option{
		kong.Name("topostream"),
		kong.Description(
			"Streams the life of network topologies from PostgreSQL to browsers by Server-Sent Events: " +
				"no event is lost, doubled or reordered.\n\n" +
				firstStep + " Every flag has an environment variable TOPOSTREAM_…, for example TOPOSTREAM_ADDR " +
				"for --addr; a flag wins over it. " +
				"The exit code is 0 when all went well, 1 after an error, 2 for a wrong command line.",
		),
		kong.DefaultEnvars("TOPOSTREAM"),
		kong.Vars{"version": versionLine()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	}, options...)...)
}

// run is the program: it returns the exit code when everything that it started is gone.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var (
		c      cli
		exited *int
	)
	parser, err := newParser(&c,
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { exited = &code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(output{out, errOut}),
	)
	if err != nil {
		fmt.Fprintln(errOut, "topostream:", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if exited != nil { // --help
		return *exited
	}
	if err != nil {
		fmt.Fprintf(errOut, "topostream: %s\nSee `%s --help`.\n", redactAddress(err.Error()), commandOf(err))
		return exitUsage
	}
	err = command.Run()
	var coded codedError
	switch {
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return exitOK
	case errors.As(err, &coded):
		fmt.Fprintln(errOut, "topostream:", redact(coded.Error()))
		return coded.code
	}
	fmt.Fprintln(errOut, "topostream:", redact(explain(err)))
	return exitError
}

// commandOf is the command whose flags were wrong, as far as it was understood.
func commandOf(err error) string {
	var parseErr *kong.ParseError
	if errors.As(err, &parseErr) && parseErr.Context != nil && parseErr.Context.Selected() != nil {
		return parseErr.Context.Selected().FullPath()
	}
	return "topostream"
}
