// Package bench measures what the buses cost: [Writers] what they take from who writes, [Latency] how long an event
// takes to its client, and [Topologies] what an event costs a server that has many topologies attached. And it measures
// what clients cost a server of any make: [Connect], [Fanout], [Spread] and [Storm], ours beside the least that could
// do it, and [Compare], ours beside others.
//
// What is compared is measured in one run, in rounds that take turns (A B C A B C …), so that a noisy machine hits all
// alike; a figure is the median of the rounds, and a ratio the median of the rounds' ratios. Every event that was
// committed must arrive exactly once and in order: a run in which one did not is an error and no measurement.
package bench

import (
	"context"
	"os/exec"
	"runtime"
	"slices"
	"time"
)

// Config is what every experiment is told.
type Config struct {
	// of a server, by a superuser; the run makes a database there and drops it. Empty: a private cluster, of the
	// PostgreSQL that pgcluster.Find finds
	DatabaseURL string
	Topologies  int           // rows that the run makes
	Rounds      int           // of each measurement
	Duration    time.Duration // of one round
	Seed        uint64        // of which topology is written to when
	ServeFlags  []string      // further flags of our server

	// Feeds makes the command of a process that calls [Feeds] with this bus and number of topologies, its standard
	// input and output, and the database that its environment names (FeedsDatabase): a command line would show the
	// password.
	Feeds func(ctx context.Context, args ...string) *exec.Cmd
	// Log tells of progress.
	Log func(format string, args ...any)
}

// About says how a report's figures came about.
type About struct {
	PostgreSQL string  `json:"postgresql"`
	CPUs       int     `json:"cpus"`
	Seed       uint64  `json:"seed"`
	Topologies int     `json:"topologies"`
	Rounds     int     `json:"rounds"`
	Seconds    float64 `json:"seconds"` // of one round
}

func (c Config) about(p *place) About {
	return About{p.version, runtime.NumCPU(), c.Seed, c.Topologies, c.Rounds, c.Duration.Seconds()}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// ratio divides round by round, and gives the median.
func ratio(values, by []float64) float64 {
	each := make([]float64, len(values))
	for i, v := range values {
		each[i] = v / by[i]
	}
	return median(each)
}
