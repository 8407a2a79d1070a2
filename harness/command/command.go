// Package command is what the harness's programs have in common on their command lines: exit codes, and how a command
// is read and run.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// The exit codes of the programs.
const (
	ExitOK     = 0
	ExitBroken = 1 // the promise was broken, or nothing could be judged
	ExitUsage  = 2 // a wrong command line
)

// Output is where a command writes: the report on Out, everything else on Err.
type Output struct{ Out, Err io.Writer }

// usageError is a command line that cannot be carried out.
type usageError struct{ error }

// UsageError marks an error as one of the command line, which asks for ExitUsage.
func UsageError(err error) error { return usageError{err} }

// Main runs a program until it ends or is interrupted, and exits.
func Main(run func(ctx context.Context, args []string, o Output) (code int)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], Output{os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// Run reads a command line into cli and runs what it says, which gets ctx and o: it returns the exit code when
// everything that it started is gone.
func Run(ctx context.Context, name string, cli any, args []string, o Output, options ...kong.Option) int {
	var exited *int
	parser, err := kong.New(cli, append([]kong.Option{
		kong.Name(name),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(o.Out, o.Err),
		kong.Exit(func(code int) { exited = &code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(o),
	}, options...)...)
	if err != nil {
		fmt.Fprintf(o.Err, "%s: %s\n", name, err)
		return ExitUsage
	}
	command, err := parser.Parse(args)
	if exited != nil { // --help
		return *exited
	}
	if err != nil {
		fmt.Fprintf(o.Err, "%s: %s\nSee `%[1]s --help`.\n", name, err)
		return ExitUsage
	}
	err = command.Run()
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(o.Err, "%s: %s\n", name, err)
	if _, usage := errors.AsType[usageError](err); usage {
		return ExitUsage
	}
	return ExitBroken
}

// WriteJSON writes a report to the file of the flag --json; empty: nowhere.
func WriteJSON(file string, report any) error {
	if file == "" {
		return nil
	}
	body, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("--json: %w", err)
	}
	if err := os.WriteFile(file, append(body, '\n'), 0o644); err != nil { //nolint:gosec // it holds no secret
		return fmt.Errorf("--json: %w", err)
	}
	return nil
}
