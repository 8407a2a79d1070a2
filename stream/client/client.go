package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
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

// A Request says what to follow. It will hold several topologies when a stream can; what is left out then as now means
// nothing.
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
	// ErrDeleted: the topology was deleted; the event before was its last.
	ErrDeleted = errors.New("the topology is deleted")
	// ErrUnauthorized: the server takes neither the token nor the one that Token gave after that (401).
	ErrUnauthorized = errors.New("the server does not take the token")
	// ErrForbidden: the token does not hold for this topology (403).
	ErrForbidden = errors.New("the token is not for this topology")
	// ErrNotFound: the server knows no such topology, or it was deleted and the caller had everything (404).
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
	return func(yield func(Event, error) bool) {
		if err := c.follow(ctx, req, yield); !errors.Is(err, errLeft) {
			yield(Event{}, err)
		}
	}
}

func (c *Client) follow(ctx context.Context, req Request, yield func(Event, error) bool) error {
	f, err := c.following(req)
	if err != nil {
		return err
	}
	defer f.close()
	f.yield = yield
	return f.run(ctx)
}

// following is what one Follow begins with.
func (c *Client) following(req Request) (*following, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		// The address may hold a secret.
		return nil, errors.New("URL is no address of a server: give for example http://127.0.0.1:8080")
	}
	id, ok := stream.ParseTopologyID(string(req.Topology))
	if !ok {
		return nil, fmt.Errorf("%q is no topology id: give the 36-character form of a UUID", req.Topology)
	}
	address := base.JoinPath("api/v1/topologies", string(id), "events")
	query := url.Values{}
	f := &following{client: c, order: order{topology: id}}
	if req.Resume {
		query.Set("last_event_id", req.After.String())
		f.order.last, f.order.known = req.After, claimed
	}
	if req.Graph {
		query.Set("graph", "1")
	}
	address.RawQuery = query.Encode()
	f.address = address.String()
	f.silence = 3 * orDefault(c.Keepalive, 15*time.Second)
	f.pauses = pauses{least: orDefault(c.LeastWait, time.Second), most: orDefault(c.MostWait, 30*time.Second)}
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
