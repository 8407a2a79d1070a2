package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/postgres"
	"topostream/stream"
)

const (
	ticketSize  = 32  // bytes of randomness
	ticketBatch = 500 // in one transaction
	// ticketsOfOne is about how many unused tickets one subject may have: minted on several servers at the same moment,
	// there may be some more.
	ticketsOfOne = 1000
	ticketWait   = 5 * time.Second
	// ticketStatement is how long one transaction may take: less than ticketWait, so that those who came during one that
	// timed out still have time for the next.
	ticketStatement = 4 * time.Second
)

// Tickets implement stream.Tickets on PostgreSQL. Make them with NewTickets.
//
// Those who wait at the same time share a transaction, and a client that asks while nobody does has one at once. It
// takes two of the pool's connections at most, and no goroutine: a transaction belongs to one of those who wait for
// it.
type Tickets struct {
	pool   *pgxpool.Pool
	mint   batcher[newTicket, minted]
	redeem batcher[ticketHash, redeemed]
}

var _ stream.Tickets = (*Tickets)(nil)

type ticketHash [sha256.Size]byte

type newTicket struct {
	hash      ticketHash
	principal stream.Principal
}

type minted struct {
	life time.Duration
	ok   bool
}

type redeemed struct {
	principal stream.Principal
	ok        bool
}

// NewTickets makes tickets that are kept in a pool's database.
func NewTickets(pool *pgxpool.Pool) *Tickets {
	t := &Tickets{pool: pool}
	t.mint.most, t.mint.run = ticketBatch, t.mintAll
	t.redeem.most, t.redeem.run = ticketBatch, t.redeemAll
	return t
}

// Mint implements stream.Tickets.
func (t *Tickets) Mint(ctx context.Context, p stream.Principal) (ticket string, life time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ticketWait, stream.ErrUnavailable)
	defer cancel()
	random := make([]byte, ticketSize)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	ticket = base64.RawURLEncoding.EncodeToString(random)
	m, err := t.mint.ask(ctx, newTicket{sha256.Sum256([]byte(ticket)), p})
	switch {
	case err != nil:
		return "", 0, err
	case !m.ok:
		return "", 0, stream.ErrTooManyTickets
	}
	return ticket, m.life, nil
}

// Redeem implements stream.Tickets. What cannot be a ticket costs the database nothing.
func (t *Tickets) Redeem(ctx context.Context, ticket string) (stream.Principal, error) {
	if len(ticket) != base64.RawURLEncoding.EncodedLen(ticketSize) {
		return stream.Principal{}, stream.ErrNoTicket
	}
	// The decoder skips line ends, so that a text with one in it gives too few bytes.
	if raw, err := base64.RawURLEncoding.Strict().DecodeString(ticket); err != nil || len(raw) != ticketSize {
		return stream.Principal{}, stream.ErrNoTicket // and not err, which quotes it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, ticketWait, stream.ErrUnavailable)
	defer cancel()
	r, err := t.redeem.ask(ctx, sha256.Sum256([]byte(ticket)))
	switch {
	case err != nil:
		return stream.Principal{}, err
	case !r.ok:
		return stream.Principal{}, stream.ErrNoTicket
	}
	return r.principal, nil
}

// mintAll stores those tickets that their subjects may still have.
func (t *Tickets) mintAll(ctx context.Context, tickets []newTicket) ([]minted, error) {
	const insert = `
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
     asked AS MATERIALIZED (
       SELECT hash, subject, role, topologies::uuid[] AS topologies, token_expires,
              row_number() OVER (PARTITION BY subject) AS nth
         FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::timestamptz[])
              AS a (hash, subject, role, topologies, token_expires)),
     unused AS MATERIALIZED (
       SELECT t.subject, count(*) AS n FROM sse_tickets t, clock
        WHERE t.subject IN (SELECT subject FROM asked) AND t.expires > clock.now GROUP BY t.subject)
INSERT INTO sse_tickets (hash, subject, role, topologies, token_expires, expires)
SELECT a.hash, a.subject, a.role, a.topologies, a.token_expires,
       least(clock.now + $6::bigint * interval '1 microsecond', a.token_expires)
  FROM asked a CROSS JOIN clock LEFT JOIN unused u ON u.subject = a.subject
 WHERE a.nth + coalesce(u.n, 0) <= $7
RETURNING hash, (extract(epoch FROM expires - (SELECT now FROM clock)) * 1000000)::bigint`
	var (
		hashes, subjects = make([][]byte, len(tickets)), make([][]byte, len(tickets))
		roles            = make([]string, len(tickets))
		topologies       = make([]*string, len(tickets))
		expires          = make([]*time.Time, len(tickets))
	)
	for i, n := range tickets {
		hashes[i], subjects[i], roles[i] = n.hash[:], []byte(n.principal.Subject), string(n.principal.Role)
		topologies[i], expires[i] = arrayOf(n.principal.Topologies), storable(n.principal.Expires)
	}
	lives := make(map[ticketHash]time.Duration, len(tickets))
	err := t.transaction(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, insert, hashes, subjects, roles, topologies, expires,
			stream.TicketLife.Microseconds(), ticketsOfOne)
		if err != nil {
			return fmt.Errorf("mint tickets: %w", err)
		}
		var (
			hash   []byte
			micros int64
		)
		_, err = pgx.ForEachRow(rows, []any{&hash, &micros}, func() error {
			life := time.Duration(micros) * time.Microsecond
			lives[ticketHash(hash)] = max(life, 0) // less: the token has ended by the database's clock
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]minted, len(tickets))
	for i, n := range tickets {
		out[i].life, out[i].ok = lives[n.hash]
	}
	return out, nil
}

// redeemAll deletes the tickets that are there, and gives what they stood for to the first who asks for each. Two
// servers lock them in the same order, so that nobody who knows two tickets can have the transactions of others end
// in a deadlock.
func (t *Tickets) redeemAll(ctx context.Context, hashes []ticketHash) ([]redeemed, error) {
	const remove = `
WITH mine AS MATERIALIZED (
       SELECT hash FROM sse_tickets WHERE hash = ANY ($1::bytea[]) AND expires > clock_timestamp()
        ORDER BY hash FOR UPDATE)
DELETE FROM sse_tickets t USING mine WHERE t.hash = mine.hash
RETURNING t.hash, t.subject, t.role, t.topologies::text[], t.token_expires`
	texts := make([][]byte, len(hashes))
	for i := range hashes {
		texts[i] = hashes[i][:]
	}
	found := make(map[ticketHash]stream.Principal, len(hashes))
	err := t.transaction(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, remove, texts)
		if err != nil {
			return fmt.Errorf("redeem tickets: %w", err)
		}
		var (
			hash, subject []byte
			role          stream.Role
			topologies    []stream.TopologyID
			expires       *time.Time
		)
		_, err = pgx.ForEachRow(rows, []any{&hash, &subject, &role, &topologies, &expires}, func() error {
			p := stream.Principal{Subject: string(subject), Role: role, Topologies: topologies}
			if expires != nil {
				p.Expires = *expires
			}
			found[ticketHash(hash)] = p
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]redeemed, len(hashes))
	for i, hash := range hashes {
		out[i].principal, out[i].ok = found[hash]
		delete(found, hash)
	}
	return out, nil
}

// transaction runs do once, for all who wait for it. At a stricter isolation level, which a database may have as its
// default, who comes second to a ticket would fail with all that wait with it.
func (t *Tickets) transaction(ctx context.Context, do func(context.Context, pgx.Tx) error) error {
	const begin = `
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '3s'; SET LOCAL array_nulls = on`
	ctx, cancel := context.WithTimeout(ctx, ticketStatement)
	defer cancel()
	err := pgx.BeginTxFunc(ctx, t.pool, pgx.TxOptions{BeginQuery: begin}, func(tx pgx.Tx) error { return do(ctx, tx) })
	if postgres.Away(err) {
		return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
	}
	return err
}

// arrayOf is an array in PostgreSQL's text form, NULL for nil. (As an array of arrays, unnest would take it apart.)
func arrayOf(ids []stream.TopologyID) *string {
	if ids == nil {
		return nil
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	array := "{" + strings.Join(texts, ",") + "}"
	return &array
}

// storable is a time that PostgreSQL can store, NULL for none: a token may say that it ends a million years from now.
func storable(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	if latest := time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC); at.After(latest) {
		return &latest
	}
	return &at
}
