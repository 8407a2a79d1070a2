package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// logging says how a command that runs on and on logs.
type logging struct {
	LogFormat string `default:"text" enum:"text,json" help:"text or json."`
	LogLevel  string `default:"info" enum:"debug,info,warn,error" help:"The least that is logged: debug, info, warn or error. SIGUSR1 switches to debug, and back."`
}

// open gives the log, and what switches its level on SIGUSR1 until its context ends. Until that runs, the signal does
// nothing; stop gives it back.
func (l logging) open(w io.Writer) (log *slog.Logger, switching func(context.Context) error, stop func()) {
	var wanted slog.Level
	_ = wanted.UnmarshalText([]byte(l.LogLevel)) // the parser knows the names; none is info
	level := new(slog.LevelVar)
	level.Set(wanted)
	log = newLogger(w, l.LogFormat, level)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	switching = func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-signals:
				next := slog.LevelDebug
				if level.Level() == next {
					next = wanted
				}
				level.Set(min(next, slog.LevelInfo)) // so that this is seen
				log.Info("SIGUSR1: another log level", "level", next)
				level.Set(next)
			}
		}
	}
	return log, switching, func() { signal.Stop(signals) }
}

// newLogger writes what is at level or above, without secrets.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	redact := newRedactor().attr
	options := &slog.HandlerOptions{ReplaceAttr: redact, Level: level}
	if format == "json" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindDuration { // of which slog makes nanoseconds
				return slog.Float64(a.Key, a.Value.Duration().Seconds())
			}
			return redact(groups, a)
		}
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
