package fleet

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Tally is what the clients have seen since the last one was taken.
type Tally struct {
	Deliveries uint64                  // events that came, each with its mark
	Bytes      uint64                  // that were read, heads and documents included
	Again      uint64                  // connections that ended before they were ready, and were made anew
	Latency    *hdrhistogram.Histogram // ns from when an event became visible to when its bytes were read
	Silence    *hdrhistogram.Histogram // ns of silence before a comment: between two it is the server's keepalive
	Broken     []string                // of what a client must not see, the first few
	BrokenAll  uint64                  // how many there were
}

const (
	maxBroken  = 10 // that are told in full
	maxLatency = int64(10 * time.Minute)
)

func newTally() *Tally {
	return &Tally{Latency: newHistogram(), Silence: newHistogram()}
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), maxLatency, 3)
}

func (t *Tally) brokenf(format string, args ...any) {
	if t.BrokenAll++; len(t.Broken) < maxBroken {
		t.Broken = append(t.Broken, fmt.Sprintf(format, args...))
	}
}

// merge adds o to t.
func (t *Tally) merge(o *Tally) {
	t.Deliveries += o.Deliveries
	t.Bytes += o.Bytes
	t.Again += o.Again
	t.Latency.Merge(o.Latency)
	t.Silence.Merge(o.Silence)
	t.BrokenAll += o.BrokenAll
	t.Broken = append(t.Broken, o.Broken[:min(len(o.Broken), maxBroken-len(t.Broken))]...)
}

// Record notes a latency of a receiver that is no client of a fleet.
func Record(h *hdrhistogram.Histogram, took int64) {
	_ = h.RecordValue(min(max(took, 0), maxLatency)) // it is within the bounds
}

// NewLatencies is a histogram of the kind that a Tally has.
func NewLatencies() *hdrhistogram.Histogram { return newHistogram() }
