package fault

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"topostream/harness/stage"
	"topostream/pgbus/pgcluster"
)

func promoteKind() Kind {
	return Kind{
		Name: "postgres.promote",
		Doc: "A standby is promoted that lacks the newest commits; the old primary is killed, stopped or loses its network " +
			"first, and everybody is led to the promoted one.",
		part: ofPostgres, early: true, inject: promote,
		impossible: func(e *Env) string {
			if err := e.Stage.CanStandBy(); err != nil {
				return err.Error()
			}
			return ""
		},
	}
}

// promoteTimeout bounds a promotion, the copy of the database among it.
const promoteTimeout = 2 * time.Minute

// promote makes a standby, which is the next time's primary. A promotion that has begun is brought to its end whatever
// happens to ctx: it cannot be undone.
func promote(ctx context.Context, e *Env, r *rand.Rand) error {
	mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), promoteTimeout)
	defer cancel()
	standby, err := e.Stage.NewStandby(ctx)
	switch {
	case ctx.Err() != nil && err == nil:
		return errors.Join(spoiled(ctx.Err()), standby.Discard(mend))
	case err != nil: // the campaign ends, or the database has just crashed by another fault and cannot be copied
		return spoiled(err)
	}
	if err := standby.Part(mend); err != nil {
		return err
	}
	e.Logger.Info("what is committed now is lost history")
	hold(ctx, between(r, 500*time.Millisecond, 2500*time.Millisecond))
	how := r.IntN(3)
	standby.Fence(how == 2)
	e.Logger.Info("nobody is led to the primary any more", "silent", how == 2)
	end := func(c *pgcluster.Cluster) error {
		if how == 1 {
			return c.Stop(mend, pgcluster.Immediate)
		}
		c.Kill()
		return nil
	}
	err = standby.Promote(mend, end, func(old, promoted string) error { return e.monitor.Promoted(mend, old, promoted) })
	if err != nil {
		return err
	}
	e.Logger.Info("the standby is promoted")
	e.leadAll(ctx, standby, r)
	return nil
}

// leadAll leads writers and servers to the promoted primary, in one order or the other: what writers commit before any
// server has come has numbers of the old epoch.
func (e *Env) leadAll(ctx context.Context, standby *stage.Standby, r *rand.Rand) {
	if r.IntN(3) == 0 {
		standby.LeadServers()
		hold(ctx, between(r, 0, time.Second))
		standby.LeadChecker()
		return
	}
	standby.LeadChecker()
	hold(ctx, between(r, 0, time.Second))
	standby.LeadServers()
}
