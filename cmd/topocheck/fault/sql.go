package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func sqlKinds() []Kind {
	return []Kind{
		{Name: "backend.terminate-listen", Doc: "pg_terminate_backend of every server's LISTEN connection.",
			part: ofSQL, inject: terminate("topostream listen")},
		{Name: "backend.terminate-pool", Doc: "pg_terminate_backend of every server's pool.", part: ofSQL,
			inject: terminate("topostream")},
		{Name: "backend.terminate-worker",
			Doc: "pg_terminate_backend of every worker's connections, LISTEN among them.", part: ofSQL,
			inject: terminate("topostream mutator%")},
		{Name: "transaction.hold-head",
			Doc:  "A writer records an event, holds its transaction and thereby the topology's head for 30 s, and rolls back.",
			part: ofSQL, beside: true, inject: holdHead},
		{Name: "transaction.hold-snapshot", Doc: "A REPEATABLE READ transaction stays open for 30 s.", part: ofSQL,
			beside: true, inject: holdSnapshot},
		{Name: "table.alter-held",
			Doc: "ALTER TABLE topologies, held open (ACCESS EXCLUSIVE) for some seconds and rolled back; or waiting for its " +
				"lock, with everybody behind it.", part: ofSQL, inject: holdAlter},
		{Name: "locks.storm", Doc: "Six sessions lock tables of the schema in turn, for moments.", part: ofSQL,
			inject: lockStorm},
		{Name: "locks.deadlock",
			Doc: "Eight sessions lock rows and heads of topologies in opposite orders, so that PostgreSQL ends who waits " +
				"for whom.", part: ofSQL, inject: deadlocks},
		{Name: "transactions.repeatable-read", Doc: "Eight REPEATABLE READ sessions update rows that others update.",
			part: ofSQL, inject: repeatableReads},
		{
			Name: "notify.pin-queue",
			Doc:  "A listener in an open transaction pins the NOTIFY queue until it is more than half full.",
			part: ofSQL, inject: pinQueue,
			impossible: func(e *Env) string {
				if e.Version < 17 {
					return fmt.Sprintf("PostgreSQL %d has no max_notify_queue_pages, and its queue of 8 GB takes too long to "+
						"fill: 17 or newer", e.Version)
				}
				if e.Stage == nil {
					return "the server's NOTIFY queue may be large and is not ours to fill"
				}
				return ""
			},
		},
		{Name: "retention.prune",
			Doc: "topology_prune, as servers call it, keeps only the newest events, again and again, under clients that " +
				"resume.", part: ofSQL, inject: prune},
	}
}

// mine limits what is done by SQL to the checker's own topologies: other rows of the database are none of its business.
const mine = `name LIKE 'topocheck-%'`

// reconnectTime is how long connections that another fault has ended may take to come back.
const reconnectTime = 3 * time.Second

func terminate(application string) func(context.Context, *Env, *rand.Rand) error {
	const query = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE application_name LIKE $1 AND datname = current_database()`
	return func(ctx context.Context, e *Env, _ *rand.Rand) error {
		return e.with(ctx, func(conn *pgx.Conn) error {
			for until := time.Now().Add(reconnectTime); ; hold(ctx, 20*time.Millisecond) {
				var n int
				err := conn.QueryRow(ctx, query, application).Scan(&n)
				switch {
				case err != nil:
					return err
				case n > 0:
					return nil
				case ctx.Err() != nil || time.Now().After(until):
					return fmt.Errorf("%s: no such connection", application)
				}
			}
		})
	}
}

// holdTime is how long a transaction is held that holds up one topology or nobody.
const holdTime = 30 * time.Second

func holdHead(ctx context.Context, e *Env, _ *rand.Rand) error {
	const emit = `SELECT topology_emit(id, 'topocheck.never', '{}') FROM topologies WHERE ` + mine +
		` ORDER BY random() LIMIT 1`
	return e.holdTransaction(ctx, pgx.TxOptions{}, emit)
}

func holdSnapshot(ctx context.Context, e *Env, _ *rand.Rand) error {
	return e.holdTransaction(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, `SELECT count(*) FROM topology_heads`)
}

// holdTransaction keeps a transaction open for holdTime and rolls it back. When another fault takes it away it is begun
// again.
func (e *Env) holdTransaction(ctx context.Context, options pgx.TxOptions, statement string) error {
	until := time.Now().Add(holdTime)
	held := false
	for ctx.Err() == nil && time.Now().Before(until) {
		err := e.with(ctx, func(conn *pgx.Conn) error {
			tx, err := conn.BeginTx(ctx, options)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
			for held = true; ctx.Err() == nil && time.Now().Before(until); {
				hold(ctx, min(time.Second, time.Until(until)))
				if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
					return err
				}
			}
			return nil // closing the connection rolls back
		})
		if err != nil {
			hold(ctx, 200*time.Millisecond)
		}
	}
	if !held {
		return spoiled(errors.New("no transaction could be begun"))
	}
	return nil
}

const pgLockNotAvailable = "55P03"

func holdAlter(ctx context.Context, e *Env, r *rand.Rand) error {
	const (
		patience = `SET LOCAL lock_timeout = '5s'` // meanwhile everybody waits behind it
		alter    = `ALTER TABLE topologies ADD COLUMN topocheck_never text`
	)
	return e.with(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		for _, statement := range []string{patience, alter} {
			_, err := tx.Exec(ctx, statement)
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == pgLockNotAvailable {
				return nil // it was held up by a transaction, and held up whoever came after it
			}
			if err != nil {
				return err
			}
		}
		hold(ctx, between(r, 2*time.Second, 6*time.Second))
		return nil // closing the connection rolls back
	})
}

// onConnections runs f on n connections at once for d, again and again. What f says is not looked at: that sessions
// fail is what these faults are for.
func (e *Env) onConnections(ctx context.Context, n int, d time.Duration, r *rand.Rand,
	f func(context.Context, *pgx.Conn, *rand.Rand) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		done  int
	)
	for range n {
		own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		group.Go(func() {
			for ctx.Err() == nil {
				err := e.with(ctx, func(conn *pgx.Conn) error {
					for ctx.Err() == nil && !conn.IsClosed() {
						if err := f(ctx, conn, own); err == nil {
							mu.Lock()
							done++
							mu.Unlock()
						}
					}
					return nil
				})
				if err != nil {
					hold(ctx, 100*time.Millisecond)
				}
			}
		})
	}
	group.Wait()
	if done == 0 {
		return spoiled(errors.New("no session got anything done"))
	}
	return nil
}

func lockStorm(ctx context.Context, e *Env, r *rand.Rand) error {
	statements := []string{
		`LOCK TABLE topologies IN SHARE ROW EXCLUSIVE MODE`, `LOCK TABLE topologies IN ACCESS EXCLUSIVE MODE`,
		`LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`,
		`LOCK TABLE topology_heads IN EXCLUSIVE MODE`, `LOCK TABLE topology_events IN ACCESS EXCLUSIVE MODE`,
		`LOCK TABLE topology_settings IN ACCESS EXCLUSIVE MODE`,
	}
	return e.onConnections(ctx, 6, between(r, 2*time.Second, 4*time.Second), r,
		func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
			err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, statements[r.IntN(len(statements))]); err != nil {
					return err
				}
				hold(ctx, between(r, 0, 100*time.Millisecond))
				return nil
			})
			hold(ctx, between(r, 0, 300*time.Millisecond))
			return err
		})
}

func deadlocks(ctx context.Context, e *Env, r *rand.Rand) error {
	const (
		topology = `SELECT 1 FROM topologies WHERE id = (SELECT id FROM topologies WHERE ` + mine +
			` ORDER BY random() LIMIT 1) FOR UPDATE`
		head = `SELECT 1 FROM topology_heads WHERE topology_id = (SELECT id FROM topologies WHERE ` + mine +
			` ORDER BY random() LIMIT 1) FOR UPDATE`
	)
	return e.onConnections(ctx, 8, between(r, 2*time.Second, 4*time.Second), r,
		func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				for range 4 {
					statement := topology
					if r.IntN(2) == 0 {
						statement = head
					}
					if _, err := tx.Exec(ctx, statement); err != nil {
						return err
					}
					hold(ctx, between(r, 0, 20*time.Millisecond))
				}
				return nil
			})
		})
}

func repeatableReads(ctx context.Context, e *Env, r *rand.Rand) error {
	const (
		read   = `SELECT count(*) FROM topologies`
		update = `UPDATE topologies SET name = name WHERE id IN (SELECT id FROM topologies WHERE ` + mine +
			` ORDER BY random() LIMIT 3)`
	)
	return e.onConnections(ctx, 8, between(r, 2*time.Second, 4*time.Second), r,
		func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
			return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, read); err != nil {
					return err
				}
				hold(ctx, between(r, 0, 50*time.Millisecond))
				_, err := tx.Exec(ctx, update)
				return err
			})
		})
}

const queueUsage = `SELECT pg_notification_queue_usage()`

func pinQueue(ctx context.Context, e *Env, r *rand.Rand) error {
	return e.with(ctx, func(pin *pgx.Conn) error {
		for _, statement := range []string{`LISTEN topocheck_pin`, `BEGIN`, `SELECT 1`} {
			if _, err := pin.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return e.with(ctx, func(conn *pgx.Conn) error {
			if err := flood(ctx, conn, "topocheck_pin", 0.6); err != nil {
				return err
			}
			hold(ctx, between(r, 3*time.Second, 8*time.Second))
			return nil // closing the connection rolls back and UNLISTENs
		})
	})
}

// flood sends notifications on a channel until the queue is so full.
func flood(ctx context.Context, conn *pgx.Conn, channel string, usage float64) error {
	const send = `SELECT count(pg_notify($1, repeat('x', 7000) || i)) FROM generate_series(1, 8) i`
	for used := 0.0; used < usage; {
		if _, err := conn.Exec(ctx, send, channel); err != nil {
			return err
		}
		if err := conn.QueryRow(ctx, queueUsage).Scan(&used); err != nil {
			return err
		}
	}
	return nil
}

func prune(ctx context.Context, e *Env, r *rand.Rand) error {
	const (
		call   = `SELECT topology_prune(NULL, $1, 5000)`
		others = `SELECT count(*) FROM topologies WHERE NOT ` + mine
	)
	keep := 5 + r.IntN(100)
	until := time.Now().Add(between(r, 2*time.Second, 5*time.Second))
	return e.with(ctx, func(conn *pgx.Conn) error {
		var n int64
		if err := conn.QueryRow(ctx, others).Scan(&n); err != nil {
			return err
		}
		if n > 0 && e.Stage == nil {
			return fmt.Errorf("the database holds %d topologies of others, whose journals would be pruned, too", n)
		}
		for ctx.Err() == nil && time.Now().Before(until) {
			if err := e.monitor.Read(ctx); err != nil {
				return err
			}
			if err := conn.QueryRow(ctx, call, keep).Scan(&n); err != nil {
				return err
			}
			hold(ctx, between(r, 10*time.Millisecond, 200*time.Millisecond))
		}
		return nil
	})
}
