package api

import (
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/httprate"
)

// rateWindow is what a rate is counted over, and so the time after which a client that had too many may try again.
const rateWindow = time.Minute

// limits are the rates of requests. Nil counts nothing.
//
// Streams and requests are counted for the subject of a valid token, and by nothing that those who share an address
// share: behind a NAT or a proxy ten thousand browsers have one. Only requests without a valid token are counted by
// address, and only they are refused for it: who floods an address that others have, too, cannot shut them out. Tickets
// are the exception: only the database knows a good one, and it is not asked while the address has failed too often.
type limits struct {
	perMinute          int
	subjects, failures *httprate.RateLimiter

	mu      sync.Mutex
	guesses map[string]int // by address: tickets that the database is being asked about
}

func newLimits(perMinute int) *limits {
	if perMinute <= 0 {
		return nil
	}
	// No X-RateLimit headers: an answer before authentication must not depend on what came before it.
	limiter := func() *httprate.RateLimiter {
		return httprate.NewRateLimiter(perMinute, rateWindow, httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
	}
	return &limits{perMinute: perMinute, subjects: limiter(), failures: limiter(), guesses: map[string]int{}}
}

// exceeded counts a request of a subject and tells whether it is one too many.
func (l *limits) exceeded(w http.ResponseWriter, r *http.Request, subject string) bool {
	return l != nil && l.subjects.OnLimit(w, r, subject)
}

// failed counts a request without a valid token and tells whether it is one too many. X-Forwarded-For is anybody's to
// write, and so is not read.
func (l *limits) failed(w http.ResponseWriter, r *http.Request) bool {
	address, ok := addressOf(r)
	return l != nil && ok && l.failures.OnLimit(w, r, address)
}

// guess takes a place for a ticket: only the database knows whether it is good, and it is not asked for an address that
// has failed too often. A ticket that is being asked about counts as failed already, so that guesses that come at the
// same moment are bounded, too.
// The place is given back by endGuess.
func (l *limits) guess(r *http.Request) bool {
	address, ok := addressOf(r)
	if l == nil || !ok {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, rate, err := l.failures.Status(address)
	if err == nil && int(math.Round(rate))+l.guesses[address]+1 > l.perMinute { // as failures counts
		return false
	}
	l.guesses[address]++
	return true
}

// endGuess gives back the place of a guess, and counts it as failed if the ticket was bad, in one step: in between the
// guess would count for nothing.
func (l *limits) endGuess(w http.ResponseWriter, r *http.Request, isBad bool) {
	address, ok := addressOf(r)
	if l == nil || !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if isBad {
		l.failures.OnLimit(w, r, address)
	}
	if l.guesses[address]--; l.guesses[address] == 0 {
		delete(l.guesses, address)
	}
}

// addressOf is the client's address; of IPv6 its network.
func addressOf(r *http.Request) (string, bool) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return httprate.CanonicalizeIP(host), err == nil
}
