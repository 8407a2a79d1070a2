package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
)

func postgresKinds() []Kind {
	return []Kind{
		{Name: "postgres.restart-fast", Doc: "PostgreSQL is restarted in mode fast.", part: ofPostgres,
			inject: restart(pgcluster.Fast)},
		{Name: "postgres.restart-immediate",
			Doc: "PostgreSQL is restarted in mode immediate: it recovers from its log.", part: ofPostgres,
			inject: restart(pgcluster.Immediate)},
		{Name: "postgres.kill",
			Doc:  "The postmaster gets SIGKILL, and PostgreSQL is started again when its children are gone.",
			part: ofPostgres, inject: killPostmaster},
		{Name: "postgres.kill-backend",
			Doc: "A backend gets SIGKILL: PostgreSQL ends all others and recovers by itself.", part: ofPostgres,
			inject: killBackend},
		{Name: "postgres.freeze", Doc: "SIGSTOP of the postmaster and all its children for 1 to 8 s.",
			part: ofPostgres, inject: freezePostgres},
		promoteKind(),
	}
}

func restart(mode pgcluster.Mode) func(context.Context, *Env, *rand.Rand) error {
	return func(ctx context.Context, e *Env, _ *rand.Rand) error { return e.restart(ctx, mode) }
}

// restart restarts PostgreSQL and tries until it has started: what a killed postmaster left must end first.
func (e *Env) restart(ctx context.Context, mode pgcluster.Mode) error {
	mend, cancel := mending(ctx)
	defer cancel()
	for {
		err := e.Stage.Postgres.Restart(mend, mode)
		if err == nil {
			return nil
		}
		if mend.Err() != nil {
			return fmt.Errorf("PostgreSQL does not start again: %w", err)
		}
		hold(mend, 100*time.Millisecond)
	}
}

func killPostmaster(ctx context.Context, e *Env, r *rand.Rand) error {
	e.Stage.Postgres.Kill()
	hold(ctx, between(r, 0, time.Second))
	return e.restart(ctx, pgcluster.Fast)
}

func killBackend(ctx context.Context, e *Env, _ *rand.Rand) error {
	const victim = `
SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
 ORDER BY random() LIMIT 1`
	return e.with(ctx, func(conn *pgx.Conn) error {
		var pid int
		if err := conn.QueryRow(ctx, victim).Scan(&pid); err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		// Our own connection ends with all others.
		mend, cancel := mending(ctx)
		defer cancel()
		for {
			if _, err := conn.Exec(mend, `SELECT 1`); err != nil {
				break
			}
			hold(mend, 10*time.Millisecond)
		}
		if mend.Err() != nil {
			return finding("PostgreSQL went on after a backend's SIGKILL")
		}
		return nil
	})
}

func freezePostgres(ctx context.Context, e *Env, r *rand.Rand) error {
	e.Stage.Postgres.Freeze()
	defer e.Stage.Postgres.Thaw()
	hold(ctx, between(r, time.Second, 8*time.Second))
	return nil
}
