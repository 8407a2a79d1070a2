package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"topostream/stream/api"
	"topostream/stream/metrics"
)

// newRegistry makes what one program counts with.
func newRegistry() *metrics.Registry {
	version, commit, goVersion := build()
	return metrics.New(metrics.Build{Version: version, Commit: commit, Go: goVersion})
}

// measured is what --metrics-addr serves: metrics, and health from what knows it.
func measured(registry *metrics.Registry, health http.Handler, pprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", registry.Handler())
	mux.Handle("/livez", health)
	mux.Handle("/readyz", health)
	if pprof {
		profiles(mux)
	}
	return mux
}

// serveMeasured serves h on an address until ctx ends.
func serveMeasured(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: handlerTime, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, ErrorLog: api.ErrorLog(log),
	}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close() // who reads on for longer is cut
		}
	})
	err := server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return err
}
