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
	exitOK     = 0
	exitBroken = 1 // the promise was broken, or nothing could be judged
	exitUsage  = 2
)

type cli struct {
	Check   checkCmd    `cmd:"" help:"${help_check}"`
	Bench   benchCmds   `embed:""`
	Measure measureCmds `embed:""`
}

// output is where a command writes: the report on out, everything else on err.
type output struct{ out, err io.Writer }

// usageError is a command line that cannot be carried out.
type usageError struct{ error }

// run is the program: it returns the exit code when everything that it started is gone.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var (
		c      cli
		exited *int
	)
	parser, err := kong.New(&c,
		kong.Name("topobench"),
		kong.Description("Proves topostream's promise from outside, and measures what it costs. The exit code is 0 when it "+
			"was kept, 1 when it was broken or could not be judged, 2 for a wrong command line."),
		kong.DefaultEnvars("TOPOBENCH"),
		flagHelp(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { exited = &code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(output{out, errOut}),
	)
	if err != nil {
		fmt.Fprintln(errOut, "topobench:", err)
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
		fmt.Fprintf(errOut, "topobench: %s\nSee `topobench --help`.\n", err)
		return exitUsage
	}
	err = command.Run()
	if usage := (usageError{}); errors.As(err, &usage) {
		fmt.Fprintln(errOut, "topobench:", usage)
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(errOut, "topobench:", err)
		return exitBroken
	}
	return exitOK
}
