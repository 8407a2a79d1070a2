package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

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

// checkPprof is for a command that has both flags.
func checkPprof(pprof bool, metricsAddr string) error {
	if pprof && metricsAddr == "" {
		return errors.New("--pprof needs --metrics-addr: profiles are not for everybody who may reach --addr")
	}
	return nil
}

// An outage is what keeps a worker from claiming mutations; the zero one: nothing does.
type outage struct {
	why  string
	away bool // the database is, which time mends; else somebody has to
}

// workerHealth says that a worker lives, and whether it can claim mutations or what keeps it. A database that is away
// ?exclude=database leaves out, as a server does.
func workerHealth(keeps func() outage) http.Handler {
	say := func(w http.ResponseWriter, status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintln(w, text) //nolint:gosec // it is plain text, and holds nothing of what was asked
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		excluded, err := api.DatabaseExcluded(r)
		o := keeps()
		switch {
		case err != nil:
			say(w, http.StatusBadRequest, err.Error())
		case o.why != "" && (!o.away || !excluded):
			say(w, http.StatusServiceUnavailable, o.why)
		default:
			say(w, http.StatusOK, "ready")
		}
	})
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

// A poolCollector shows what a pool of connections says of itself. (IBM/pgxpoolprometheus does, too, but in names and
// nanoseconds that promtool refuses.)
type poolCollector struct {
	name string // of the pool
	pool *pgxpool.Pool
}

var _ prometheus.Collector = poolCollector{}

// poolDescs are what a pool has, in the order of Collect.
//
//nolint:gochecknoglobals // constants that Go cannot declare as such
var poolDescs = struct {
	connections, most, acquires, waited, canceled, empty, emptyWaited, opened, closed *prometheus.Desc
}{
	connections: poolDesc("connections", "Connections of a pool, by what they do.", "state"),
	most:        poolDesc("max_connections", "The most connections that a pool may have."),
	acquires:    poolDesc("acquires_total", "Connections that were asked of a pool and given."),
	waited:      poolDesc("acquire_duration_seconds_total", "How long those who got one took to get it, together."),
	canceled:    poolDesc("canceled_acquires_total", "Connections that were asked of a pool and not waited for."),
	empty:       poolDesc("empty_acquires_total", "Connections that had to be waited for, because all were in use."),
	emptyWaited: poolDesc("empty_acquire_wait_seconds_total", "How long that took, together."),
	opened:      poolDesc("connections_opened_total", "Connections that a pool has opened."),
	closed: poolDesc("connections_closed_total", "Connections that a pool has closed, because they were old or idle.",
		"reason"),
}

func poolDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pgxpool_"+name, help, append([]string{"pool"}, labels...), nil)
}

// Describe implements prometheus.Collector. It says nothing, so that there may be one for each pool.
func (poolCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	stat := c.pool.Stat()
	add := func(desc *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, kind, v, append([]string{c.name}, labels...)...)
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	add(poolDescs.connections, gauge, float64(stat.AcquiredConns()), "acquired")
	add(poolDescs.connections, gauge, float64(stat.IdleConns()), "idle")
	add(poolDescs.connections, gauge, float64(stat.ConstructingConns()), "constructing")
	add(poolDescs.most, gauge, float64(stat.MaxConns()))
	add(poolDescs.acquires, counter, float64(stat.AcquireCount()))
	add(poolDescs.waited, counter, stat.AcquireDuration().Seconds())
	add(poolDescs.canceled, counter, float64(stat.CanceledAcquireCount()))
	add(poolDescs.empty, counter, float64(stat.EmptyAcquireCount()))
	add(poolDescs.emptyWaited, counter, stat.EmptyAcquireWaitTime().Seconds())
	add(poolDescs.opened, counter, float64(stat.NewConnsCount()))
	add(poolDescs.closed, counter, float64(stat.MaxLifetimeDestroyCount()), "lifetime")
	add(poolDescs.closed, counter, float64(stat.MaxIdleDestroyCount()), "idle")
}
