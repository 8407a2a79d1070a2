package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tmaxmax/go-sse"

	"topostream/stream"
)

// maxEvent bounds a frame, in bytes: an event has 16 MiB at most, a snapshot whatever the graph takes.
const maxEvent = 256 << 20

const never = time.Duration(math.MaxInt64)

var (
	errLeft   = errors.New("the caller has left the loop")
	errEnded  = errors.New("the server ended the stream")
	errSilent = errors.New("the connection is silent")
	errAway   = errors.New("a topology was unavailable: all are asked for again")
)

// A following is one Follow, FollowAll or FollowList while it runs. It belongs to the goroutine of the caller's loop.
type following struct {
	client     *Client
	http       *http.Client
	address    *url.URL
	graph      bool          // of many
	silence    time.Duration // without a byte: the connection is dead
	vector     *vector
	pauses     pauses // between connections
	partPauses pauses // before a connection is replaced because topologies are away
	yield      func(Event, error) bool
	ask        func(context.Context) (*http.Request, error) // makes a connection's request
	closeIdle  func()                                       // nil: the transport is the caller's
}

func (f *following) close() {
	if f.closeIdle != nil {
		f.closeIdle()
	}
}

// run connects again and again, and gives what ended it.
func (f *following) run(ctx context.Context) error {
	for {
		lost, end := f.connect(ctx)
		switch {
		case end != nil:
			return end
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		var wait time.Duration // none after errAway: read has paused already
		if !errors.Is(lost, errAway) {
			wait = f.pauses.next()
		}
		if f.client.Disconnected != nil {
			f.client.Disconnected(lost, wait)
		}
		if !pause(ctx, wait) {
			return context.Cause(ctx)
		}
	}
}

// pause waits, and tells whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect makes one connection and reads it to its end. Either it is lost, and another may go on, or this is the end.
func (f *following) connect(ctx context.Context) (lost, end error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(f.silence, func() { cancel(errSilent) })
	defer watch.Stop()
	res, err := f.request(ctx)
	if err != nil {
		return f.why(ctx, err), nil
	}
	defer res.Body.Close()
	if refused := refusal(res); refused != nil {
		f.pauses.after = retryAfter(res.Header, time.Now())
		if refused.comesBack() {
			return refused, nil
		}
		return nil, refused
	}
	f.vector.connected()
	again := time.AfterFunc(never, func() { cancel(errAway) })
	defer again.Stop()
	body := &watchedBody{body: res.Body, watch: watch, silence: f.silence, pauses: &f.pauses}
	return f.read(ctx, body, again)
}

// read gives the caller the events of a stream. Where a topology is away it sets the timer again, which ends the
// connection after a pause.
func (f *following) read(ctx context.Context, body io.Reader, again *time.Timer) (lost, end error) {
	failures, first, set := f.pauses.failures, true, false
	f.pauses.failures = 0
	for frame, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: maxEvent}) {
		switch {
		case err != nil:
			return f.why(ctx, err), nil
		case frame.Data == "": // none (HTML standard, section 9.2.6)
			continue
		}
		event, err := f.vector.take(frame)
		if err != nil {
			return nil, err
		}
		switch whole := f.vector.speaksOfAll(event); {
		case event.Type != typeUnavailable:
		case whole && first: // what a server answers instead of a 503: the connection was no success
			f.pauses.failures = failures
		case !whole && !set:
			set = true
			again.Reset(f.partPauses.next())
		}
		first = false
		if f.vector.away == 0 {
			f.partPauses.failures = 0
		}
		switch {
		case !f.yield(event, nil):
			return nil, errLeft
		case f.vector.left == 0 && f.vector.list == nil:
			return nil, ErrDeleted
		}
	}
	return errEnded, nil
}

// why gives the reason for which this client ended the connection, if it did, rather than the error that came of that.
func (f *following) why(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent):
		return fmt.Errorf("not a byte came for %s: %w", f.silence, errSilent)
	case errors.Is(cause, errAway):
		return errAway
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // which has the address, too
		return wrapped.Err
	}
	return err
}

// request asks for the stream, a second time where the token is not taken and there is another one.
func (f *following) request(ctx context.Context) (*http.Response, error) {
	token, err := f.token(ctx)
	if err != nil {
		return nil, err
	}
	res, err := f.askAs(ctx, token)
	if err != nil || res.StatusCode != http.StatusUnauthorized {
		return res, err
	}
	renewed, err := f.token(ctx)
	if err != nil || renewed == token {
		return res, nil //nolint:nilerr // the server's answer is what there is to tell
	}
	_ = res.Body.Close() // it said that the old one is not good
	return f.askAs(ctx, renewed)
}

func (f *following) token(ctx context.Context) (string, error) {
	if f.client.Token == nil {
		return "", nil
	}
	return f.client.Token(ctx)
}

func (f *following) askAs(ctx context.Context, token string) (*http.Response, error) {
	req, err := f.ask(ctx)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-store")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return f.http.Do(req)
}

func (f *following) askOne(ctx context.Context) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.address.String(), nil)
	if err != nil {
		return nil, err
	}
	if id := f.vector.only.lastEventID(); id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	return req, nil
}

func (f *following) askMany(ctx context.Context) (*http.Request, error) {
	body, err := json.Marshal(struct {
		Topologies map[stream.TopologyID]*stream.Seq `json:"topologies"`
		Graph      bool                              `json:"graph,omitempty"`
		List       bool                              `json:"list,omitempty"`
	}{f.vector.numbers(), f.graph, f.vector.list != nil})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

func (f *following) askList(ctx context.Context) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, f.address.String(), nil)
}

// A watchedBody is a stream's body while it is read. It has the connection ended where a read takes too long (how long
// the caller takes for an event does not count), and finds the field retry, which sse.Read does not give.
type watchedBody struct {
	body    io.Reader
	watch   *time.Timer
	silence time.Duration
	pauses  *pauses
	line    []byte // the beginning of the line that is under way
}

// Read is io.Reader's.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.Reset(b.silence)
	n, err := b.body.Read(p)
	b.watch.Stop()
	b.scanRetry(p[:n])
	return n, err
}

// mostField is more bytes than a field retry can have.
const mostField = 32

// scanRetry looks for the field retry in the next bytes of the stream, which may begin and end within a line.
func (b *watchedBody) scanRetry(p []byte) {
	for {
		end := bytes.IndexAny(p, "\r\n")
		part := p
		if end >= 0 {
			part = p[:end]
		}
		b.line = append(b.line, part[:min(len(part), mostField-len(b.line))]...)
		if end < 0 {
			return
		}
		if value, ok := bytes.CutPrefix(b.line, []byte("retry:")); ok {
			value = bytes.TrimPrefix(value, []byte(" "))
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil { // digits alone
				b.pauses.retry = time.Duration(ms) * time.Millisecond
			}
		}
		b.line, p = b.line[:0], p[end+1:]
	}
}
