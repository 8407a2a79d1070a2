package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"topostream/stream"
)

const maxBody = 1 << 20 // bytes

// A requestError is what is wrong with a request as such.
type requestError struct {
	status int
	detail string
}

func (e *requestError) Error() string { return e.detail }

// readBody reads the JSON body of a request, or says with a *requestError why it cannot.
//
// A request without Content-Type, or with the one that curl sends unless told otherwise, is taken at its word; one
// with another type is not guessed at.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if given := r.Header.Get("Content-Type"); given != "" {
		mediaType, _, err := mime.ParseMediaType(given)
		if err != nil || mediaType != "application/json" && mediaType != "application/x-www-form-urlencoded" {
			return nil, &requestError{http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type: %.80q is not understood here: send application/json", given)}
		}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(s.cfg.BodyTimeout)) // a writer without deadlines has no slow clients
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &requestError{http.StatusBadRequest, fmt.Sprintf("body: is larger than %d bytes (1 MiB): make it smaller", tooLarge.Limit)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &requestError{http.StatusRequestTimeout, fmt.Sprintf("body: did not arrive within %s", s.cfg.BodyTimeout)}
	case err != nil:
		return nil, &requestError{http.StatusBadRequest, "body: ended too early: send all that Content-Length promises"}
	}
	_ = control.SetReadDeadline(time.Time{}) // as above. After an error it stays: net/http reads what is left of a body
	return body, nil
}

// parseBody reads a body and parses it.
func parseBody[T any](s *Server, w http.ResponseWriter, r *http.Request, parse func([]byte) (T, error)) (v T, body []byte, err error) {
	if body, err = s.readBody(w, r); err == nil {
		v, err = parse(body)
	}
	return v, body, err
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
		return "", &stream.FieldError{Field: "Idempotency-Key", Problem: fmt.Sprintf("give one key of 1 to %d printable ASCII characters", maxKey)}
	}
	return keys[0], nil
}
