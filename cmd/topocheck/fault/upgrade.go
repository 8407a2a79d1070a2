package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A step of an upgrade comes once, in its turn, between two faults.
type step struct {
	Kind

	at time.Duration // since the campaign began, at the earliest
}

// Upgrade has the campaign bring the stage to its next version in the course of d. First the new version is started too
// early, and must refuse; then the schema is migrated, under the servers of the version before; then servers of both
// work on it; then those of the new version alone.
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
		{"upgrade.refuse", d / 10, u.Refuse},
		{"upgrade.migrate", d / 5, func(ctx context.Context) error { return c.env.underSnapshot(ctx, u.Migrate) }},
		{"upgrade.add-servers", d / 5 * 2, u.AddServers},
		{"upgrade.replace-worker", d / 2, u.ReplaceWorker},
		{"upgrade.end-old-servers", d / 4 * 3, u.EndOldServers},
	} {
		c.steps = append(c.steps, step{Kind{Name: s.name, inject: inOrder(s.do)}, s.at})
	}
	return nil
}

// underSnapshot migrates while a REPEATABLE READ transaction is open, which then writes: a table that a migration
// rewrites is empty to a snapshot that is older (PostgreSQL's "Caveats" of concurrency control), and its writer fails.
func (e *Env) underSnapshot(ctx context.Context, migrate func(context.Context) error) error {
	const (
		look  = `SELECT 1` // takes the snapshot, and no lock that a migration would wait for
		write = `INSERT INTO topologies (name) VALUES ('topocheck fault ' || gen_random_uuid())`
	)
	conn, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // which rolls back
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return spoiled(err)
	}
	if _, err := tx.Exec(ctx, look); err != nil {
		return spoiled(err)
	}
	if err := migrate(ctx); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, write)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && !strings.HasPrefix(refused.Code, "40") {
		return finding(fmt.Sprintf("a transaction that began before the migration cannot write after it: %s (%s)",
			refused.Message, refused.Code))
	}
	return nil
}

// inOrder makes a fault of a step that must go well, also when ctx ends meanwhile.
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

// unfinished is an error where steps are left, and no other error says why.
func (c *Campaign) unfinished() error {
	if len(c.steps) == 0 || c.err() != nil {
		return nil //nolint:nilerr // Run tells that one
	}
	return fmt.Errorf("%s and later: %w", c.steps[0].Name, errUnfinished)
}
