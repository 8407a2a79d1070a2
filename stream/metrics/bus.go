package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"topostream/stream"
)

// busState is how events come, or shall come.
type busState struct {
	now  atomic.Int64
	desc *prometheus.Desc
}

// busStreams is how many streams there are. All are of the bus that is: when it changes, all of them move at once.
type busStreams struct {
	bus  *busState
	n    atomic.Int64
	desc *prometheus.Desc
}

var (
	_ stream.Chooser       = (*busState)(nil)
	_ prometheus.Collector = (*busState)(nil)
	_ stream.Gauge         = (*busStreams)(nil)
	_ prometheus.Collector = (*busStreams)(nil)
)

func newBusState(name, help string) *busState {
	bus := &busState{desc: busDesc(name, help)}
	bus.Choose(stream.BusPoll)
	return bus
}

func newBusStreams(bus *busState) *busStreams {
	return &busStreams{bus: bus, desc: busDesc("streams", "Open streams, by how their events come now.")}
}

func busDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, []string{"bus"}, nil)
}

// Choose implements stream.Chooser.
func (b *busState) Choose(bus stream.Cause) { b.now.Store(int64(bus)) }

// Describe implements prometheus.Collector.
func (b *busState) Describe(to chan<- *prometheus.Desc) { to <- b.desc }

// Collect implements prometheus.Collector.
func (b *busState) Collect(to chan<- prometheus.Metric) { b.collect(to, b.desc, 1) }

// collect gives n to the bus that is, and 0 to the others.
func (b *busState) collect(to chan<- prometheus.Metric, desc *prometheus.Desc, n float64) {
	now := b.now.Load()
	for i, name := range stream.Buses {
		is := stream.Flag(int64(i) == now)
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, is*n, name)
	}
}

// Set implements stream.Gauge, as Inc, Dec and Add do.
func (s *busStreams) Set(n float64) { s.n.Store(int64(n)) }

// Inc is one more stream.
func (s *busStreams) Inc() { s.n.Add(1) }

// Dec is one less.
func (s *busStreams) Dec() { s.n.Add(-1) }

// Add is so many more.
func (s *busStreams) Add(n float64) { s.n.Add(int64(n)) }

// Describe implements prometheus.Collector.
func (s *busStreams) Describe(to chan<- *prometheus.Desc) { to <- s.desc }

// Collect implements prometheus.Collector.
func (s *busStreams) Collect(to chan<- prometheus.Metric) {
	s.bus.collect(to, s.desc, float64(s.n.Load()))
}
