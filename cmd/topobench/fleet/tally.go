package fleet

import (
	"errors"
	"fmt"
	"strings"
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

// NewTally makes one of nothing.
func NewTally() *Tally { return &Tally{Latency: NewLatencies(), Silence: NewLatencies()} }

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

// NewLatencies makes a histogram of times in ns, up to 10 minutes, as a Tally has them.
func NewLatencies() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), maxLatency, 3)
}

// Record takes a time of so many ns into a histogram of NewLatencies. One that is out of its range becomes the nearest
// that is not.
func Record(h *hdrhistogram.Histogram, took int64) {
	_ = h.RecordValue(min(max(took, 0), maxLatency)) // it is within the bounds
}

// Err is what the clients must not have seen; nil if there was nothing.
func (t *Tally) Err() error {
	if t.BrokenAll == 0 {
		return nil
	}
	return fmt.Errorf("%w %d times: %s", ErrBroken, t.BrokenAll, strings.Join(t.Broken, "; "))
}

// ErrBroken is an event that was lost, doubled or out of order, or a connection that ended.
var ErrBroken = errors.New("what was sent to the clients is wrong")
