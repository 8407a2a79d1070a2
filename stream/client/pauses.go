package client

import (
	"math/rand/v2"
	"time"
)

// mostAsked bounds the pause that a server can ask for.
const mostAsked = 5 * time.Minute

// pauses says how long to wait for the next connection.
type pauses struct {
	least, most time.Duration
	failures    int           // since a connection was good
	retry       time.Duration // the server's field retry: it holds until another comes (HTML standard, section 9.2.6)
	after       time.Duration // the last answer's Retry-After: it holds once
}

// next is the pause after a connection that was lost or did not come about. The client's own pause and Retry-After,
// which a server says to all alike, are spread at random, so that clients that were sent away at the same moment do not
// come back at the same moment. The field retry is not: the server draws another one for each stream.
func (p *pauses) next() time.Duration {
	own := p.least
	for range p.failures {
		if own = 2 * own; own >= p.most {
			break
		}
	}
	own = min(own, p.most)
	own -= rand.N(own/2 + 1)
	after := min(p.after, mostAsked)
	after += rand.N(after/2 + 1)
	p.failures, p.after = p.failures+1, 0
	return max(own, after, min(p.retry, mostAsked))
}
