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
// they are written, and large bodies of requests. Each has a part of its own, so that clients that take their answers
// slowly keep neither events from the feeds nor others from writing.
const (
	answersPart   = 4         // a quarter
	bodiesPart    = 8         // an eighth
	defaultMemory = 256 << 20 // where Config has none
	// reserveWait is how long a request waits for memory.
	reserveWait = 5 * time.Second
	// readTries are those to read what was larger than its room each time.
	readTries = 3
)

// Room for answers, in bytes, as long as their size is not known.
const (
	listRoom       = 256 << 10
	graphRoom      = 1 << 20
	mutationsBytes = 4 << 20 // the longest page; but for its first row
	journalBytes   = 4 << 20 // as above; but for its first event
)

// reserve waits for room. It returns stream.ErrNoMemory.
func reserve(ctx context.Context, share *stream.Share, size int64) (*stream.Room, error) {
	ctx, cancel := context.WithTimeout(ctx, reserveWait)
	defer cancel()
	return share.Reserve(ctx, size)
}

// reading reads something within a share: in so much room first, and again in as much as it says that it takes. The
// caller releases the room, unless there is an error. Nobody waits for room with a connection to the database in
// hand.
func reading[T any](
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
	begin(w, http.StatusOK, "application/json")
	_, _ = w.Write(body)         // the client may be gone
	_, _ = w.Write([]byte{'\n'}) // as above
}
