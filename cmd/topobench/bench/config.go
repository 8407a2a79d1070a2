package bench

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
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

// String is the line above a table.
func (a About) String() string {
	return fmt.Sprintf("PostgreSQL %s, %d CPUs, %d topologies, seed %d; medians of %d rounds of %gs\n\n", a.PostgreSQL,
		a.CPUs, a.Topologies, a.Seed, a.Rounds, a.Seconds)
}
