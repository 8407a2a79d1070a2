package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/auth"
)

// cookieOf is the cookie that may hold a token.
const cookieOf = "topostream"

// Each place holds another subject's credential.
func TestTheOrderOfCredentialsIsTheInterfaces(t *testing.T) {
	t.Parallel()
	secret := []byte(strings.Repeat("s", 32))
	verifier, err := auth.New(auth.Config{Secret: secret, Cookie: cookieOf})
	if err != nil {
		t.Fatal(err)
	}
	token := func(subject string) string {
		text, err := auth.Sign(secret, auth.Claims{Subject: subject, Role: stream.RoleViewer, TTL: time.Hour}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const bad = "bad"
	for _, c := range []struct {
		given                string // the places that hold something, + good, - bad
		onStreams, elsewhere string // whose it is taken for; bad: nobody's
	}{
		{"bearer+ ticket+ token+ cookie+", "bearer", "bearer"},
		{"ticket+ token+ cookie+", "ticket", "token"},
		{"token+ cookie+", "token", "token"},
		{"cookie+", "cookie", "cookie"},
		{"", bad, bad},
		{"bearer- ticket+ token+ cookie+", bad, bad},
		{"ticket- token+ cookie+", bad, "token"},
		{"token- cookie+", bad, bad},
		{"ticket+ cookie+", "ticket", "cookie"},
		{"basic+ ticket+ token+", "ticket", "token"},
		{"bearer+ ticket- token- cookie-", "bearer", "bearer"},
	} {
		for _, onStreams := range []bool{true, false} {
			s, book := ticketServer()
			s.cfg.Auth = verifier.Authenticate
			book.unused["good"] = stream.Principal{Subject: "ticket"}
			r := httptest.NewRequest(http.MethodGet, anEvents, nil)
			query := r.URL.Query()
			for given := range strings.FieldsSeq(c.given) {
				name, isGood := given[:len(given)-1], given[len(given)-1] == '+'
				value := bad
				if isGood {
					value = token(name)
				}
				switch name {
				case "bearer":
					r.Header.Set("Authorization", "Bearer "+value)
				case "basic":
					r.Header.Set("Authorization", "Basic "+value)
				case "ticket":
					query.Set("ticket", map[bool]string{true: "good", false: bad}[isGood])
				case "token":
					query.Set("token", value)
				case "cookie":
					r.AddCookie(&http.Cookie{Name: cookieOf, Value: value})
				}
			}
			r.URL.RawQuery = query.Encode()
			w := &reply{ResponseWriter: httptest.NewRecorder(), takesTickets: onStreams}
			p, err := s.resolve(w, r)
			got, want := p.Subject, c.elsewhere
			if onStreams {
				want = c.onStreams
			}
			if err != nil {
				got = bad
			}
			if got != want || p.Ambient != (got == "cookie") {
				t.Errorf("%s, streams %t: %+v %v, want %s", c.given, onStreams, p, err, want)
			}
			if asked := onStreams && strings.Contains(c.given, "ticket") && !strings.Contains(c.given, "bearer"); asked !=
				(book.asked == 1) {
				t.Errorf("%s, streams %t: the database was asked %d times", c.given, onStreams, book.asked)
			}
		}
	}
}

// A slowBook answers none before all are asked that may be.
type slowBook struct {
	stream.Tickets

	mu    sync.Mutex
	asked int
	may   chan struct{}
}

func (b *slowBook) Redeem(_ context.Context, ticket string) (stream.Principal, error) {
	b.mu.Lock()
	b.asked++
	b.mu.Unlock()
	<-b.may
	if ticket == "good" {
		return stream.Principal{Subject: "u"}, nil
	}
	return stream.Principal{}, stream.ErrNoTicket
}

// Were guesses counted only once the database has answered, any number could pass while it is slow.
func TestGuessesThatComeAtOnceAskTheDatabaseNoMoreThanOthers(t *testing.T) {
	t.Parallel()
	const limit, guesses = 20, 300
	s, _ := ticketServer()
	s.limits = newLimits(limit)
	book := &slowBook{may: make(chan struct{})}
	s.cfg.Tickets = book
	codes := make(chan int, guesses)
	for i := range guesses {
		go func() { codes <- ask(s, http.MethodGet, fmt.Sprintf("%s?ticket=guess%d", anEvents, i), "").Code }()
	}
	late := time.After(patience)
	for range guesses - limit {
		select {
		case code := <-codes:
			if code != http.StatusTooManyRequests {
				t.Errorf("%d before the database has answered", code)
			}
		case <-late:
			close(book.may)
			t.Fatalf("the database is asked %d times at once", book.asked)
		}
	}
	close(book.may)
	for range limit {
		if code := <-codes; code != http.StatusUnauthorized {
			t.Errorf("%d", code)
		}
	}
	if book.asked != limit || len(s.limits.guesses) != 0 {
		t.Errorf("the database was asked %d times; %v", book.asked, s.limits.guesses)
	}
}

// A good ticket gives its place back, so that any number of them may come.
func TestGoodTicketsCountNothing(t *testing.T) {
	t.Parallel()
	const limit = 20
	s, _ := ticketServer()
	s.limits = newLimits(limit)
	book := &slowBook{may: make(chan struct{})}
	close(book.may)
	s.cfg.Tickets = book
	for range 3 * limit {
		r := httptest.NewRequest(http.MethodGet, anEvents+"?ticket=good", nil)
		if p, err := s.resolve(&reply{ResponseWriter: httptest.NewRecorder(), takesTickets: true}, r); p.Subject != "u" {
			t.Fatal(err)
		}
	}
	if len(s.limits.guesses) != 0 || book.asked != 3*limit {
		t.Errorf("%v, asked %d times", s.limits.guesses, book.asked)
	}
}
