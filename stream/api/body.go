package api

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"topostream/stream"
)

const (
	maxBody = 1 << 20 // bytes
	// smallBody is the largest body that is not accounted for: it takes about as much memory as its connection.
	smallBody = 16 << 10
	// bodyCopies is how often a body is in memory at the same time: as it came, parsed, and as it goes to the database.
	bodyCopies = 3
)

// A requestError is an error that has its status with it.
type requestError struct {
	status int
	detail string // the sentence for the client
}

func (e *requestError) Error() string { return e.detail }

func badRequest(status int, detail string, args ...any) error {
	return &requestError{status, fmt.Sprintf(detail, args...)}
}

// A body is what a request sent. Release it when the request is answered.
type body struct {
	bytes []byte
	room  *stream.Room // nil: it is in no account
}

func (b body) release() {
	if b.room != nil {
		b.room.Release()
	}
}

// readBody reads the JSON body of a request, or says with a *requestError why it cannot.
//
// A body without Content-Type, or with the one that curl sends by default, is read as JSON; one of any other type is
// refused.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) (b body, err error) {
	if given := r.Header.Get("Content-Type"); given != "" {
		mediaType, _, err := mime.ParseMediaType(given)
		if err != nil || mediaType != "application/json" && mediaType != "application/x-www-form-urlencoded" {
			return b, badRequest(http.StatusUnsupportedMediaType,
				"Content-Type: %.80q is not understood here: send application/json", given)
		}
	}
	size := r.ContentLength
	if size < 0 || size > maxBody { // it is chunked, or will be refused
		size = maxBody
	}
	if size > smallBody {
		if b.room, err = reserve(r.Context(), s.forBodies, bodyCopies*size); err != nil {
			return b, err
		}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout)) // a writer without deadlines has no slow clients
	buffer := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // so that it never grows
	_, err = buffer.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	b.bytes = buffer.Bytes()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return b, badRequest(http.StatusRequestEntityTooLarge,
			"body: is larger than %d bytes (1 MiB): make it smaller", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return b, badRequest(http.StatusRequestTimeout, "body: did not arrive within %s", s.cfg.BodyTimeout)
	case err != nil:
		return b, badRequest(http.StatusBadRequest, "body: ended too early: send all that Content-Length promises")
	}
	// As above. After an error it stays: net/http reads what is left of a body.
	_ = control.SetReadDeadline(time.Time{})
	return b, nil
}

// parseBody reads a body and parses it. The body is released by the caller, also after an error.
func parseBody[T any](
	s *Server, w http.ResponseWriter, r *http.Request, parse func([]byte) (T, error),
) (v T, b body, err error) {
	if b, err = s.readBody(w, r); err == nil {
		v, err = parse(b.bytes)
	}
	return v, b, err
}

// idempotencyKey reads the header Idempotency-Key; empty: none was sent.
func idempotencyKey(r *http.Request) (string, error) {
	const maxKey = 200
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) == 0 {
		return "", nil
	}
	plain := func(c rune) bool { return c >= ' ' && c <= '~' }
	if len(keys) > 1 || keys[0] == "" || len(keys[0]) > maxKey || strings.TrimFunc(keys[0], plain) != "" {
		return "", refused("Idempotency-Key", "give one key of 1 to %d printable ASCII characters", maxKey)
	}
	return keys[0], nil
}
