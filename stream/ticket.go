package stream

import (
	"context"
	"errors"
	"time"
)

// TicketLife is how long a ticket can be redeemed, unless the token that minted it ends earlier.
const TicketLife = time.Minute

// Errors that Tickets return.
var (
	// ErrNoTicket: unknown, malformed, expired, or redeemed before. Which of them, nobody is told.
	ErrNoTicket = errors.New("no such ticket")
	// ErrTooManyTickets: the subject has as many as it may have that nobody has redeemed yet; a retry will help when some
	// have expired.
	ErrTooManyTickets = errors.New("too many tickets wait to be used")
)

// Tickets are credentials for one stream each, for clients that can send no header and whose addresses end up in
// logs. Any goroutine may call it. No error and no log holds a ticket.
//
// Both methods return ErrUnavailable (after at most 5 s) when the database could not be asked in time, or the
// context's error. Who calls may have to stay for a moment after its context has ended, for others who wait for the
// same statement.
type Tickets interface {
	// Mint makes a ticket that stands for p, and for nothing else, until p.Expires and for TicketLife at most. Life is
	// what is left of it, by the database's clock. It returns ErrTooManyTickets.
	Mint(ctx context.Context, p Principal) (ticket string, life time.Duration, err error)
	// Redeem gives the principal of a ticket once, whichever server minted it; everybody else gets ErrNoTicket. A ticket
	// whose answer is lost, because the connection broke or the caller went away meanwhile, is used.
	Redeem(ctx context.Context, ticket string) (Principal, error)
}
