package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"topostream/stream"
)

// What is held for HTTP, beside streams, is in the account of --feed-memory: answers, from before they are read until
// they are written, and large bodies of requests. Each of the two has a share of its own, so that clients that take
// their answers slowly keep neither events out of the feeds nor the bodies of others out of memory.
const (
	answersPart   = 4         // a quarter
	bodiesPart    = 8         // an eighth
	defaultMemory = 256 << 20 // where Config has none
	// reserveWait is how long a request waits for memory.
	reserveWait = 5 * time.Second
	// readTries is how often something is read that was larger than its room each time.
	readTries = 3
)

// Room for answers, in bytes, while their size is not known.
const (
	listRoom       = 256 << 10
	graphRoom      = 1 << 20
	mutationsBytes = 4 << 20 // the longest page; a first row alone may be longer
	journalBytes   = 4 << 20 // the longest page; a first event alone may be longer
)

// reserve waits for room. It returns stream.ErrNoMemory.
func reserve(ctx context.Context, share *stream.Share, size int64) (*stream.Room, error) {
	ctx, cancel := context.WithTimeout(ctx, reserveWait)
	defer cancel()
	return share.Reserve(ctx, size)
}

// readWithin reads something of unknown size within a share: first with room for size bytes, then, if that was too
// little, with room for as many as it said that it takes. The caller releases the room, unless there is an error. Room
// is waited for between the reads, so that nobody holds a connection to the database meanwhile.
func readWithin[T any](
	ctx context.Context, share *stream.Share, size int64, read func(ctx context.Context, most int64) (T, error),
) (v T, room *stream.Room, err error) {
	for range readTries {
		if room, err = reserve(ctx, share, size); err != nil {
			return v, nil, err
		}
		if v, err = read(ctx, size); err == nil {
			return v, room, nil
		}
		room.Release()
		tooLarge, ok := errors.AsType[*stream.TooLargeError](err)
		if !ok {
			return v, nil, err
		}
		size = tooLarge.Bytes + tooLarge.Bytes/8 // it may grow meanwhile
	}
	return v, nil, fmt.Errorf("%w: it grows faster than it is read: %w", stream.ErrUnavailable, err)
}

// writeHeld answers with JSON that was read, and gives its room back when the client has taken it. A client that takes
// nothing within the write timeout loses it (see paced).
func (s *Server) writeHeld(w http.ResponseWriter, body []byte, room *stream.Room) {
	defer room.Release()
	room.Shrink(int64(len(body)))
	beginAnswer(w, http.StatusOK, "application/json")
	_, _ = w.Write(body)         // the client may be gone
	_, _ = w.Write([]byte{'\n'}) // as above
}
