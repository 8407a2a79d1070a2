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

// LastWords is how long the last frame of a stream whose token has expired, or that has lost its place, may take.
const LastWords = time.Second

// CrowdedRetry is the retry time for a client for whom there is no place: long, because a place is rarely free soon.
const CrowdedRetry = 15 * time.Second

// NoPlace is what a client is told whose connection cannot be carried.
const NoPlace = "this server cannot take the connection now"

// goodbye gives the last frame of a stream, which says why it ends; nil: the client has gone, or knows.
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
	if errors.Is(why, ErrReplaced) { // a client that still reads it would come back at once for the place that it lost
		last = sse.AppendOpening(nil, Spread(CrowdedRetry))
	}
	return append(last, sse.Reason(id, event, Reason(why), time.Now()).Bytes...)
}

// farewell gives the last frame of one topology's part of a stream, which says why it ends.
func farewell(id stream.TopologyID, why error) []byte {
	if errors.Is(why, stream.ErrNotFound) || errors.Is(why, stream.ErrDeleted) {
		return sse.Gone(id, time.Now()).Bytes
	}
	return sse.Unavailable(id, Reason(why), time.Now()).Bytes
}

// TurnAway is the whole of a stream that cannot begin now: it says after which time to come back, and why not now.
func TurnAway(id stream.TopologyID, reason string, after time.Duration) []byte {
	return append(sse.AppendOpening(nil, Spread(after)), sse.Reason(id, "unavailable", reason, time.Now()).Bytes...)
}

// Spread draws a time between d and twice d, in milliseconds, so that clients that were sent away at the same moment do
// not come back at the same moment.
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
