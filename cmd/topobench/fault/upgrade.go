package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A step comes once, in its turn, between two faults.
type step struct {
	Kind

	at time.Duration // since the campaign began, at the earliest
}

// Upgrade has the campaign bring the stage to its next version in the course of d. First the schema is migrated, under
// the servers of the version before; then servers of both work on it; then those of the new version alone.
func (c *Campaign) Upgrade(d time.Duration) error {
	u, err := c.env.Stage.Upgrade()
	if err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		at   time.Duration
		do   func(context.Context) error
	}{
		{"upgrade.migrate", d / 5, u.Migrate},
		{"upgrade.add-servers", d / 5 * 2, u.AddServers},
		{"upgrade.replace-worker", d / 2, u.ReplaceWorker},
		{"upgrade.end-old-servers", d / 4 * 3, u.EndOldServers},
	} {
		c.steps = append(c.steps, step{Kind{Name: s.name, inject: inOrder(s.do)}, s.at})
	}
	return nil
}

// inOrder makes a fault of what must go well.
func inOrder(do func(context.Context) error) injector {
	return func(ctx context.Context, _ *Env, _ *rand.Rand) error {
		mend, cancel := mending(ctx)
		defer cancel()
		return do(mend)
	}
}

// errUnfinished: an upgrade that is only begun shows nothing.
var errUnfinished = errors.New("the campaign ended before the upgrade did: give it a longer --duration")

// takeSteps takes the steps that are due, one by one, while nothing else goes on. With no fault to inject meanwhile, it
// waits for the next one.
func (c *Campaign) takeSteps(ctx context.Context, m Monitor, begun time.Time, beside interface{ Wait() }) {
	for len(c.steps) > 0 && ctx.Err() == nil && c.err() == nil {
		due := c.steps[0].at - time.Since(begun)
		if due > 0 && len(c.kinds) > 0 {
			return
		}
		hold(ctx, due)
		if ctx.Err() != nil {
			return
		}
		beside.Wait()
		k := c.steps[0].Kind
		c.steps = c.steps[1:]
		c.inject(ctx, m, k)
		c.recover(ctx, k)
	}
	if len(c.steps) == 0 && len(c.kinds) == 0 {
		<-ctx.Done()
	}
}

// unfinished is an error where steps are left.
func (c *Campaign) unfinished() error {
	if len(c.steps) == 0 {
		return nil
	}
	return fmt.Errorf("%s and later: %w", c.steps[0].Name, errUnfinished)
}
