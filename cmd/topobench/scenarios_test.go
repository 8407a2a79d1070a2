package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/cmd/topobench/check"
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
	report := runPlanted(t, build(t, module), repeat("epoch", `SELECT topology_new_epoch()`, time.Second))
	if !report.Clean() {
		t.Errorf("violations %v", report.Violations)
	}
	if f := report.Faults["epoch"]; report.NewEpochs == 0 || f.Count == 0 {
		t.Errorf("%d snapshots of a new epoch, %d epochs", report.NewEpochs, f.Count)
	}
}

func TestRetentionUnderTheRunIsNoLoss(t *testing.T) {
	t.Parallel()
	prune := repeat("retention", `SELECT topology_prune(NULL, 2, 100000)`, 20*time.Millisecond)
	report := runPlanted(t, build(t, module),
		func(ctx context.Context, t *testing.T, servers []*server, m check.Monitor) error {
			// A server's ring holds more than the journal: only one that has just started leaves a client behind.
			for range 3 { // it may leave none behind where the machine is busy
				wait(ctx, 2*time.Second)
				for _, s := range servers {
					s.stop(os.Kill)
				}
				few, cancel := context.WithTimeout(ctx, time.Second)
				err := prune(few, t, servers, m)
				cancel()
				for _, s := range servers {
					s.start(t)
				}
				if err != nil {
					return err
				}
			}
			return prune(ctx, t, servers, m)
		})
	if !report.Clean() {
		t.Errorf("violations %v", report.Violations)
	}
	if report.Pruned == 0 {
		t.Error("no client was left behind by retention")
	}
}

// An event that was delivered and is then not in the journal is the worst that a database can do: a crash without
// fsync, or a failover that nobody told of.
func TestEventsThatAreTakenBackWithANewEpochAreReportedUnlessTheyMayBe(t *testing.T) {
	t.Parallel()
	// It takes back only what changed nothing but the journal: the tables stay as they are. The heads enter the new epoch
	// at once: nobody writes a number of the old one again.
	const takeBack = `
SELECT FROM topology_heads FOR NO KEY UPDATE;
DELETE FROM topology_events e USING topology_heads h WHERE h.topology_id = e.topology_id AND e.seq > h.seq - 2
   AND NOT EXISTS (SELECT FROM topology_events x
                    WHERE x.topology_id = h.topology_id AND x.seq > h.seq - 2 AND x.type NOT LIKE 'topobench.%');
SELECT topology_new_epoch();
SELECT FROM topology_raise(ARRAY(SELECT topology_id FROM topology_heads))`
	binary := build(t, module)
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
