// Package store is what the REST API reads and writes in PostgreSQL: topologies, their graphs and their mutations, and
// tickets. What it reads for an answer has a bound that the caller gives, so that the caller can account for it before.
package store

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Store implements stream.Store on PostgreSQL. Make it with New.
//
// Its transactions take at most a third of the pool's connections, so that the streams' reads always find one: a lock
// that somebody forgot makes writers wait, and nobody else. (While one of them waits long for a lock, a second
// connection asks for a moment who holds it.)
type Store struct {
	log        *slog.Logger
	transactor *postgres.Transactor
	slots      *semaphore.Weighted
	maxFlight  int64      // mutations of one topology; 0: any
	writers    keyedMutex // by topology
}

var _ stream.Store = (*Store)(nil)

// maxFlightBytes is what the mutations that wait in one topology may have.
const maxFlightBytes = 64 << 20

// New makes a store on a pool from postgres.NewPool. Where maxInFlight mutations of a topology wait, or 64 MiB of them,
// more are refused; 0: never. log may be nil.
func New(pool *pgxpool.Pool, maxInFlight int64, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{
		log: log, maxFlight: maxInFlight, slots: semaphore.NewWeighted(int64(max(pool.Config().MaxConns/3, 1))),
		transactor: &postgres.Transactor{
			Pool: pool, LockTimeout: patience, IdleTimeout: longestIdle,
			Tries: conflictTries, Retry: wait.Steps{First: 20 * time.Millisecond, Most: 500 * time.Millisecond},
			Conflict: func(try int, err *pgconn.PgError) {
				log.Info("PostgreSQL ended a transaction for the sake of another", "try", try, "error", err, "detail", err.Detail)
			},
		},
	}
}

func conflict(kind error, format string, args ...any) error {
	return &stream.ConflictError{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}
