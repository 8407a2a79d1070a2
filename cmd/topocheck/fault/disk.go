package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
)

func diskKinds() []Kind {
	noDisk := func(e *Env) string {
		if e.Stage.NoDisk != nil {
			return e.Stage.NoDisk.Error()
		}
		return ""
	}
	return []Kind{
		{Name: "disk.journal-full", Doc: "The journal's file system has no room for some seconds: writers get errors.",
			part: ofPostgres, impossible: noDisk, inject: fillJournal},
		{Name: "disk.wal-full",
			Doc:  "The file system of pg_wal has no room: PostgreSQL panics, and is started again when there is room.",
			part: ofPostgres, impossible: noDisk, inject: fillWAL},
	}
}

func fillJournal(ctx context.Context, e *Env, r *rand.Rand) error {
	disk := e.Stage.JournalDisk
	if err := disk.Fill(); err != nil {
		return err
	}
	hold(ctx, between(r, 2*time.Second, 5*time.Second))
	return disk.Free()
}

const panicTimeout = 15 * time.Second

// fillWAL writes WAL until there is no room and PostgreSQL panics. It then recovers over and over by itself, or ends.
func fillWAL(ctx context.Context, e *Env, r *rand.Rand) error {
	const write = `
SELECT pg_logical_emit_message(true, 'topocheck', repeat(md5(i::text), 32768)) FROM generate_series(1, 4) i`
	disk := e.Stage.WALDisk
	if err := disk.Fill(); err != nil {
		return err
	}
	panicked := e.with(ctx, func(conn *pgx.Conn) error {
		for until := time.Now().Add(panicTimeout); ctx.Err() == nil; {
			if _, err := conn.Exec(ctx, write); err != nil && conn.IsClosed() {
				return nil // it was ended with all others
			}
			if time.Now().After(until) {
				return finding("PostgreSQL goes on without room for its log")
			}
		}
		return nil
	})
	hold(ctx, between(r, 0, 2*time.Second))
	if err := disk.Free(); err != nil {
		return err
	}
	// A postmaster that tries to recover may have got the room in time; a service manager starts one that has ended.
	if err := e.awaitPostgres(ctx); err != nil {
		return err
	}
	return panicked
}

// awaitPostgres waits until PostgreSQL takes connections, and starts it where it has ended.
func (e *Env) awaitPostgres(ctx context.Context) error {
	mend, cancel := mending(ctx)
	defer cancel()
	for {
		if !e.Stage.Postgres.Running() {
			if err := e.restart(ctx, pgcluster.Fast); err != nil {
				return err
			}
		}
		err := e.with(mend, func(conn *pgx.Conn) error { return conn.Ping(mend) })
		if err == nil {
			return nil
		}
		if mend.Err() != nil {
			return fmt.Errorf("PostgreSQL does not recover: %w", err)
		}
		hold(mend, 50*time.Millisecond)
	}
}
