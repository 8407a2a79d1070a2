// Package metrics makes what the program counts with: the counters, gauges and histograms of Prometheus's client, with
// their names, helps, labels and buckets. Who counts has them as the interfaces of package stream, each label resolved
// once.
package metrics

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"topostream/stream"
)

const namespace = "topostream"

// A Build says what program this is.
type Build struct{ Version, Commit, Go string }

// A Registry holds what one program counts. Make it with New.
type Registry struct{ registry *prometheus.Registry }

// New makes a registry with what Go, the process and the build say of themselves.
func New(build Build) *Registry {
	r := &Registry{prometheus.NewRegistry()}
	r.Add(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := r.gaugeVec("build_info", "What program this is; the value is always 1.", "version", "commit", "goversion")
	info.WithLabelValues(build.Version, build.Commit, build.Go).Set(1)
	return r
}

// Add adds what others collect. It panics where a name is there already.
func (r *Registry) Add(all ...prometheus.Collector) { r.registry.MustRegister(all...) }

// Handler serves all of it, in Prometheus's text format or, with exemplars, as OpenMetrics.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Gatherer gives all of it to who reads it in this process.
func (r *Registry) Gatherer() prometheus.Gatherer { return r.registry }

func (r *Registry) counter(name, help string) stream.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	r.Add(c)
	return c
}

// counters makes one for each value of a label, which are there from the beginning, in the order of the values.
func (r *Registry) counters(to []stream.Counter, name, help, label string, values []string) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
	r.Add(vec)
	for i, value := range values {
		to[i] = vec.WithLabelValues(value)
	}
}

func (r *Registry) gauge(name, help string) stream.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	r.Add(g)
	return g
}

func (r *Registry) gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.Add(vec)
	return vec
}

func (r *Registry) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	r.Add(h)
	return h
}
