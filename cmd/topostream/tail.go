package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

type tailCmd struct {
	Topology string `arg:"" help:"Topology id."`
	URL      string `name:"url" default:"http://127.0.0.1:8080" help:"Address of the server."`
	Token    string `help:"Token; prefer the environment." placeholder:"TOKEN"`
	JSON     bool   `name:"json" help:"Print each event's JSON on a line of its own."`
	Since    string `help:"Resume after this seq." placeholder:"N"`
}

// maxEvent is the largest event with its frame: 16 MiB and some.
const maxEvent = 17 << 20

// Run follows until the stream ends for good, ctx ends, or the promise is broken.
func (c *tailCmd) Run(ctx context.Context, o output) error {
	id, ok := stream.ParseTopologyID(c.Topology)
	if !ok {
		return fmt.Errorf("%q is no topology id: give the 36-character form of a UUID", c.Topology)
	}
	address := strings.TrimRight(c.URL, "/") + "/api/v1/topologies/" + string(id) + "/events"
	follow := follower{out: o.out, json: c.JSON}
	if c.Since != "" {
		n, ok := stream.ParseSeq(c.Since)
		if !ok {
			return fmt.Errorf("--since: %q is no seq: give the id of an event", c.Since)
		}
		address += "?last_event_id=" + url.QueryEscape(c.Since)
		follow.last, follow.known = n, true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	client := sse.Client{
		HTTPClient:        http.DefaultClient,
		ResponseValidator: refusal,
		OnRetry: func(err error, wait time.Duration) {
			fmt.Fprintf(o.err, "disconnected (%s); again in %s\n", err, wait.Round(time.Millisecond))
		},
		Backoff: sse.Backoff{InitialInterval: time.Second, MaxInterval: 10 * time.Second, MaxRetries: 0},
	}
	conn := client.NewConnection(req)
	conn.Buffer(nil, maxEvent)
	conn.SubscribeToAll(func(e sse.Event) {
		if err := follow.event(e); err != nil {
			cancel(err)
		}
	})
	err = conn.Connect()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		if errors.Is(cause, errEnded) {
			return nil
		}
		return cause
	}
	return err
}

// errEnded: the topology was deleted, there is nothing more to follow.
var errEnded = errors.New("the stream has ended")

// temporary lets the SSE client try again.
type temporary struct{ error }

func (temporary) Temporary() bool { return true }

// refusal tells what a server said instead of a stream.
func refusal(r *http.Response) error {
	if r.StatusCode == http.StatusOK && strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream") {
		return nil
	}
	var problem struct{ Title, Detail string }
	body, _ := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	_ = json.Unmarshal(body, &problem) // what is no problem+json has no detail
	err := fmt.Errorf("the server answered %s: %s", r.Status, problem.Detail)
	if r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusBadGateway {
		return temporary{err}
	}
	return err
}

// A follower checks the promise: one snapshot at N, then N+1, N+2, … each once.
type follower struct {
	out   io.Writer
	json  bool
	last  stream.Seq
	known bool // last means something
}

func (f *follower) event(e sse.Event) error {
	var body struct {
		Seq       stream.Seq      `json:"seq"`
		TS        string          `json:"ts"`
		Journaled bool            `json:"journaled"`
		Payload   json.RawMessage `json:"payload"`
		Status    string          `json:"status"`
	}
	if err := json.Unmarshal([]byte(e.Data), &body); err != nil {
		return exitCode{exitBroken, fmt.Errorf("BROKEN: the data of %s is no JSON: %w", e.Type, err)}
	}
	switch {
	case e.Type == "snapshot":
		f.last, f.known = body.Seq, true
	case body.Journaled:
		if e.LastEventID != body.Seq.String() {
			return exitCode{exitBroken, fmt.Errorf("BROKEN: id %s holds seq %d", e.LastEventID, body.Seq)}
		}
		if f.known && body.Seq != f.last+1 {
			return exitCode{exitBroken, fmt.Errorf("BROKEN: %d came after %d", body.Seq, f.last)}
		}
		f.last, f.known = body.Seq, true
	}
	f.print(e, body.TS, body.Payload)
	if e.Type == "deleted" {
		return errEnded
	}
	return nil
}

func (f *follower) print(e sse.Event, ts string, payload json.RawMessage) {
	switch {
	case f.json:
		fmt.Fprintln(f.out, e.Data)
	case e.Type == "snapshot":
		fmt.Fprintf(f.out, "%10d  %-27s  snapshot  %s\n", f.last, "", e.Data)
	default:
		fmt.Fprintf(f.out, "%10d  %-27s  %s  %s\n", f.last, ts, e.Type, payload)
	}
}
