package api

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/sse"
)

// twoFeeds gives the first who attaches one feed and all others the next, and remembers what they asked for.
type twoFeeds struct {
	stream.Bus

	feeds [2]*stream.Feed

	mu   sync.Mutex
	reqs []stream.AttachRequest
}

func (b *twoFeeds) Attach(_ context.Context, req stream.AttachRequest) (*stream.Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reqs = append(b.reqs, req)
	sub := &stream.Subscription{Close: func() {}}
	if req.Resume {
		sub.Cursor = b.feeds[1].Cursor(req.After)
		return sub, nil
	}
	feed := b.feeds[min(len(b.reqs), 2)-1]
	sub.Snapshot = stream.NewSnapshot(feed.Last(), sse.Encoder{}.Snapshot(feed.Last(), []byte("{}")), nil)
	sub.Cursor = feed.Cursor(feed.Last())
	return sub, nil
}

// idsUntil reads the ids of a stream's events, as "snapshot 7" or "x 8", up to the last.
func idsUntil(t *testing.T, lines *bufio.Scanner, last string) (got []string) {
	t.Helper()
	event := ""
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		}
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			if got = append(got, event+" "+id); got[len(got)-1] == last {
				return got
			}
		}
	}
	t.Errorf("the stream ended after %v: %v", got, lines.Err())
	return got
}

// A feed that retention has overtaken says nothing about what its clients have: another feed continues it.
func TestAStreamKeepsItsPlaceWhereItsFeedFellBehindAndNotWhereTheHistoryChanged(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols() {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			keepsItsPlace(t, protocol)
		})
	}
}

func keepsItsPlace(t *testing.T, protocol string) {
	t.Helper()
	for cause, want := range map[error][]string{
		stream.ErrBehind: {"snapshot 7", "x 8", "x 9", "x 10"},
		stream.ErrReset:  {"snapshot 7", "x 8", "snapshot 10"},
	} {
		event := func(seq stream.Seq) stream.Frame {
			return sse.Encoder{}.Event(stream.Event{Seq: seq, Type: "x", JSON: "{}"})
		}
		bus := &twoFeeds{}
		bus.feeds[0] = stream.NewFeed(stream.FeedConfig{Base: 7})
		bus.feeds[1] = stream.NewFeed(stream.FeedConfig{Base: 8})
		bus.feeds[1].Append(event(9))
		bus.feeds[1].Append(event(10))
		server := serveStreams(t, bus, time.Hour, protocol, Config{})
		lines := bufio.NewScanner(get(t, server).Body)
		got := idsUntil(t, lines, "snapshot 7")
		bus.feeds[0].Append(event(8))
		got = append(got, idsUntil(t, lines, "x 8")...)
		bus.feeds[0].Close(cause)
		got = append(got, idsUntil(t, lines, want[len(want)-1])...)
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", cause, got, want)
		}
	}
}

func TestOfSeveralLastEventIDsInTheHeaderTheLastCounts(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, anEvents+"?last_event_id=1", nil)
	r.Header["Last-Event-Id"] = []string{"7", "9"}
	if seq, known := lastEventID(r); seq != 9 || !known {
		t.Errorf("%d, %v", seq, known)
	}
}
