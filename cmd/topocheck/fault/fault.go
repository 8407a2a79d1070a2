// Package fault breaks what topostream stands on, each time for real: backends are terminated, processes killed and
// frozen, connections cut, disks filled. [Kinds] are the faults; [Campaign.Run] injects them in random order while the
// checker looks.
package fault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/stage"
	"topostream/pgbus/postgres"
)

// Env is what faults are injected into.
type Env struct {
	DatabaseURL string       // straight to the database
	Stage       *stage.Stage // nil where the servers are somebody else's: then only what SQL can do is possible
	Version     int          // PostgreSQL's, major
	Logger      *slog.Logger

	monitor Monitor // of the campaign that runs
}

// A Kind is one way to break things.
type Kind struct {
	Name string
	Doc  string // one sentence

	// part is what the fault breaks. Faults of one part never overlap.
	part part
	// beside says that the fault goes on beside others: it lasts long and holds up little.
	beside bool
	// early says that the fault is among the first of a campaign, so that a short one has it, too.
	early bool
	// impossible gives the reason why it cannot be injected here, empty where it can. Optional.
	impossible func(*Env) string
	// inject breaks something, keeps it so for a while or until ctx ends, and mends it before it returns.
	inject func(ctx context.Context, e *Env, r *rand.Rand) error
}

type part int

const (
	ofSQL part = iota
	ofPostgres
	ofServers
	ofDatabaseLinks
	ofClientLinks
	ofWorker
)

// Kinds are all faults.
func Kinds() []Kind {
	var all []Kind
	for _, kinds := range [][]Kind{sqlKinds(), postgresKinds(), serverKinds(), linkKinds(), workerKinds(), diskKinds(),
		clockKinds()} {
		all = append(all, kinds...)
	}
	return all
}

// errSpoiled: the fault was not injected because of another one, for example because PostgreSQL restarts.
var errSpoiled = errors.New("spoiled")

// A finding is what a fault finds wrong itself; it ends the campaign.
type finding string

func (f finding) Error() string { return string(f) }

// spoiled marks an error as another fault's doing, unless it is a finding.
func spoiled(err error) error {
	var f finding
	if err == nil || errors.As(err, &f) {
		return err
	}
	return fmt.Errorf("%w: %w", errSpoiled, err)
}

// Impossible says why a kind cannot be injected into e, empty if it can.
func (k Kind) Impossible(e *Env) string {
	if k.part != ofSQL && e.Stage == nil {
		return "the servers are not ours: without --url and --database-url the checker starts its own"
	}
	if k.impossible != nil {
		return k.impossible(e)
	}
	return ""
}

// hold waits for d, or less when ctx ends.
func hold(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// between gives a random time from a to b.
func between(r *rand.Rand, a, b time.Duration) time.Duration {
	return a + time.Duration(r.Int64N(int64(b-a)+1))
}

// mendTimeout bounds what mends a fault after ctx has ended.
const mendTimeout = time.Minute

// mending gives a context for what must be done whatever happens to ctx.
func mending(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), mendTimeout)
}

// applicationName is how the connections of faults show in pg_stat_activity.
const applicationName = "topocheck fault"

func (e *Env) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := postgres.Parse(e.DatabaseURL)
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = 5 * time.Second
	cfg.RuntimeParams["application_name"] = applicationName
	conn, err := pgx.ConnectConfig(ctx, cfg)
	return conn, spoiled(err)
}

// with runs f on a connection of its own. What SQL answers may be another fault's doing.
func (e *Env) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(mend) // it is gone either way
	}()
	return spoiled(f(conn))
}
