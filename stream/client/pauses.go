package client

import (
	"math/rand/v2"
	"time"
)

// mostWish bounds what a server can ask for.
const mostWish = 5 * time.Minute

// pauses says how long to wait for the next connection.
type pauses struct {
	least, most time.Duration
	failures    int           // since a connection was good
	retry       time.Duration // the server's field retry: it holds until another comes (HTML standard, section 9.2.6)
	after       time.Duration // the last answer's Retry-After: it holds once
}

// next is the pause after a connection that is lost or did not come about. What the server says to all alike, and what
// this client thinks of by itself, is spread, so that those who were sent away together do not come back together; a
// server draws its field retry for each stream.
func (p *pauses) next() time.Duration {
	own := p.least
	for range p.failures {
		if own = 2 * own; own >= p.most {
			break
		}
	}
	own = min(own, p.most)
	own -= rand.N(own/2 + 1)
	after := min(p.after, mostWish)
	after += rand.N(after/2 + 1)
	p.failures, p.after = p.failures+1, 0
	return max(own, after, min(p.retry, mostWish))
}
