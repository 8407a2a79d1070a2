package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/cmd/topocheck/check"
)

// repeat runs a statement again and again until the run is over.
func repeat(fault, statement string, every time.Duration) scenario {
	return func(ctx context.Context, _ *testing.T, servers []*server, m check.Monitor) error {
		conn, err := pgx.Connect(ctx, servers[0].databaseURL)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for wait(ctx, every) {
			ended := m.Began(fault)
			_, err := conn.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol)
			ended()
			var refused *pgconn.PgError
			// it may wait between two writers that deadlock
			if err != nil && ctx.Err() == nil && (!errors.As(err, &refused) || refused.Code != "40P01") {
				return fmt.Errorf("%s: %w", fault, err)
			}
		}
		return nil
	}
}

func TestNewEpochsAreNewHistoriesAndNoLoss(t *testing.T) {
	t.Parallel()
	report := runPlanted(t, build(t), repeat("epoch", `SELECT topology_new_epoch()`, time.Second))
	if !report.Clean() {
		t.Errorf("violations %v", report.Violations)
	}
	if f := report.Faults["epoch"]; report.NewEpochs == 0 || f.Count == 0 {
		t.Errorf("%d snapshots of a new epoch, %d epochs", report.NewEpochs, f.Count)
	}
}

func TestRetentionUnderTheRunIsNoLoss(t *testing.T) {
	t.Parallel()
	const prune = `SELECT topology_prune(NULL, 2, 100000)`
	report := runPlanted(t, build(t),
		func(ctx context.Context, t *testing.T, servers []*server, m check.Monitor) error {
			// A server's ring holds more than the journal: only one that has just started leaves a client behind.
			for range 3 {
				wait(ctx, 2*time.Second)
				for _, s := range servers {
					s.kill()
				}
				err := pruneWhatTheyHave(ctx, prune, servers[0].databaseURL, m)
				for _, s := range servers {
					err = errors.Join(err, s.Start())
				}
				if err != nil {
					return err
				}
			}
			return repeat("retention", prune, 20*time.Millisecond)(ctx, t, servers, m)
		})
	if !report.Clean() {
		t.Errorf("violations %v", report.Violations)
	}
	if report.Pruned == 0 {
		t.Error("no client was left behind by retention")
	}
}

// pruneWhatTheyHave runs a statement until the journal does not hold any more what follows the newest event that there
// is now, however slow the writers are, or the run is over.
func pruneWhatTheyHave(ctx context.Context, prune, databaseURL string, m check.Monitor) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var newest int64
	if err := conn.QueryRow(ctx, `SELECT max(seq) FROM topology_heads`).Scan(&newest); err != nil {
		return fmt.Errorf("read the heads: %w", err)
	}
	for gone := false; !gone && wait(ctx, 20*time.Millisecond); {
		ended := m.Began("retention")
		_, err := conn.Exec(ctx, prune)
		ended()
		if err == nil {
			const look = `SELECT bool_and(first > $1 + 1) FROM topology_heads`
			err = conn.QueryRow(ctx, look, newest).Scan(&gone)
		}
		var refused *pgconn.PgError
		if err != nil && ctx.Err() == nil && (!errors.As(err, &refused) || refused.Code != "40P01") { // as above
			return fmt.Errorf("retention: %w", err)
		}
	}
	return nil
}

// An event that was delivered and is then not in the journal is the worst that a database can do: a crash without
// fsync, or a failover that nobody told of.
func TestEventsThatAreTakenBackWithANewEpochAreReportedUnlessTheyMayBe(t *testing.T) {
	t.Parallel()
	// It takes back only what changed nothing but the journal, and waits until there is some: the tables stay as they
	// are. The heads enter the new epoch at once: nobody writes a number of the old one again.
	const takeBack = `
DO $$ BEGIN
    LOOP
        PERFORM FROM topology_heads FOR NO KEY UPDATE;
        DELETE FROM topology_events e USING topology_heads h
         WHERE h.topology_id = e.topology_id AND e.seq > h.seq - 2
           AND NOT EXISTS (SELECT FROM topology_events x WHERE x.topology_id = e.topology_id AND x.seq >= e.seq
                              AND x.type NOT LIKE 'topocheck.%');
        EXIT WHEN FOUND;
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    PERFORM topology_new_epoch();
    PERFORM topology_raise(ARRAY(SELECT topology_id FROM topology_heads));
END $$`
	binary := build(t)
	for _, mayLose := range []bool{false, true} {
		t.Run(fmt.Sprint("may lose ", mayLose), func(t *testing.T) {
			t.Parallel()
			report := runPlantedWith(t, binary, repeat("failover", takeBack, 200*time.Millisecond),
				func(c *check.Config) { c.MayLose = mayLose })
			switch {
			case mayLose && !report.Clean():
				t.Errorf("violations %v", report.Violations)
			case mayLose && report.LostByFailover == 0:
				t.Error("nothing was taken back")
			case !mayLose && report.Violations[check.Journal] == 0:
				t.Errorf("violations %v; want journal faults", report.Violations)
			}
		})
	}
}
