package main

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

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
