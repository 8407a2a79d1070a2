package contract

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
)

// A Test is what fails when an answer breaks the contract.
type Test interface {
	Errorf(format string, args ...any)
}

const (
	// longestChecked is the longest body, or frame, that is checked: tests of memory send much.
	longestChecked = 1 << 20
	// framesChecked is how many frames of a stream are: later ones are made by the same code, and tests of load have many.
	framesChecked = 200
	// shortBody is the longest that is read for whoever closes it unread.
	shortBody = 64 << 10
)

// Hold lets a test fail by each answer of the server at an address, until release.
func (c *Contract) Hold(t Test, address string) (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tests[address] = t
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.tests, address)
	}
}

// report fails the test of a server, unless it has ended.
func (c *Contract) report(e *exchange, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tests[e.url.Host]; t != nil {
		t.Errorf("openapi.yaml: %s %s answers %d: %v", e.method, e.url.Path, e.status, err)
	}
}

func (c *Contract) holds(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tests[address] != nil
}

// Transport is next, but that what comes of servers that are held is checked.
func (c *Contract) Transport(next http.RoundTripper) http.RoundTripper { return &transport{c, next} }

type transport struct {
	contract *Contract
	next     http.RoundTripper
}

// CloseIdleConnections is what http.Client looks for.
func (t *transport) CloseIdleConnections() {
	if closer, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.contract.holds(req.URL.Host) {
		return t.next.RoundTrip(req)
	}
	e := &exchange{contract: t.contract, method: req.Method, url: *req.URL, sent: req.Header.Clone(), body: copyOf(req)}
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	e.status, e.header = res.StatusCode, res.Header.Clone()
	t.contract.report(e, e.head())
	if req.Method != http.MethodHead {
		res.Body = e.follow(res.Body, res.ContentLength)
	}
	return res, nil
}

// copyOf is the body that is about to be sent, where it is in memory and not too long.
func copyOf(req *http.Request) []byte {
	if req.GetBody == nil || req.ContentLength > longestChecked {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	defer func() { _ = body.Close() }() // it is in memory
	text, err := io.ReadAll(body)
	if err != nil {
		return nil
	}
	return text
}

// follow checks a body as it is read.
func (e *exchange) follow(body io.ReadCloser, length int64) io.ReadCloser {
	kind, _, _ := mime.ParseMediaType(e.header.Get("Content-Type"))
	if kind == "text/event-stream" {
		return &frames{ReadCloser: body, exchange: e, left: framesChecked}
	}
	return &wholeBody{ReadCloser: body, exchange: e, length: length}
}

// A wholeBody is checked at its end.
type wholeBody struct {
	io.ReadCloser

	exchange *exchange
	length   int64 // -1: not known
	read     bytes.Buffer
	done     bool
}

func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.done {
		b.read.Write(p[:n])
	}
	switch {
	case b.done:
	case b.read.Len() > longestChecked:
		b.done, b.read = true, bytes.Buffer{}
	case errors.Is(err, io.EOF):
		b.done = true
		b.exchange.contract.report(b.exchange, b.exchange.whole(b.read.Bytes()))
	}
	return n, err
}

// Close reads what is left of a short body: who looks at the status alone has it checked, too.
func (b *wholeBody) Close() error {
	if !b.done && b.length >= 0 && b.length <= shortBody {
		_, _ = io.Copy(io.Discard, b) // it ends, or has an error, which Close gives
	}
	return b.ReadCloser.Close()
}

// frames is a stream's body, checked frame by frame.
type frames struct {
	io.ReadCloser

	exchange *exchange
	rest     bytes.Buffer
	left     int // frames that are still checked
}

func (b *frames) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left <= 0 {
		return n, err
	}
	b.rest.Write(p[:n])
	for b.left > 0 {
		end := bytes.Index(b.rest.Bytes(), []byte("\n\n"))
		if end < 0 {
			break
		}
		e := b.exchange
		e.contract.report(e, e.contract.Frames(e.method, e.url.Path, b.rest.Next(end+2)))
		b.left--
	}
	if b.left == 0 || b.rest.Len() > longestChecked {
		b.left, b.rest = 0, bytes.Buffer{}
	}
	return n, err
}
