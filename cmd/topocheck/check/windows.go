package check

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// windows are the times of a run's faults, and the longest pauses of steady clients in each.
type windows struct {
	since func() time.Duration // the run's clock

	mu      sync.Mutex
	all     []*window
	open    map[*window]struct{}
	calm    time.Duration // longest pause by no fault
	byFault map[string]*FaultReport
}

type window struct {
	fault        string
	began, ended time.Duration // ended is 0 while it is under way
}

// afterglow is how long after its end a fault is still named with what goes wrong.
const afterglow = 10 * time.Second

func newWindows(since func() time.Duration) *windows {
	return &windows{since: since, open: map[*window]struct{}{}, byFault: map[string]*FaultReport{}}
}

// Began implements Monitor.
func (w *windows) Began(fault string) (ended func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := &window{fault: fault, began: w.since()}
	w.all = append(w.all, x)
	w.open[x] = struct{}{}
	r := w.byFault[fault]
	if r == nil {
		r = &FaultReport{}
		w.byFault[fault] = r
	}
	r.Count++
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		x.ended = w.since()
		delete(w.open, x)
	})
}

// pause takes in that a steady client got at delivered what was committed at committed. The time between the two counts
// for each fault that it overlaps.
func (w *windows) pause(committed, delivered time.Duration) {
	p := max(delivered-committed, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	overlaps := false
	for _, x := range slices.Backward(w.all) {
		if x.began <= delivered && (x.ended == 0 || x.ended >= committed) {
			overlaps = true
			r := w.byFault[x.fault]
			r.LongestPause = max(r.LongestPause, p)
		}
		if x.ended != 0 && x.ended < committed-10*time.Minute {
			break
		}
	}
	if !overlaps {
		w.calm = max(w.calm, p)
	}
}

// now names the faults under way, or those that have just ended.
func (w *windows) now() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for x := range w.open {
		names = append(names, x.fault)
	}
	if len(names) == 0 && len(w.all) > 0 {
		last := w.all[len(w.all)-1]
		if w.since()-last.ended < afterglow {
			names = append(names, "after "+last.fault)
		}
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), "+")
}
