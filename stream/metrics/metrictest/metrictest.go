// Package metrictest reads in tests what the program counts: nobody else reads a metric back.
package metrictest

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"topostream/stream"
	"topostream/stream/metrics"
)

// Stats are those of a server, which can be read.
func Stats() *stream.Stats { return metrics.New(metrics.Build{}).Server() }

// WorkStats are those of a worker, which can be read.
func WorkStats() *stream.WorkStats { return metrics.New(metrics.Build{}).Worker() }

// Value is what a counter or gauge of metrics stands at.
func Value(of any) int64 { return int64(Ratio(of)) }

// Ratio is Value where that is not whole.
func Ratio(of any) (sum float64) {
	for _, m := range collect(of) {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// Is tells whether a gauge is not 0.
func Is(of stream.Gauge) bool { return Value(of) != 0 }

// Chosen is the label's value of what is 1; of several, all.
func Chosen(of stream.Chooser) string {
	var values []string
	for _, m := range collect(of) {
		if m.GetGauge().GetValue() == 1 {
			values = append(values, m.GetLabel()[0].GetValue())
		}
	}
	return strings.Join(values, ", ")
}

// Observed is how many values came to an observer.
func Observed(of any) int64 {
	n := uint64(0)
	for _, m := range collect(of) {
		n += m.GetHistogram().GetSampleCount()
	}
	return int64(n)
}

func collect(of any) (all []*dto.Metric) {
	collector, ok := of.(prometheus.Collector)
	if !ok {
		panic(fmt.Sprintf("%T is not of package metrics", of))
	}
	came := make(chan prometheus.Metric, 100)
	collector.Collect(came)
	close(came)
	for m := range came {
		var out dto.Metric
		if err := m.Write(&out); err != nil {
			panic(err)
		}
		all = append(all, &out)
	}
	return all
}
