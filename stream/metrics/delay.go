package metrics

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"topostream/stream"
)

// delayBuckets go from what an idle machine takes to what nobody waits for.
func delayBuckets() []float64 {
	return []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}
}

// exemplarEvery bounds exemplars, of which each allocates: the way of a frame does not.
const exemplarEvery = time.Second

// delay is a histogram that keeps one event in a second as an exemplar.
type delay struct {
	histogram prometheus.Histogram
	next      atomic.Int64 // when there may be another exemplar
}

// Delivered implements stream.Delay.
func (d *delay) Delivered(age time.Duration, id stream.TopologyID, seq stream.Seq) {
	now, next := time.Now().UnixNano(), d.next.Load()
	if now < next || !d.next.CompareAndSwap(next, now+int64(exemplarEvery)) {
		d.histogram.Observe(age.Seconds())
		return
	}
	exemplars, _ := d.histogram.(prometheus.ExemplarObserver) // as the client's documentation has it
	exemplars.ObserveWithExemplar(age.Seconds(), prometheus.Labels{
		"topology": string(id), "seq": strconv.FormatUint(uint64(seq), 10),
	})
}
