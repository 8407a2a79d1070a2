package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"topostream/stream"
)

// Worker makes what a worker counts. Call it once.
func (r *Registry) Worker() *stream.WorkStats {
	s := &stream.WorkStats{
		Wait: r.histogram("mutation_wait_seconds",
			"From when a mutation was asked for to when a worker claimed it for the first time.",
			[]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800}),
		Apply: r.histogram("mutation_apply_seconds",
			"From a worker's claim of a mutation to its end there, the applier's time included.",
			[]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}),
		LeaseExpiries: r.counter("lease_expiries_total",
			"Leases that ran out, because a worker died or hung, as this worker found."),
	}
	finished := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "mutations_finished_total",
		Help: "Mutations that this worker is done with, by their op and by what became of them.",
	}, []string{"op", "outcome"})
	r.Add(finished)
	for i, op := range stream.OpLabels() {
		for j, outcome := range stream.JobOutcomes {
			s.Finished[i][j] = finished.WithLabelValues(op, outcome)
		}
	}
	return s
}
