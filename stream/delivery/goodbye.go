package delivery

import (
	"errors"
	"math/rand/v2"
	"time"

	"topostream/stream"
	"topostream/stream/sse"
)

// Why a server ends a stream.
var (
	ErrExpired  = errors.New("the token has expired")
	ErrDraining = errors.New("the server is going away")
	ErrReplaced = errors.New("another stream of the same user took this one's place")
)

// LastWords is how long a stream that has lost its right may take to say so.
const LastWords = time.Second

// CrowdedRetry is the time after which a client may come back for whom there is no place: another try soon is likely in
// vain.
const CrowdedRetry = 15 * time.Second

// NoPlace is what a client is told whose connection cannot be carried.
const NoPlace = "this server cannot take the connection now"

// goodbye says why a stream ends, where the client is still there to hear it; nil: nobody is, or it knows.
func goodbye(id stream.TopologyID, why error) []byte {
	event := "unavailable"
	switch {
	case errors.Is(why, ErrExpired):
		event = "token_expired"
	case errors.Is(why, ErrDraining), errors.Is(why, ErrReplaced), errors.Is(why, stream.ErrUnavailable),
		errors.Is(why, stream.ErrClosed):
	default: // deleted, or the client has gone
		return nil
	}
	var last []byte
	if errors.Is(why, ErrReplaced) { // whoever still reads it would come back for the place that it lost
		last = sse.AppendOpening(nil, Spread(CrowdedRetry))
	}
	return append(last, sse.Reason(id, event, Reason(why), time.Now()).Bytes...)
}

// farewell says why one topology's part of a stream ends.
func farewell(id stream.TopologyID, why error) []byte {
	if errors.Is(why, stream.ErrNotFound) || errors.Is(why, stream.ErrDeleted) {
		return sse.Gone(id, time.Now()).Bytes
	}
	return sse.Unavailable(id, Reason(why), time.Now()).Bytes
}

// TurnAway is all that a stream says that cannot begin now: after which time to come back, and why.
func TurnAway(id stream.TopologyID, reason string, after time.Duration) []byte {
	return append(sse.AppendOpening(nil, Spread(after)), sse.Reason(id, "unavailable", reason, time.Now()).Bytes...)
}

// Spread gives a time of once to twice d in milliseconds, so that those who were sent away together do not come back
// together.
func Spread(d time.Duration) int { return int(d.Milliseconds()) + rand.N(int(d.Milliseconds())) }

// Reason is the sentence for the client: the sentinel's, never what was wrapped beside it.
func Reason(err error) string {
	if known, ok := errors.AsType[*stream.UnavailableError](err); ok {
		return known.Reason
	}
	for _, known := range []error{ErrDraining, ErrReplaced, ErrExpired, stream.ErrClosed, stream.ErrNoMemory} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return stream.ErrUnavailable.Error()
}
