package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
)

func clockKinds() []Kind {
	return []Kind{{
		Name: "clock.step-back",
		Doc: "PostgreSQL's clock is set back by minutes to hours while it runs, and forward again (libfaketime; " +
			"PostgreSQL is restarted before and after).",
		part: ofPostgres, inject: stepBack,
		impossible: func(*Env) string {
			if faketime() == "" {
				return "there is no libfaketime: install it, for example `apt-get install libfaketime`"
			}
			return ""
		},
	}}
}

// faketime is the path of libfaketime, empty where there is none.
func faketime() string {
	for _, pattern := range []string{"/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1",
		"/usr/lib*/libfaketime.so.1"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 { // the pattern is well-formed
			return found[0]
		}
	}
	return ""
}

const (
	clockCache  = "1" // seconds between two readings of the file by libfaketime
	stepTimeout = 10 * time.Second
)

func stepBack(ctx context.Context, e *Env, r *rand.Rand) error {
	file := filepath.Join(e.Stage.Dir(), "clock")
	set := func(offset string) error {
		//nolint:gosec // PostgreSQL's user reads it; it is no secret
		return os.WriteFile(file, []byte(offset+"\n"), 0o644)
	}
	if err := set("+0"); err != nil {
		return err
	}
	postgres := e.Stage.Postgres
	// No shared memory of the library's: a killed backend would leave its semaphore taken. Monotonic clocks are not
	// faked, as no machine's are stepped.
	postgres.SetEnv("LD_PRELOAD="+faketime(), "FAKETIME_TIMESTAMP_FILE="+file, "FAKETIME_CACHE_DURATION="+clockCache,
		"FAKETIME_DISABLE_SHM=1", "DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
	if err := e.restart(ctx, pgcluster.Fast); err != nil {
		return err
	}
	postgres.SetEnv()
	hold(ctx, between(r, time.Second, 2*time.Second))
	stepped := e.step(ctx, func() error { return set(fmt.Sprintf("-%d", 60+r.IntN(7200))) })
	hold(ctx, between(r, time.Second, 3*time.Second))
	if r.IntN(2) == 0 { // forward again while it runs, too
		stepped = errors.Join(stepped, set("+0"))
		hold(ctx, 2*time.Second)
	}
	return errors.Join(e.restart(ctx, pgcluster.Fast), stepped)
}

// step sets PostgreSQL's clock back and waits until one session has seen it run backwards.
func (e *Env) step(ctx context.Context, set func() error) error {
	const clock = `SELECT clock_timestamp()`
	return e.with(ctx, func(conn *pgx.Conn) error {
		var before, now time.Time
		if err := conn.QueryRow(ctx, clock).Scan(&before); err != nil {
			return err
		}
		if err := set(); err != nil {
			return err
		}
		for until := time.Now().Add(stepTimeout); ctx.Err() == nil; {
			if err := conn.QueryRow(ctx, clock).Scan(&now); err != nil {
				return err
			}
			if now.Before(before) {
				return nil
			}
			if time.Now().After(until) {
				return finding("PostgreSQL's clock did not run backwards: libfaketime has no effect")
			}
			hold(ctx, 50*time.Millisecond)
		}
		return nil
	})
}
