package main

import (
	"fmt"
	"log/slog"

	"topostream/stream"
	"topostream/stream/engine"
)

// What --engine may be.
const (
	engineAuto     = "auto"     // epoll where it can be had
	engineEpoll    = "epoll"    // or serve does not start
	enginePortable = "portable" // net/http alone
)

// newEngine gives what carries the streams of plain HTTP/1.1; nil: net/http.
func (c *serveCmd) newEngine(bus stream.Bus, stats *stream.Stats, log *slog.Logger) (*engine.Engine, error) {
	if c.Engine == enginePortable {
		return nil, nil //nolint:nilnil // none is none
	}
	e, err := engine.New(engine.Config{
		Attach: bus.Attach, Stats: stats, Logger: log, WriteTimeout: c.WriteTimeout,
	})
	switch {
	case err == nil:
		return e, nil
	case c.Engine == engineEpoll:
		return nil, fmt.Errorf("--engine epoll: %w: use --engine auto or portable", err)
	}
	log.Info("streams are written by net/http", "because", err)
	return nil, nil //nolint:nilnil // as above
}
