// Command topocheck proves topostream's promise from outside: it writes, reads and compares, while things break.
package main

import (
	"context"

	"github.com/alecthomas/kong"

	"topostream/harness/command"
)

func main() { command.Main(run) }

// run is the program: it returns the exit code when everything that it started is gone.
func run(ctx context.Context, args []string, o command.Output) (code int) {
	return command.Run(ctx, "topocheck", &checkCmd{}, args, o,
		kong.Description("Checks that no event is lost, doubled or reordered, while writers write and things break. The "+
			"exit code is 0 when the promise was kept, 1 when it was broken or could not be judged, 2 for a wrong command "+
			"line."),
		kong.DefaultEnvars("TOPOCHECK"),
		flagHelp(),
	)
}
