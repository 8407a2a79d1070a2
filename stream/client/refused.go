package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A RefusedError is an answer that is no stream.
type RefusedError struct {
	Status      int    // of HTTP
	Detail      string // the sentence of application/problem+json; empty: there was none
	ContentType string // of the answer: with status 200 it is what shows that this is no topostream
}

func (e *RefusedError) Error() string {
	if e.Status == http.StatusOK {
		return fmt.Sprintf("the server answered with %q, not with a stream of events", e.ContentType)
	}
	return "the server answered " + e.Said()
}

// Said is the status, its text, and the detail: "404 Not Found no such topology".
func (e *RefusedError) Said() string {
	said := []string{strconv.Itoa(e.Status), http.StatusText(e.Status), e.Detail}
	return strings.Join(strings.Fields(strings.Join(said, " ")), " ")
}

// Is knows ErrUnauthorized, ErrForbidden and ErrNotFound by the status.
func (e *RefusedError) Is(target error) bool {
	switch e.Status {
	case http.StatusUnauthorized:
		return target == ErrUnauthorized
	case http.StatusForbidden:
		return target == ErrForbidden
	case http.StatusNotFound:
		return target == ErrNotFound
	}
	return false
}

// comesBack tells whether another try may help.
func (e *RefusedError) comesBack() bool {
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// refusal is what a server said instead of a stream; nil: it is a stream.
func refusal(r *http.Response) *RefusedError {
	contentType := r.Header.Get("Content-Type")
	if r.StatusCode == http.StatusOK && strings.HasPrefix(contentType, "text/event-stream") {
		return nil
	}
	var problem struct{ Detail string }
	body, _ := io.ReadAll(io.LimitReader(r.Body, 4<<10)) // what is cut off is no JSON
	_ = json.Unmarshal(body, &problem)                   // and what is no problem+json has no detail
	return &RefusedError{Status: r.StatusCode, Detail: problem.Detail, ContentType: contentType}
}

// retryAfter is the pause that an answer asks for (RFC 9110, section 10.2.3: seconds or a date); 0: none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
