package client

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"topostream/stream"
)

// A Client follows topologies of one server. Only URL must be set. Any goroutine may call its methods, and nobody may
// change it meanwhile; each Follow has connections of its own.
type Client struct {
	// URL is the server's address, of which /api/v1 is left out: https://host, http://host:8080/prefix.
	URL string

	// Token gives the token of the moment, a JSON Web Token; empty: none. It is asked before each connection. Where the
	// server answers 401 it is asked once more, and another token is tried at once; the same one, or a second 401, ends
	// Follow. Its error counts as a lost connection, because whoever renews the token may be about to: who wants to give
	// up ends the context. nil: no token.
	Token func(ctx context.Context) (string, error)

	// Transport makes the requests; nil: one for each Follow, which uses the environment's proxy. Redirects are not
	// followed, since they would take the token elsewhere.
	Transport http.RoundTripper

	// Keepalive is the server's --keepalive; 0: 15 s, its default. A connection on which not a byte comes for three of
	// them is taken for dead.
	Keepalive time.Duration

	// LeastWait and MostWait bound the pause before another connection; 0: 1 s and 30 s. It doubles with each failure
	// and is drawn from the upper half. A longer pause that the server asks for (the field retry, the header Retry-After)
	// is kept, up to five minutes.
	LeastWait, MostWait time.Duration

	// Disconnected is called before each pause: why there is no connection, a *RefusedError where the server said it,
	// and how long the pause is. Follow's goroutine calls it. nil: nobody wants to know.
	Disconnected func(err error, wait time.Duration)
}

// Fixed is a Client.Token that is always the same.
func Fixed(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// A Request says what to follow.
type Request struct {
	// Topology is the one to follow.
	Topology stream.TopologyID
	// Resume: After is the last event that the caller has, and the stream begins with the one behind it. Where the server
	// cannot resume there, it begins with a snapshot whose Gap is NotResumed.
	Resume bool
	After  stream.Seq
	// Graph: snapshots shall hold lans, deckies and edges as of their seq.
	Graph bool
}

// Errors that Follow ends with, by errors.Is.
var (
	// ErrDeleted: the topology was deleted; the event before was its last. Of FollowAll: each was.
	ErrDeleted = errors.New("the topology is deleted")
	// ErrUnauthorized: the server takes neither the token nor the one that Token gave after that (401).
	ErrUnauthorized = errors.New("the server does not take the token")
	// ErrForbidden: the token does not hold for this topology, or for one of them (403).
	ErrForbidden = errors.New("the token is not for this topology")
	// ErrNotFound: the server knows no such topology, or it was deleted and the caller had everything (404). Of
	// FollowAll: that holds for each that was not deleted before.
	ErrNotFound = errors.New("the server knows no such topology")
)

// Follow gives the events of one topology until the caller leaves the loop or there can be no more. Then it gives an
// error, once and last, beside a zero Event:
//
//   - what ended ctx (context.Cause);
//   - ErrDeleted, after the event `deleted`;
//   - a *RefusedError: an answer after which another try is in vain; ErrUnauthorized, ErrForbidden and ErrNotFound tell
//     the usual ones apart;
//   - a *BrokenError: what the server sent breaks the promise. The event that does is not given;
//   - another error where URL or Request are wrong.
//
// A lost connection is no error, and neither are 429, 502, 503 and 504: it connects again, for ever. A caller that
// takes long for an event holds only its own stream up. Follow may be called, and its loop be run, more than once: each
// time is a stream of its own, which begins with what req says.
func (c *Client) Follow(ctx context.Context, req Request) iter.Seq2[Event, error] {
	return c.events(ctx, func() (*following, error) { return c.followOne(req) })
}

// FollowAll gives the events of several topologies, which share one connection; Event.Topology says whose each is. The
// promise holds for each topology by itself: the order of events of two topologies says nothing. It goes on where each
// was, and ends as Follow does, but that
//
//   - `deleted` ends its topology's part alone, and the last one the stream, with ErrDeleted. A topology that the
//     server does not know gets that event, too, with Journaled false;
//   - `unavailable` with a Topology says that the server cannot serve this one now. The others go on; after a pause the
//     connection is replaced by one that asks for all again. What the server says about the whole connection has no
//     Topology.
//
// A server bounds how many there may be, 500 unless it is an older one, and says so (a *RefusedError, status 400).
// Snapshots hold the graph where one of the requests wants it. A topology that is given twice is an error.
func (c *Client) FollowAll(ctx context.Context, requests []Request) iter.Seq2[Event, error] {
	return c.events(ctx, func() (*following, error) { return c.followMany(requests) })
}

// events gives what a following gives, and what ended it.
func (c *Client) events(ctx context.Context, begin func() (*following, error)) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := giveAll(ctx, begin, yield); !errors.Is(err, errLeft) {
			yield(Event{}, err)
		}
	}
}

func giveAll(ctx context.Context, begin func() (*following, error), yield func(Event, error) bool) error {
	f, err := begin()
	if err != nil {
		return err
	}
	defer f.close()
	f.yield = yield
	return f.run(ctx)
}

// followOne is what Follow begins with.
func (c *Client) followOne(req Request) (*following, error) {
	f, err := c.newFollowing(true, req)
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if req.Resume { // here and not in a header, so that what the caller claims does not stand for what came
		query.Set("last_event_id", req.After.String())
	}
	if req.Graph {
		query.Set("graph", "1")
	}
	f.address = f.address.JoinPath("topologies", string(f.vector.only.topology), "events")
	f.address.RawQuery, f.ask = query.Encode(), f.askOne
	return f, nil
}

// followMany is what FollowAll begins with.
func (c *Client) followMany(requests []Request) (*following, error) {
	f, err := c.newFollowing(false, requests...)
	if err != nil {
		return nil, err
	}
	f.graph = slices.ContainsFunc(requests, func(req Request) bool { return req.Graph })
	f.address, f.ask = f.address.JoinPath("events"), f.askMany
	return f, nil
}

// newFollowing makes what both begin with; its address is that of the API. one: it is a stream of one topology, and
// each frame is that topology's.
func (c *Client) newFollowing(one bool, requests ...Request) (*following, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		// The address may hold a secret.
		return nil, errors.New("URL is no address of a server: give for example http://127.0.0.1:8080")
	}
	v, err := newVector(one, requests...)
	if err != nil {
		return nil, err
	}
	f := &following{client: c, vector: v, address: base.JoinPath("api/v1")}
	f.silence = 3 * orDefault(c.Keepalive, 15*time.Second)
	f.pauses = pauses{least: orDefault(c.LeastWait, time.Second), most: orDefault(c.MostWait, 30*time.Second)}
	f.partPauses = f.pauses
	transport := c.Transport
	if transport == nil {
		own := newTransport()
		transport, f.closeIdle = own, own.CloseIdleConnections
	}
	f.http = &http.Client{Transport: transport, CheckRedirect: noRedirect}
	return f, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
}

// noRedirect: a redirect would take the token elsewhere, or end at a login page.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
