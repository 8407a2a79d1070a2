package api

import (
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// timeHeader is the server's clock.
	timeHeader = "Topostream-Time"
	// roleHeader is what the client may do.
	roleHeader = "Topostream-Role"
	// sixDigits is how all times are given.
	sixDigits = "2006-01-02T15:04:05.000000Z"
)

// streamHeaders are those of every stream. By the last one a client can tell how long an event took to it.
func streamHeaders(now time.Time) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_ = yield("Content-Type", "text/event-stream") &&
			yield("Cache-Control", "no-cache, no-transform") && // proxies that compress hold frames back
			yield("X-Accel-Buffering", "no") &&
			yield(timeHeader, now.UTC().Format(sixDigits))
	}
}

// tellRole says in the head of a stream what its client may do, if that is known: a page offers no more.
func tellRole(w http.ResponseWriter) {
	if e := replyOf(w); e.role[0] != "" {
		w.Header()[roleHeader] = e.role[:]
	}
}

// heads makes the heads of streams that net/http does not write. All heads of one second share one text but for the
// fraction in timeHeader: formatting dates would cost a connect more than attaching it. Any goroutine may use it.
type heads struct{ latest atomic.Pointer[headOfSecond] }

// A headOfSecond is what the heads of a second begin with, as far as the point in the time.
type headOfSecond struct {
	unix int64
	text []byte // shared: nobody changes it
}

// append appends the head of a stream whose body ends with the connection (RFC 9112, section 6.3), with the headers
// that others have set.
func (h *heads) append(dst []byte, others http.Header, now time.Time) []byte {
	latest := h.latest.Load()
	if latest == nil || latest.unix != now.Unix() {
		latest = newHeadOfSecond(now)
		h.latest.Store(latest)
	}
	dst = append(dst, latest.text...)
	micros := now.Nanosecond() / 1000
	for unit := 100_000; unit > 0; unit /= 10 {
		dst = append(dst, '0'+byte(micros/unit%10))
	}
	dst = append(dst, "Z\r\n"...)
	return append(appendHeaders(dst, others), "\r\n"...)
}

func newHeadOfSecond(now time.Time) *headOfSecond {
	text := []byte("HTTP/1.1 200 OK\r\nConnection: close\r\nDate: ")
	text = append(now.UTC().AppendFormat(text, http.TimeFormat), "\r\n"...)
	for name, value := range streamHeaders(now) {
		text = append(append(append(append(text, name...), ": "...), value...), "\r\n"...)
	}
	return &headOfSecond{unix: now.Unix(), text: text[:len(text)-len("000000Z\r\n")]}
}

// appendHeaders appends what Header.Write would write, without what a writer costs: headers sorted by name, each value
// on one line.
func appendHeaders(dst []byte, h http.Header) []byte {
	var room [16]string
	names := slices.AppendSeq(room[:0], maps.Keys(h))
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			dst = append(append(dst, name...), ": "...)
			dst = append(appendLine(dst, strings.Trim(value, " \t\r\n")), "\r\n"...)
		}
	}
	return dst
}

// appendLine appends a header's value with line ends replaced by spaces, so that it cannot begin another header.
func appendLine(dst []byte, text string) []byte {
	begin := len(dst)
	dst = append(dst, text...)
	for i, c := range dst[begin:] {
		if c == '\r' || c == '\n' {
			dst[begin+i] = ' '
		}
	}
	return dst
}
