package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
)

// surviveHangups keeps SIGHUP from ending the program while there is no pool yet, and in a drain.
func surviveHangups() (stop func()) {
	hangup := make(chan os.Signal, 1) // nobody reads it
	signal.Notify(hangup, syscall.SIGHUP)
	return func() { signal.Stop(hangup) }
}

// onHangup has SIGHUP renew the pools' connections, for which passwords are read again. It returns when ctx ends.
func onHangup(ctx context.Context, log *slog.Logger, pools ...*pgxpool.Pool) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			log.Info("SIGHUP: the pool's connections are opened anew, with the passwords that their files have now")
			for _, pool := range pools {
				pool.Reset()
			}
		}
	}
}
