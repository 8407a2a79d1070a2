// Command topobench proves topostream's promise from outside: it writes, reads and compares, while things break. It
// measures servers, too: ours and others, beside the least that could do the same.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
