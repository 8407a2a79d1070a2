package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"topostream/stream"
)

// Ready makes the gauge of whether /readyz says 200, asked of what it asks whenever somebody scrapes. Call it once.
func (r *Registry) Ready(lacks func() error) {
	r.Add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "ready", Help: "1 while /readyz says 200.",
	}, func() float64 { return stream.Flag(lacks() == nil) }))
}

// StreamsLimit says how many streams there may be at once. Call it once.
func (r *Registry) StreamsLimit(most int) {
	r.gauge("streams_limit", "Streams that this server may have open at once, by --max-streams; 0 is no limit.").
		Set(float64(most))
}
