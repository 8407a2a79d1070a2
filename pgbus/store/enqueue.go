package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"

	"topostream/stream"
)

// Enqueue implements stream.Store.
func (s *Store) Enqueue(
	ctx context.Context, id stream.TopologyID, m stream.NewMutation,
) (enqueued stream.MutationID, _ error) {
	const insert = `
INSERT INTO mutations (topology_id, op, payload, requested_by, traceparent)
VALUES ($1::text::uuid, $2, $3::text::jsonb, $4, $5) RETURNING id::text`
	m.RequestedBy = strings.ReplaceAll(m.RequestedBy, "\x00", "\uFFFD") // PostgreSQL has no such text
	parent := traceparent(ctx)
	err := s.write(ctx, string(id), func(ctx context.Context, tx pgx.Tx) (err error) {
		if err := lockTopology(ctx, tx, id); err != nil {
			return err
		}
		if m.RequestedBy, err = keepable(ctx, tx, m.RequestedBy); err != nil {
			return err
		}
		if enqueued, err = findKey(ctx, tx, id, m); err != nil || enqueued != "" {
			return err
		}
		if err := s.mayEnqueue(ctx, tx, id, m.ExpectedVersion); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, insert, string(id), m.Op, string(m.Payload), m.RequestedBy, parent).Scan(&enqueued)
		if err != nil {
			return fmt.Errorf("insert a mutation: %w", refusedField("payload", err))
		}
		return keepKey(ctx, tx, id, m, enqueued)
	})
	return enqueued, err
}

// traceparent is the span that the request is served in, as the worker shall go on with it; nil: there is none.
func traceparent(ctx context.Context) *string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if parent := carrier.Get("traceparent"); parent != "" {
		return &parent
	}
	return nil
}

// keepable gives a subject as this database can keep it: where its encoding lacks a character of it, it is written with
// the escapes of a Go string.
func keepable(ctx context.Context, tx pgx.Tx, subject string) (string, error) {
	const query = `SELECT $1::text`
	if strings.IndexFunc(subject, func(c rune) bool { return c > unicode.MaxASCII }) < 0 {
		return subject, nil
	}
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, query, subject)
		return err
	})
	if _, lacks := errors.AsType[*stream.FieldError](refusedField("sub", err)); lacks {
		quoted := strconv.QuoteToASCII(subject)
		return quoted[1 : len(quoted)-1], nil
	}
	return subject, err
}

// mayEnqueue compares the topology, whose row is locked, with what the request expects. That is a statement of its own:
// the one that locks may have waited, and would see the head as it was before the wait.
func (s *Store) mayEnqueue(ctx context.Context, tx pgx.Tx, id stream.TopologyID, expected *int64) error {
	const query = `
SELECT t.status, t.version, h.in_flight, h.in_flight_bytes FROM topologies t
 JOIN topology_heads h ON h.topology_id = t.id
 WHERE t.id = $1::text::uuid`
	var (
		status                   string
		version, inFlight, bytes int64
	)
	if err := tx.QueryRow(ctx, query, string(id)).Scan(&status, &version, &inFlight, &bytes); err != nil {
		return fmt.Errorf("read the topology's version: %w", err)
	}
	switch {
	case status != "active" && status != "degraded":
		return conflict(stream.ErrNotAccepting,
			"the topology is %s: it takes mutations while it is active or degraded", status)
	case expected != nil && *expected != version+inFlight:
		return conflict(stream.ErrVersionConflict,
			"expected_version is %d, but the topology is at %d: version %d and %d mutations in flight; read it again",
			*expected, version+inFlight, version, inFlight)
	case s.maxFlight > 0 && (inFlight >= s.maxFlight || bytes >= maxFlightBytes):
		return conflict(stream.ErrTooMany,
			"%d mutations of %d bytes wait already (at most %d, or %d bytes): try again when some have finished",
			inFlight, bytes, s.maxFlight, maxFlightBytes)
	}
	return nil
}

// findKey gives the mutation that the request's key stands for, empty if none. The topology's row is locked, so of
// requests that race one is the first.
func findKey(
	ctx context.Context, tx pgx.Tx, id stream.TopologyID, m stream.NewMutation,
) (found stream.MutationID, _ error) {
	const query = `
SELECT mutation_id::text, body = $4 FROM mutation_keys
 WHERE topology_id = $1::text::uuid AND subject = $2 AND key = $3
   AND created_at > clock_timestamp() - $5::bigint * interval '1 microsecond'`
	if m.IdempotencyKey == "" {
		return "", nil
	}
	var same bool
	life := stream.KeyLife.Microseconds()
	err := tx.QueryRow(ctx, query, string(id), m.RequestedBy, m.IdempotencyKey, m.Body[:], life).Scan(&found, &same)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look the idempotency key up: %w", err)
	case !same:
		return "", conflict(stream.ErrKeyReused,
			"the Idempotency-Key was used with another body for mutation %s: use a new key for a new mutation", found)
	}
	return found, nil
}

// keepKey lets the request's key stand for the mutation, also if it stood for another one too long ago.
func keepKey(
	ctx context.Context, tx pgx.Tx, id stream.TopologyID, m stream.NewMutation, enqueued stream.MutationID,
) error {
	const insert = `
INSERT INTO mutation_keys (topology_id, subject, key, body, mutation_id, created_at)
VALUES ($1::text::uuid, $2, $3, $4, $5::text::uuid, clock_timestamp())
    ON CONFLICT (topology_id, subject, key)
    DO UPDATE SET body = excluded.body, mutation_id = excluded.mutation_id, created_at = excluded.created_at`
	if m.IdempotencyKey == "" {
		return nil
	}
	_, err := tx.Exec(ctx, insert, string(id), m.RequestedBy, m.IdempotencyKey, m.Body[:], string(enqueued))
	if err != nil {
		return fmt.Errorf("keep the idempotency key: %w", err)
	}
	return nil
}
