package check

import (
	"context"
	"time"
)

// A Monitor is told of faults, so that what clients see is attributed to what caused it. The run's own is safe for
// concurrent use; faults may overlap.
type Monitor interface {
	// Began says that a fault of this kind begins now, for example "postgres.restart-immediate"; kinds are the report's
	// lines, so a kind holds nothing that differs from one time to the next. ended says that what was done is undone
	// (the process runs again, the proxy forwards again); calling it twice does nothing. Pauses of clients count for
	// the fault from its beginning until all clients of the steady kind have caught up with what was committed before
	// it ended.
	Began(fault string) (ended func())

	// Promoted says that the database has moved from one server to a copy of it, which may lack the newest commits: what
	// the old one alone had is lost history. It must be called when nobody can write to the old one any more and nobody
	// has written to the promoted one yet; both must take connections of the checker at these addresses until it returns.
	// Then everybody may be led to the promoted one. Without this call a run takes every loss for a violation.
	Promoted(ctx context.Context, oldURL, promotedURL string) error

	// Read has the checker read the journals to their ends. Called before retention, it leaves to compare with what
	// retention takes; without it a checker on a busy machine is slower than retention, and compares nothing.
	Read(ctx context.Context) error
}

// A monitor is a run's own.
type monitor struct {
	*windows

	follower *follower
}

var _ Monitor = monitor{}

// Promoted implements Monitor.
func (m monitor) Promoted(ctx context.Context, oldURL, promotedURL string) error {
	return m.follower.promoted(ctx, oldURL, promotedURL)
}

// Read implements Monitor.
func (m monitor) Read(ctx context.Context) error {
	for more := true; more && ctx.Err() == nil; {
		var err error
		if more, err = m.follower.readNext(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// A FaultRunner injects faults until ctx ends, which it does when the writers stop: the run's duration is over, the run
// was interrupted, or it failed. It undoes the fault under way before it returns, also when ctx has ended: the run
// waits for it, and only then for the clients to get everything. Its error ends the run with that error (exit code 1);
// context.Canceled and nil do not.
type FaultRunner func(ctx context.Context, m Monitor) error

// Config is what a run checks and with how much. The zero value of what is marked optional means its default.
type Config struct {
	// URLs gives the base addresses (http://host:port) that clients spread over now; it is called for each connection
	// and REST call, so what it gives may change while the run goes on. It must give at least one, and be safe for
	// concurrent use. One balancer in front of all servers is as good as all their addresses. An address that refuses
	// is tried again like any other.
	URLs func() []string

	// DatabaseURL is where writers commit and the journal is read: the database itself, by a role that owns
	// topostream's tables (or has the grants of injector, worker and reader). Several hosts with
	// target_session_attrs=read-write follow a promotion.
	DatabaseURL string

	// Token gives a token of role admin for requests of this subject; each client is a subject of its own, because
	// servers limit the streams of one. Where it gives everybody the same, the servers' --max-streams-per-user must be
	// 0 or above Clients. It is safe for concurrent use.
	Token func(subject string) (string, error)

	// Limited gives such a token that holds for these topologies alone. Optional: without it no client is limited.
	Limited func(subject string, topologies []string) (string, error)

	Topologies int           // topologies that the run makes, named topocheck-<seed>-<n>; optional, 50
	Backlog    int           // mutations in flight in the largest of some more topologies, which stay pending; 0: none
	Writers    int           // optional, 8
	Clients    int           // optional, 40: as many of each of the five kinds as can be
	Single     bool          // no client of several topologies: the servers may know no such streams
	Duration   time.Duration // how long the writers write; optional, 30 s
	Rate       float64       // transactions a second of all writers together; 0 is as fast as it goes
	Seed       uint64        // of everything random but the scheduler
	CatchUp    time.Duration // how long, at the end, clients may take to get everything; optional, 60 s
	// after which a client gives a silent stream up and comes again: three times the servers' --keepalive; optional, 45 s
	Idle time.Duration

	// Faults runs beside the writers. Optional.
	Faults FaultRunner

	// MayLose says that a fault may take committed transactions back, as an asynchronous failover does: such a loss
	// must come with a new epoch, and then what was committed in an older epoch may be missing from the journal. What
	// is delivered is judged as strictly as ever.
	MayLose bool

	Keep bool // leave the topologies behind

	// Progress, where set, is called about once a second. Optional.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Elapsed                       time.Duration
	Commits, Deliveries, Problems uint64
}
