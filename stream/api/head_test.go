package api

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The head is that of net/http, made in another way: each of its headers, in that order, and no other line.
func TestTheHeadOfAStreamIsWrittenAsNetHTTPWritesHeaders(t *testing.T) {
	t.Parallel()
	others := http.Header{
		"X-Frame-Options": {"DENY"}, "Vary": {"Origin", "Access-Control-Request-Method"},
		"A-Line":   {" \t one\r\ntwo: three\r\n\r\nfour \n"},
		"An-Empty": {""},
	}
	for i := range 20 { // more than there is room for without another allocation
		others["X-"+string(rune('A'+i))] = []string{strings.Repeat("x", i)}
	}
	var h heads
	for _, now := range []time.Time{
		time.Date(2026, 11, 29, 23, 59, 59, 999_999_999, time.FixedZone("east", 3600)),
		time.Date(2026, 11, 29, 23, 59, 59, 7_000, time.FixedZone("east", 3600)),
		time.Date(2026, 11, 29, 23, 0, 0, 0, time.UTC), // later than the hour of that zone
		time.Date(2027, 2, 3, 4, 5, 6, 123_456_000, time.UTC),
	} {
		var want bytes.Buffer
		want.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\nDate: " + now.UTC().Format(http.TimeFormat) + "\r\n")
		for name, value := range streamHeaders(now) {
			want.WriteString(name + ": " + value + "\r\n")
		}
		if err := others.Write(&want); err != nil {
			t.Fatal(err)
		}
		want.WriteString("\r\n")
		if got := h.append([]byte("> "), others, now); string(got) != "> "+want.String() {
			t.Errorf("%s:\n%q\n%q", now, got, want.String())
		}
	}
}

func TestTheTimeOfAHeadIsThePresentToTheMicrosecond(t *testing.T) {
	t.Parallel()
	var h heads
	begin := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for _, after := range []time.Duration{0, time.Microsecond, 999_999 * time.Microsecond, time.Second, time.Minute, 0} {
		now := begin.Add(after) // the last one is a clock that was set back
		head := h.append(nil, http.Header{}, now)
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close() // it has none
		told, err := time.Parse(sixDigits, res.Header.Get(timeHeader))
		if err != nil || !told.Equal(now) {
			t.Errorf("%s, %v, want %s", told, err, now)
		}
		date, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil || !date.Equal(now.Truncate(time.Second)) {
			t.Errorf("%s, %v, want %s", date, err, now)
		}
	}
}

func TestAHeadCostsNoAllocation(t *testing.T) { //nolint:paralleltest // AllocsPerRun counts those of all goroutines
	var h heads
	now := time.Now()
	room, others := make([]byte, 0, 4<<10), http.Header{"X-Frame-Options": {"DENY"}, "Vary": {"Origin"}}
	h.append(room, others, now)
	if n := testing.AllocsPerRun(100, func() { room = slices.Clip(h.append(room[:0], others, now))[:0] }); n != 0 {
		t.Errorf("%.0f", n)
	}
}
