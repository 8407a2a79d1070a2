package client

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"topostream/stream"
)

const topologyID = stream.TopologyID("00000000-0000-4000-8000-000000000001")

// An answer is what a server says to one request.
type answer struct {
	status int // 0: 200, a stream
	header map[string]string
	body   string
	stays  bool // the connection stays when the body is read, and says nothing more
}

// A script is a server without sockets, for tests in fake time: the n-th request gets the n-th answer.
type script struct {
	t        *testing.T
	answers  []answer
	requests []*http.Request
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(s.requests) == len(s.answers) {
		s.t.Error("one request more than there are answers")
		return nil, context.Canceled
	}
	a := s.answers[len(s.requests)]
	s.requests = append(s.requests, r)
	header := http.Header{"Content-Type": {"text/event-stream"}}
	if a.status != 0 {
		header.Set("Content-Type", "application/problem+json")
	}
	for name, value := range a.header {
		header.Set(name, value)
	}
	body := io.Reader(ending{iotest.OneByteReader(strings.NewReader(a.body)), r.Context()})
	if a.stays {
		body = io.MultiReader(body, silent{r.Context()})
	}
	return &http.Response{
		StatusCode: cmp.Or(a.status, http.StatusOK), Header: header, Body: io.NopCloser(body), Request: r,
	}, nil
}

// ending is what can be read of an answer until its request ends.
type ending struct {
	io.Reader

	ctx context.Context //nolint:containedctx // it is the request's own
}

func (e ending) Read(p []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.Reader.Read(p)
}

// silent says nothing until its request ends.
type silent struct{ ctx context.Context } //nolint:containedctx // it is the request's own

func (s silent) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// follow gives what a client of a script gets, and what it ends with.
func follow(t *testing.T, c *Client, req Request, answers ...answer) (events []Event, asked *script, end error) {
	t.Helper()
	req.Topology = cmp.Or(req.Topology, topologyID)
	return play(t, c, func(ctx context.Context) iter.Seq2[Event, error] { return c.Follow(ctx, req) }, answers)
}

// followAll is follow for several.
func followAll(t *testing.T, c *Client, reqs []Request, answers ...answer) (events []Event, asked *script, end error) {
	t.Helper()
	return play(t, c, func(ctx context.Context) iter.Seq2[Event, error] { return c.FollowAll(ctx, reqs) }, answers)
}

func play(t *testing.T, c *Client, loop func(context.Context) iter.Seq2[Event, error], answers []answer) (
	events []Event, asked *script, end error,
) {
	t.Helper()
	asked = &script{t: t, answers: answers}
	c.URL, c.Transport = "http://server/prefix/", asked
	for event, err := range loop(t.Context()) {
		if end != nil {
			t.Errorf("after its end: %+v, %v", event, err)
		}
		if end = err; err == nil {
			events = append(events, event)
		}
	}
	if len(asked.requests) != len(answers) {
		t.Errorf("%d requests, want %d", len(asked.requests), len(answers))
	}
	return events, asked, end
}

// of makes frames another topology's.
func of(id stream.TopologyID, frames string) string {
	return strings.ReplaceAll(frames, string(topologyID), string(id))
}

func snapshotAt(seq stream.Seq) string {
	return fmt.Sprintf("event: snapshot\nid: %d\ndata: {\"topology_id\":%q,\"status\":\"active\",\"seq\":%[1]d}\n\n", seq,
		topologyID)
}

func eventAt(seq stream.Seq, event string) string {
	return fmt.Sprintf("event: %s\nid: %d\ndata: {\"topic\":\"topology.%s.%[1]s\",\"type\":%[1]q,"+
		"\"ts\":\"2026-11-23T19:30:00.123456Z\",\"seq\":%[2]d,\"journaled\":true,\"payload\":{\"n\":1}}\n\n",
		event, seq, topologyID)
}

func rawEvent(event string) string {
	return fmt.Sprintf("event: %s\ndata: {\"topic\":\"topology.%s.%[1]s\",\"type\":%[1]q,"+
		"\"ts\":\"2026-11-23T19:30:00.123456Z\",\"journaled\":false,\"payload\":{\"reason\":\"later\"}}\n\n",
		event, topologyID)
}
