package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"topostream/stream"
	streamclient "topostream/stream/client"
)

type tailCmd struct {
	Topology  []string      `arg:"" help:"Topology ids. Several share one connection."`
	URL       string        `name:"url" default:"http://127.0.0.1:8080" help:"Address of the server."`
	Token     string        `help:"Token, for example the output of topostream token. It shows in the process list: prefer the environment." placeholder:"TOKEN"`
	TokenFile string        `type:"path" help:"File that holds the token. It is read again for each connection, so that whoever renews it keeps tail going." placeholder:"FILE"`
	JSON      bool          `name:"json" help:"Print each event's JSON on a line of its own."`
	Since     string        `help:"Resume after this seq: begin with the event that follows it. For one topology." placeholder:"N"`
	Until     string        `help:"Wait for the first event of this type (whose payload matches, where =REGEXP is given), print it alone, and end." placeholder:"TYPE[=REGEXP]"`
	Timeout   time.Duration `help:"With --until: end with exit code 4 when it has not come by then; 0 waits for ever." placeholder:"D"`

	leastWait, mostWait time.Duration // between connections; 0: as tail does
}

// Help is the long form of --help.
func (*tailCmd) Help() string {
	return `It reconnects by itself and goes on checking where it was, with a new token where --token-file is renewed ` +
		`in time. It ends with exit code 0 when each topology is deleted or at Ctrl-C, ` +
		`1 when the server refuses the token or knows none of the topologies, and 3 when the promise is broken: ` +
		`for each topology one snapshot at N, then N+1, N+2, … each once and in order.` + "\n\n" +
		`With --until it waits for one event, for example --until mutation.applied=lan-9: exit code 0 when it has come, ` +
		`4 when --timeout is over, 1 when each topology is deleted before. The regular expression is Go's; it may match ` +
		`the payload as it was sent, or without spaces between its tokens: status='"state":"active"'. ` +
		`What may come before tail is connected is found with --since.`
}

// Run follows until the stream ends for good, the event of --until has come, ctx ends, or the promise is broken.
func (c *tailCmd) Run(ctx context.Context, o output) error {
	events, err := c.events(o)
	if err != nil {
		return err
	}
	until, err := c.until()
	if err != nil {
		return err
	}
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, c.timedOut())
		defer cancel()
	}
	for event, err := range events(ctx) {
		if err != nil {
			return c.ended(err)
		}
		if event.Gap != streamclient.NoGap {
			fmt.Fprintln(o.err, c.whose(event)+gap(event))
		}
		if !until.matches(event) {
			continue
		}
		c.print(o, event)
		if until.once {
			return nil
		}
	}
	return nil
}

// events is what is followed.
func (c *tailCmd) events(o output) (func(context.Context) iter.Seq2[streamclient.Event, error], error) {
	requests, err := c.requests()
	if err != nil {
		return nil, err
	}
	client, err := c.client(o)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) iter.Seq2[streamclient.Event, error] {
		if len(requests) == 1 {
			return client.Follow(ctx, requests[0])
		}
		return client.FollowAll(ctx, requests)
	}, nil
}

// requests is what to follow.
func (c *tailCmd) requests() ([]streamclient.Request, error) {
	requests := make([]streamclient.Request, 0, len(c.Topology))
	for _, text := range c.Topology {
		id, ok := stream.ParseTopologyID(text)
		if !ok {
			return nil, fmt.Errorf("%q is no topology id: give the 36-character form of a UUID", redactAddress(text))
		}
		requests = append(requests, streamclient.Request{Topology: id})
	}
	switch r := &requests[0]; {
	case c.Since == "":
	case len(requests) > 1:
		return nil, errors.New("--since is a seq of one topology: give one topology")
	default:
		if r.After, r.Resume = stream.ParseSeq(c.Since); !r.Resume {
			return nil, fmt.Errorf("--since: %q is no seq: give the id of an event", c.Since)
		}
	}
	return requests, nil
}

// client is who follows.
func (c *tailCmd) client(o output) (*streamclient.Client, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("--url: %q is no address of a server: give for example http://127.0.0.1:8080",
			redactAddress(c.URL))
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	return &streamclient.Client{
		URL:       c.URL,
		Token:     func(context.Context) (string, error) { return token.read() },
		LeastWait: c.leastWait,
		MostWait:  c.mostWait,
		Disconnected: func(err error, wait time.Duration) {
			fmt.Fprintf(o.err, "disconnected (%s); again in %s\n", redact(err.Error()), wait.Round(time.Millisecond))
		},
	}, nil
}

// ended tells a person why there is nothing more to follow.
func (c *tailCmd) ended(err error) error {
	switch deleted := errors.Is(err, streamclient.ErrDeleted); {
	case deleted && c.Until == "":
		return nil
	case deleted:
		return fmt.Errorf("%w, and %s has not come", err, c.Until)
	case c.Until != "" && errors.Is(err, context.Canceled): // which is exit code 0 where nothing is waited for
		return fmt.Errorf("interrupted: %s has not come", c.Until)
	}
	if _, ok := errors.AsType[*streamclient.BrokenError](err); ok {
		return codedError{exitBroken, fmt.Errorf("BROKEN: %w", err)}
	}
	refused, ok := errors.AsType[*streamclient.RefusedError](err)
	if !ok {
		return err
	}
	switch refused.Status {
	case http.StatusOK:
		return fmt.Errorf("%w: is --url right?", err)
	case http.StatusUnauthorized:
		err = fmt.Errorf("the server does not take the token (%s): give one that is valid by --token or TOPOSTREAM_TOKEN",
			refused.Said())
		if c.TokenFile != "" {
			return fmt.Errorf("%w; or renew the one in %s before it expires", err, c.TokenFile)
		}
	case http.StatusForbidden:
		return fmt.Errorf("the token is not for this topology (%s)", refused.Said())
	case http.StatusNotFound:
		return fmt.Errorf("the server knows no such topology (%s): is the id right, and is --url?", refused.Said())
	}
	return err
}

// gap tells what a person wants to know, though it breaks nothing.
func gap(e streamclient.Event) string {
	switch e.Gap {
	case streamclient.Skipped:
		return fmt.Sprintf("events %d to %d were not sent: a snapshot takes their place", e.Previous+1, e.Seq)
	case streamclient.NewHistory:
		return fmt.Sprintf("the database has another history (epoch %d after %d): a snapshot begins it", e.Seq.Epoch(),
			e.Previous.Epoch())
	case streamclient.NotResumed:
		return fmt.Sprintf("the server cannot resume after %d: a snapshot begins the stream", e.Previous)
	case streamclient.NoGap:
	}
	return ""
}

// whose is what a line begins with where several topologies are followed: an id, or "-" for what is said about all.
func (c *tailCmd) whose(e streamclient.Event) string {
	if len(c.Topology) == 1 {
		return ""
	}
	return fmt.Sprintf("%-36s  ", cmp.Or(e.Topology, "-"))
}

func (c *tailCmd) print(o output, e streamclient.Event) {
	number := "-"
	if e.Journaled || e.Type == streamclient.TypeSnapshot {
		number = e.Seq.String()
	}
	switch {
	case c.JSON:
		fmt.Fprintln(o.out, strings.ReplaceAll(e.Data, "\n", " ")) // JSON has none but between its tokens
	case e.Type == streamclient.TypeSnapshot:
		fmt.Fprintf(o.out, "%s%10s  %-27s  snapshot  %s\n", c.whose(e), number, "", e.Data)
	default:
		fmt.Fprintf(o.out, "%s%10s  %-27s  %s  %s\n", c.whose(e), number, e.Time, e.Type, e.Payload)
	}
}
