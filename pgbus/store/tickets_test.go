package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A ticketCounter counts the statements about tickets.
type ticketCounter struct{ minted, redeemed atomic.Int64 }

func (c *ticketCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	switch {
	case strings.Contains(q.SQL, "INSERT INTO sse_tickets"):
		c.minted.Add(1)
	case strings.Contains(q.SQL, "DELETE FROM sse_tickets"):
		c.redeemed.Add(1)
	}
	return ctx
}

func (*ticketCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// newTickets makes the tickets of one server.
func newTickets(t *testing.T, db *pgtest.DB) (*Tickets, *ticketCounter) {
	t.Helper()
	count := &ticketCounter{}
	return NewTickets(newPool(t, db, func(c *pgxpool.Config) { c.ConnConfig.Tracer = count })), count
}

func mint(t *testing.T, tickets *Tickets, p stream.Principal) string {
	t.Helper()
	ticket, _, err := tickets.Mint(t.Context(), p)
	must(t, err)
	return ticket
}

func TestATicketStandsOnceForWhoMintedItOnEveryServer(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	here, _ := newTickets(t, db)
	there, _ := newTickets(t, db)
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	for _, p := range []stream.Principal{
		{Subject: "ada", Role: stream.RoleViewer, Expires: hour},
		{Role: stream.RoleAdmin, Topologies: []stream.TopologyID{}, Expires: hour},
		{Subject: "a\x00b \xff ü", Role: stream.RoleViewer, Topologies: []stream.TopologyID{
			"00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001",
		}},
		{
			Subject: strings.Repeat("ä", 100_000), Role: stream.RoleViewer,
			Expires: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		},
	} {
		ticket := mint(t, here, p)
		got, err := there.Redeem(t.Context(), ticket)
		must(t, err)
		if !got.Expires.Equal(p.Expires) {
			t.Errorf("it expires at %s, want %s", got.Expires, p.Expires)
		}
		if got.Expires = p.Expires; !reflect.DeepEqual(got, p) {
			t.Errorf("%.80v, want %.80v", fmt.Sprintf("%#v", got), fmt.Sprintf("%#v", p))
		}
		for _, server := range []*Tickets{here, there} {
			if _, err := server.Redeem(t.Context(), ticket); !errors.Is(err, stream.ErrNoTicket) {
				t.Errorf("a used one: %v", err)
			}
		}
	}
	far := mint(t, here, stream.Principal{Role: stream.RoleViewer, Expires: time.Unix(1<<60, 0)})
	got, err := here.Redeem(t.Context(), far)
	if err != nil || got.Expires.Year() < 9999 {
		t.Errorf("the token of a far future: %v, %v", got, err)
	}
}

func TestOnlyTheHashOfATicketIsStored(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, _ := newTickets(t, db)
	ticket := mint(t, tickets, stream.Principal{Subject: "ada", Role: stream.RoleViewer})
	conn := db.Conn(t)
	if !pgtest.Scan[bool](t, conn, `SELECT hash = sha256(convert_to($1, 'UTF8')) FROM sse_tickets`, ticket) {
		t.Error("the stored hash is another")
	}
	if all := pgtest.Scan[string](t, conn, `SELECT t::text FROM sse_tickets t`); strings.Contains(all, ticket) {
		t.Errorf("the row %s holds the ticket", all)
	}
	// A crash brings back no ticket that was used, also where synchronous_commit is off.
	const persistence = `SELECT relpersistence::text FROM pg_class WHERE oid = 'sse_tickets'::regclass`
	if kind := pgtest.Scan[string](t, conn, persistence); kind != "u" {
		t.Errorf("the table's persistence is %s", kind)
	}
}

func TestATicketLivesAMinuteAndNoLongerThanItsToken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, _ := newTickets(t, db)
	for _, c := range []struct {
		token     time.Duration // of the token, 0: it never ends
		low, high time.Duration
	}{
		{0, time.Minute, time.Minute}, {time.Hour, time.Minute, time.Minute},
		{40 * time.Second, 1, 40 * time.Second}, {-time.Second, 0, 0},
	} {
		p := stream.Principal{Subject: "ada", Role: stream.RoleViewer}
		if c.token != 0 {
			p.Expires = time.Now().Add(c.token)
		}
		_, life, err := tickets.Mint(t.Context(), p)
		if err != nil || life < c.low || life > c.high {
			t.Errorf("a token of %s: %s, %v", c.token, life, err)
		}
	}
	const late = `
SELECT count(*) FROM sse_tickets WHERE expires > token_expires OR expires > clock_timestamp() + interval '1 minute'`
	if n := pgtest.Scan[int](t, db.Conn(t), late); n != 0 {
		t.Errorf("%d tickets live too long", n)
	}
}

func TestAnExpiredTicketIsNone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	tickets, _ := newTickets(t, db)
	p := stream.Principal{Subject: "ada", Role: stream.RoleViewer}
	old := mint(t, tickets, p)
	pgtest.Exec(t, conn, `UPDATE sse_tickets SET expires = clock_timestamp()`)
	good := mint(t, tickets, p)
	if _, err := tickets.Redeem(t.Context(), old); !errors.Is(err, stream.ErrNoTicket) {
		t.Errorf("the expired one: %v", err)
	}
	if _, err := tickets.Redeem(t.Context(), good); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// blocked holds the table of tickets until free is called.
func blocked(t *testing.T, db *pgtest.DB) (free func()) {
	t.Helper()
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `BEGIN`)
	pgtest.Exec(t, conn, `LOCK TABLE sse_tickets`)
	return func() { pgtest.Exec(t, conn, `COMMIT`) }
}

// waits tells how many wait for the run after the one that is under way.
func waits[Q, A any](g *batcher[Q, A]) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

func TestThoseWhoWaitAtTheSameTimeShareATransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, count := newTickets(t, db)
	watcher := db.Conn(t)
	const n = 2*ticketBatch + 1
	var all sync.Map
	atOnce := func(what string, waiting func() int, one func(i int) error) {
		free := blocked(t, db)
		var clients sync.WaitGroup
		errs := make([]error, n)
		clients.Go(func() { errs[0] = one(0) })
		awaitLocked(t, watcher)
		for i := 1; i < n; i++ {
			clients.Go(func() { errs[i] = one(i) })
		}
		pgtest.Eventually(t, "all to "+what, func() bool { return waiting() == n-1 })
		free()
		clients.Wait()
		must(t, errors.Join(errs...))
	}
	atOnce("mint", func() int { return waits(&tickets.mint) }, func(i int) error {
		subject := strconv.Itoa(i)
		ticket, _, err := tickets.Mint(t.Context(), stream.Principal{Subject: subject, Role: stream.RoleViewer})
		all.Store(subject, ticket)
		return err
	})
	atOnce("redeem", func() int { return waits(&tickets.redeem) }, func(i int) error {
		subject := strconv.Itoa(i)
		ticket, _ := all.Load(subject)
		p, err := tickets.Redeem(t.Context(), ticket.(string)) //nolint:forcetypeassert // stored above
		if err == nil && p.Subject != subject {
			return fmt.Errorf("%s got the ticket of %s", subject, p.Subject)
		}
		return err
	})
	if minted, redeemed := count.minted.Load(), count.redeemed.Load(); minted != 3 || redeemed != 3 {
		t.Errorf("%d transactions minted and %d redeemed %d tickets, want 3 and 3: one for the first, two full ones",
			minted, redeemed, n)
	}
}

func TestOfThoseWhoWaitAtTheSameTimeForOneTicketOneGetsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, count := newTickets(t, db)
	watcher := db.Conn(t)
	p := stream.Principal{Role: stream.RoleViewer}
	before, ticket := mint(t, tickets, p), mint(t, tickets, p)
	free := blocked(t, db)
	var (
		clients sync.WaitGroup
		won     atomic.Int64
	)
	clients.Go(func() {
		if _, err := tickets.Redeem(t.Context(), before); err != nil {
			t.Error(err)
		}
	})
	awaitLocked(t, watcher)
	for range 100 {
		clients.Go(func() {
			switch _, err := tickets.Redeem(t.Context(), ticket); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, stream.ErrNoTicket):
				t.Error(err)
			}
		})
	}
	pgtest.Eventually(t, "all to wait", func() bool { return waits(&tickets.redeem) == 100 })
	free()
	clients.Wait()
	if won.Load() != 1 || count.redeemed.Load() != 2 {
		t.Errorf("%d redeemed it, in %d transactions", won.Load(), count.redeemed.Load()-1)
	}
}

func TestWhatCannotBeATicketCostsNoStatement(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, count := newTickets(t, db)
	ticket := mint(t, tickets, stream.Principal{Role: stream.RoleViewer})
	for _, garbage := range []string{
		"", "x", ticket[1:], ticket + "A", ticket + "=", ticket[:42] + "=", ticket[:42] + "+", ticket[:42] + "B",
		ticket[:42] + "\n", ticket[:41] + "A\n", ticket[:40] + "\nA\n",
		strings.Repeat("A", 1<<20), strings.Repeat("\x00", 43),
	} {
		_, err := tickets.Redeem(t.Context(), garbage)
		if err != stream.ErrNoTicket { //nolint:errorlint // bare, so that it quotes nothing
			t.Errorf("%.50q: %v", garbage, err)
		}
	}
	if n := count.redeemed.Load(); n != 0 {
		t.Errorf("%d statements", n)
	}
	if _, err := tickets.Redeem(t.Context(), ticket); err != nil || count.redeemed.Load() != 1 {
		t.Errorf("the ticket itself: %v", err)
	}
}

func TestOneSubjectHasAThousandUnusedTicketsAndKeepsNobodyElseOut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, _ := newTickets(t, db)
	ada := stream.Principal{Subject: "ada", Role: stream.RoleViewer}
	var (
		clients sync.WaitGroup
		good    = make(chan string, ticketsOfOne+50)
		refused atomic.Int64
	)
	for range ticketsOfOne + 50 {
		clients.Go(func() {
			switch ticket, _, err := tickets.Mint(t.Context(), ada); {
			case err == nil:
				good <- ticket
			case errors.Is(err, stream.ErrTooManyTickets):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	clients.Wait()
	if len(good) != ticketsOfOne || refused.Load() != 50 {
		t.Errorf("%d tickets, %d refused", len(good), refused.Load())
	}
	mint(t, tickets, stream.Principal{Subject: "bob", Role: stream.RoleViewer})
	_, err := tickets.Redeem(t.Context(), <-good)
	must(t, err)
	mint(t, tickets, ada)
	if _, _, err := tickets.Mint(t.Context(), ada); !errors.Is(err, stream.ErrTooManyTickets) {
		t.Errorf("one more: %v", err)
	}
	db.Exec(t, `UPDATE sse_tickets SET expires = clock_timestamp()`)
	mint(t, tickets, ada)
}

func TestWhoRacesForATicketAtAStricterIsolationLevelFailsNobody(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database());
END $$`)
	holder := db.Conn(t)
	servers := make([]*Tickets, 2)
	for i := range servers {
		servers[i], _ = newTickets(t, db)
	}
	for range 20 {
		ticket := mint(t, servers[0], stream.Principal{Role: stream.RoleViewer})
		// Both find the ticket, and neither can delete it yet.
		pgtest.Exec(t, holder, `BEGIN`)
		pgtest.Exec(t, holder, `SELECT FROM sse_tickets FOR UPDATE`)
		var (
			clients sync.WaitGroup
			won     atomic.Int64
		)
		for _, server := range servers {
			clients.Go(func() {
				_, err := server.Redeem(t.Context(), ticket)
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, stream.ErrNoTicket) {
					t.Error(err)
				}
			})
		}
		pgtest.Eventually(t, "both to wait", func() bool { return pgtest.Scan[int](t, conn, lockWaits) == 2 })
		pgtest.Exec(t, holder, `COMMIT`)
		clients.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d redeemed it", won.Load())
		}
	}
}

func TestATicketThatCouldNotBeAskedForIsStillGood(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tickets, _ := newTickets(t, db)
	watcher := db.Conn(t)
	p := stream.Principal{Role: stream.RoleViewer}
	first, second := mint(t, tickets, p), mint(t, tickets, p)
	free := blocked(t, db)
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() {
		_, err := tickets.Redeem(t.Context(), first) // until the lock is given up
		if !errors.Is(err, stream.ErrUnavailable) || strings.Contains(err.Error(), first) {
			t.Errorf("a held table: %v", err)
		}
	})
	awaitLocked(t, watcher)
	clients.Go(func() {
		if _, err := tickets.Redeem(ctx, second); !errors.Is(err, context.Canceled) {
			t.Errorf("who leaves: %v", err)
		}
	})
	pgtest.Eventually(t, "the second to wait", func() bool { return waits(&tickets.redeem) == 1 })
	leave()
	clients.Wait()
	free()
	for _, ticket := range []string{first, second} {
		if _, err := tickets.Redeem(t.Context(), ticket); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func TestWithoutADatabaseTheErrorsSaySo(t *testing.T) {
	t.Parallel()
	tickets := NewTickets(newPool(t, &pgtest.DB{URL: "postgres://x:y@127.0.0.1:1/z"}))
	ticket := strings.Repeat("A", 43)
	_, err := tickets.Redeem(t.Context(), ticket)
	if !errors.Is(err, stream.ErrUnavailable) || strings.Contains(err.Error(), ticket) {
		t.Errorf("redeem: %v", err)
	}
	if _, _, err := tickets.Mint(t.Context(), stream.Principal{}); !errors.Is(err, stream.ErrUnavailable) {
		t.Errorf("mint: %v", err)
	}
}
