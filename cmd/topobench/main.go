// Command topobench measures servers: ours and others, beside the least that could do the same.
package main

import (
	"context"

	"github.com/alecthomas/kong"

	"topostream/harness/command"
)

func main() { command.Main(run) }

type cli struct {
	Bench   benchCmds   `embed:""`
	Measure measureCmds `embed:""`
}

// run is the program: it returns the exit code when everything that it started is gone.
func run(ctx context.Context, args []string, o command.Output) (code int) {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	return command.Run(ctx, "topobench", &cli{}, args, o,
		kong.Description("Measures what topostream and other servers cost. The exit code is 0 when the figures came about, "+
			"1 when they did not, 2 for a wrong command line."),
		kong.DefaultEnvars("TOPOBENCH"),
		flagHelp(),
	)
}
