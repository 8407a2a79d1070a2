package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What operators read of somebody else's words.
const (
	maxLines = 10
	maxBytes = 2000
)

// A timeoutError is the cause of a context that limit made, when its time is over.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprint("timed out after ", time.Duration(e)) }

// limit gives ctx a timeout; 0 is none.
func limit(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, timeoutError(timeout))
}

// stopped is the error of a context of limit's that has ended: a reason if its time was over, else one that wraps the
// caller's cause.
func stopped(ctx context.Context) error {
	cause := context.Cause(ctx)
	if timeout, ok := errors.AsType[timeoutError](cause); ok {
		return timeout
	}
	return fmt.Errorf("stopped before it was done: %w", cause)
}

// A tail keeps the end of what is written to it.
type tail struct{ b []byte }

// kept is enough for maxBytes after clean, whatever the encoding.
const kept = 4 * maxBytes

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-kept):]...)
	if extra := len(t.b) - kept; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

// lines gives the last lines that are not empty, at most maxLines of them and maxBytes bytes.
func (t *tail) lines() string {
	var lines []string
	for line := range strings.Lines(string(t.b)) {
		if line = clean(line); line != "" {
			lines = append(lines, line)
		}
	}
	s := strings.Join(lines[max(0, len(lines)-maxLines):], "\n")
	s = s[max(0, len(s)-maxBytes):]
	for s != "" && !utf8.RuneStart(s[0]) { // a character was cut
		s = s[1:]
	}
	return strings.TrimSpace(s)
}

// clean makes one line of text fit to be shown: valid UTF-8 without control characters.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, string(utf8.RuneError))))
}

// firstLine gives the first line that is not empty, at most maxBytes of it.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = clean(line); line != "" {
			return strings.ToValidUTF8(line[:min(len(line), maxBytes)], "") // a character may be cut
		}
	}
	return ""
}
