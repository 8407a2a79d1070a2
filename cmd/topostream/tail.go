package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

type tailCmd struct {
	Topology  string `arg:"" help:"Topology id."`
	URL       string `name:"url" default:"http://127.0.0.1:8080" help:"Address of the server."`
	Token     string `help:"Token, for example the output of topostream token. It shows in the process list: prefer the environment." placeholder:"TOKEN"`
	TokenFile string `type:"path" help:"File that holds the token. It is read again for each connection, so that whoever renews it keeps tail going." placeholder:"FILE"`
	JSON      bool   `name:"json" help:"Print each event's JSON on a line of its own."`
	Since     string `help:"Resume after this seq: begin with the event that follows it." placeholder:"N"`
}

// Help is the long form of --help.
func (*tailCmd) Help() string {
	return `It reconnects by itself and goes on checking where it was, with a new token where --token-file is renewed ` +
		`in time. It ends with exit code 0 when the topology is deleted or at Ctrl-C, ` +
		`1 when the server refuses the token or does not know the topology, and 3 when the promise is broken: ` +
		`one snapshot at N, then N+1, N+2, … each once and in order.`
}

// maxEvent is the largest event with its frame: 16 MiB and some.
const maxEvent = 17 << 20

// Run follows until the stream ends for good, ctx ends, or the promise is broken.
func (c *tailCmd) Run(ctx context.Context, o output) error {
	return c.follow(ctx, o, sse.Backoff{InitialInterval: time.Second, MaxInterval: 10 * time.Second})
}

func (c *tailCmd) follow(ctx context.Context, o output, backoff sse.Backoff) error {
	id, ok := stream.ParseTopologyID(c.Topology)
	if !ok {
		return fmt.Errorf("%q is no topology id: give the 36-character form of a UUID", c.Topology)
	}
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return fmt.Errorf("--url: %q is no address of a server: give for example http://127.0.0.1:8080", redactAddress(c.URL))
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	address := base.JoinPath("api/v1/topologies", string(id), "events")
	follow := follower{output: o, json: c.JSON}
	if c.Since != "" {
		n, ok := stream.ParseSeq(c.Since)
		if !ok {
			return fmt.Errorf("--since: %q is no seq: give the id of an event", c.Since)
		}
		address.RawQuery = url.Values{"last_event_id": {c.Since}}.Encode()
		follow.last, follow.state = n, claims
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
	defer transport.CloseIdleConnections()
	client := sse.Client{
		HTTPClient:        &http.Client{Transport: retrying{token.authorize(transport)}, CheckRedirect: noRedirect},
		ResponseValidator: token.refusal,
		Backoff:           backoff,
		OnRetry: func(err error, wait time.Duration) {
			if ctx.Err() != nil {
				return // there will be no next time
			}
			fmt.Fprintf(o.err, "disconnected (%s); again in %s\n", redact(reason(err)), wait.Round(time.Millisecond))
		},
	}
	conn := client.NewConnection(req)
	conn.Buffer(nil, maxEvent)
	conn.SubscribeToAll(func(e sse.Event) {
		// The client also makes an event of a lone `retry:`. One without data is none (HTML standard, section 9.2.6).
		if e.Data == "" || ctx.Err() != nil { // after the end: what was read together with the last event
			return
		}
		if err := follow.event(e); err != nil {
			cancel(err)
		}
	})
	err = conn.Connect()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errEnded):
		return nil
	case cause != nil:
		return cause
	}
	return errors.New(reason(err))
}

// errEnded: the topology was deleted, there is nothing more to follow.
var errEnded = errors.New("the stream has ended")

// reason is an error of the SSE client without its own words around it.
func reason(err error) string {
	if wrapped, ok := errors.AsType[*sse.ConnectionError](err); ok {
		err = wrapped.Err
	}
	if errors.Is(err, io.EOF) {
		return "the server ended the stream"
	}
	return err.Error()
}

// noRedirect: a redirect would take the token elsewhere, or end at a login page.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// retrying makes errors of the answers after which a retry helps: the SSE client tries again after an error and only
// then.
type retrying struct{ base http.RoundTripper }

func (t retrying) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		err := refusal(res)
		_ = res.Body.Close() // it has said what it had to say
		return nil, err
	}
	return res, nil
}

// refusal tells what a server said instead of a stream.
func refusal(r *http.Response) error {
	contentType := r.Header.Get("Content-Type")
	if r.StatusCode == http.StatusOK && strings.HasPrefix(contentType, "text/event-stream") {
		return nil
	}
	var problem struct{ Title, Detail string }
	body, _ := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	_ = json.Unmarshal(body, &problem) // what is no problem+json has no detail
	switch said := strings.TrimSpace(r.Status + " " + problem.Detail); r.StatusCode {
	case http.StatusOK:
		return fmt.Errorf("the server answered with %q, not with a stream of events: is --url right?", contentType)
	case http.StatusUnauthorized:
		return fmt.Errorf("the server does not take the token (%s): give one that is valid by --token or TOPOSTREAM_TOKEN",
			said)
	case http.StatusForbidden:
		return fmt.Errorf("the token is not for this topology (%s)", said)
	case http.StatusNotFound:
		return fmt.Errorf("the server knows no such topology (%s): is the id right, and is --url?", said)
	default:
		return fmt.Errorf("the server answered %s", said)
	}
}

// knowledge is what a follower's last seq is worth.
type knowledge int

const (
	nothing knowledge = iota // there is none
	claims                   // the user gave it: the server may know better and begin with a snapshot
	has                      // it came from the server: what comes must continue it
)

// A follower checks the promise: one snapshot at N, then N+1, N+2, … each once. It knows nothing of connections: a
// reconnect must go on as if there had been none.
type follower struct {
	output

	json  bool
	last  stream.Seq
	state knowledge
	id    string // the last id field
}

func broken(format string, args ...any) error {
	return codedError{exitBroken, fmt.Errorf("BROKEN: "+format, args...)}
}

func (f *follower) event(e sse.Event) error {
	var body struct {
		Seq       stream.Seq      `json:"seq"`
		TS        string          `json:"ts"`
		Journaled bool            `json:"journaled"`
		Payload   json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal([]byte(e.Data), &body); err != nil {
		return broken("the data of event %q is not what was agreed: %w", e.Type, err)
	}
	var err error
	switch {
	case e.Type == "snapshot":
		err = f.snapshot(e.LastEventID, body.Seq)
	case body.Journaled:
		err = f.journaled(e.LastEventID, body.Seq)
	case e.LastEventID != f.id:
		err = broken("event %q is not journaled, but has the id %s", e.Type, e.LastEventID)
	}
	if err != nil {
		return err
	}
	f.print(e, body.TS, body.Seq, body.Payload)
	if e.Type == "deleted" {
		return errEnded
	}
	return nil
}

// snapshot is legal at any time, but within an epoch history does not run backwards. Another epoch is another
// history, whatever its number: a restored database may have a lower one than the lost database had.
func (f *follower) snapshot(id string, seq stream.Seq) error {
	if id != seq.String() && (seq > 0 || id != f.id) { // 0 is no id
		return broken("the snapshot at %d has the id %q", seq, id)
	}
	sameHistory := seq.Epoch() == f.last.Epoch()
	switch {
	case f.state == has && sameHistory && seq < f.last:
		return broken("a snapshot at %d came after %d", seq, f.last)
	case f.state == has && sameHistory && seq > f.last:
		f.notef("events %d to %d were not sent: a snapshot takes their place", f.last+1, seq)
	case f.state == has && !sameHistory:
		f.notef("the database has another history (epoch %d after %d): a snapshot begins it", seq.Epoch(), f.last.Epoch())
	case f.state == claims:
		f.notef("the server cannot resume after %d: a snapshot begins the stream", f.last)
	}
	f.id, f.last, f.state = id, seq, has
	return nil
}

func (f *follower) journaled(id string, seq stream.Seq) error {
	switch {
	case id != seq.String():
		return broken("the event with seq %d has the id %q", seq, id)
	case f.state == nothing:
		return broken("event %d came before a snapshot", seq)
	case seq <= f.last:
		return broken("event %d came again or late, after %d", seq, f.last)
	case seq != f.last+1:
		return broken("event %d came after %d: %s missing", seq, f.last, missing(f.last+1, seq-1))
	}
	f.id, f.last, f.state = id, seq, has
	return nil
}

func missing(first, last stream.Seq) string {
	if first == last {
		return first.String() + " is"
	}
	return first.String() + " to " + last.String() + " are"
}

// notef tells what a person wants to know, though it breaks nothing.
func (f *follower) notef(format string, args ...any) { fmt.Fprintf(f.err, format+"\n", args...) }

func (f *follower) print(e sse.Event, ts string, seq stream.Seq, payload json.RawMessage) {
	number := "-" // not journaled
	if seq > 0 || e.Type == "snapshot" {
		number = strconv.FormatUint(uint64(seq), 10)
	}
	switch {
	case f.json:
		fmt.Fprintln(f.out, strings.ReplaceAll(e.Data, "\n", " ")) // JSON has none but between its tokens
	case e.Type == "snapshot":
		fmt.Fprintf(f.out, "%10s  %-27s  snapshot  %s\n", number, "", e.Data)
	default:
		fmt.Fprintf(f.out, "%10s  %-27s  %s  %s\n", number, ts, e.Type, payload)
	}
}
