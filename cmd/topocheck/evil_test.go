package main

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"topostream/cmd/topocheck/check"
	"topostream/harness/command"
	"topostream/pgbus/pgtest"
)

// An evil is a way to break the promise between a server and a client: it gets the blocks of a stream, one by one, and
// gives what to send instead. done says that it has broken the promise, which it does once; io.EOF ends the stream.
type evil func(block []byte) (instead []byte, done bool, err error)

func journaled(block []byte) bool { return bytes.Contains(block, []byte(`"journaled":true`)) }

func isSnapshot(block []byte) bool { return bytes.HasPrefix(block, []byte("event: snapshot\n")) }

// TestTheCheckerReportsAsWhatItIsWhateverBreaksThePromiseOnTheWay puts a proxy before a good server that breaks one
// stream of one client once.
func TestTheCheckerReportsAsWhatItIsWhateverBreaksThePromiseOnTheWay(t *testing.T) {
	t.Parallel()
	binary := build(t)
	db := pgtest.New(t)
	server := serve(t, binary, db.URL)
	for name, c := range map[string]struct {
		want check.Kind
		evil func() evil
		args []string
	}{
		"one frame dropped": {want: check.Lost, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) { return nil, journaled(block), nil }
		}},
		"one frame doubled": {want: check.Doubled, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return append(bytes.Clone(block), block...), journaled(block), nil
			}
		}},
		"two frames swapped": {want: check.Reordered, evil: func() evil {
			var held []byte
			return func(block []byte) ([]byte, bool, error) {
				if held == nil && journaled(block) {
					held = bytes.Clone(block)
					return nil, false, nil
				}
				return append(bytes.Clone(block), held...), journaled(block), nil
			}
		}},
		"a frame cut off before the next": {want: check.Torn, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) { return block[:len(block)/2], journaled(block), nil }
		}},
		"a frame cut off within its name": {want: check.Torn, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) { return block[:len("event: to")], journaled(block), nil }
		}},
		"a frame without its last bytes": {want: check.Torn, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return append(bytes.Clone(block[:len(block)-4]), "\n\n"...), journaled(block), nil
			}
		}},
		"an orderly end within a frame": {want: check.Torn, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				if !journaled(block) {
					return block, false, nil
				}
				return block[:len(block)/2], true, io.EOF
			}
		}},
		"an id that is not the seq": {want: check.Torn, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return bytes.Replace(block, []byte("\nid: "), []byte("\nid: 1"), 1), journaled(block), nil
			}
		}},
		"one byte of a payload changed": {want: check.Altered, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return bytes.Replace(block, []byte(`"m": `), []byte(`"m": 1`), 1),
					bytes.Contains(block, []byte(`"m": `)), nil
			}
		}},
		"a time changed": {want: check.Altered, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return bytes.Replace(block, []byte(`"ts":"20`), []byte(`"ts":"21`), 1), journaled(block), nil
			}
		}},
		"a snapshot of another version": {want: check.WrongSnapshot, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return bytes.Replace(block, []byte(`"version":`), []byte(`"version":1`), 1), isSnapshot(block), nil
			}
		}},
		"a snapshot of another status": {want: check.WrongSnapshot, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				return bytes.Replace(block, []byte(`"status":"`), []byte(`"status":"not_`), 1), isSnapshot(block), nil
			}
		}},
		"a snapshot with a mutation too many": {want: check.WrongSnapshot, evil: func() evil {
			return func(block []byte) ([]byte, bool, error) {
				const row = `"in_flight":[{"id":"x","topology_id":"x","op":"add_lan","payload":{},"state":"pending"}`
				instead := bytes.Replace(block, []byte(`"in_flight":[{`), []byte(row+`,{`), 1)
				return bytes.Replace(instead, []byte(`"in_flight":[]`), []byte(row+`]`), 1), isSnapshot(block), nil
			}
		}},
		"nothing more after a moment": {want: check.Lost, args: []string{"--catch-up", "2s", "--idle", "1m"},
			evil: func() evil {
				return func(block []byte) ([]byte, bool, error) {
					if journaled(block) {
						return nil, true, errSilent
					}
					return block, false, nil
				}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy, code, report := checkThrough(t, db.URL, func() *evilProxy { return newEvilProxy(t, server, c.evil()) },
				append([]string{"--topologies", "2", "--clients", "4", "--writers", "2"}, c.args...)...)
			if !proxy.done.Load() {
				t.Fatal("nothing evil was done")
			}
			if code != command.ExitBroken || report.Violations[c.want] == 0 || len(report.Violations) != 1 {
				t.Errorf("exit code %d, violations %v; want %q alone", code, report.Violations, c.want)
			}
			if c.args == nil && report.Violations[c.want] != 1 {
				t.Errorf("violations %v; one was made", report.Violations)
			}
		})
	}
	t.Run("a number that does not reach the server", func(t *testing.T) {
		t.Parallel()
		_, code, report := checkThrough(t, db.URL, func() *evilProxy {
			proxy := newEvilProxy(t, server, nil)
			proxy.forget = true
			return proxy
		}, "--topologies", "1", "--clients", "4", "--writers", "2")
		kinds := maps.Clone(report.Violations)
		delete(kinds, check.Lost)          // a snapshot jumped over what the journal held
		delete(kinds, check.WrongSnapshot) // a snapshot came though nothing was missing
		if code != command.ExitBroken || len(report.Violations) == 0 || len(kinds) > 0 {
			t.Errorf("exit code %d, violations %v", code, report.Violations)
		}
	})
	t.Run("nothing after the snapshot for those who come anew", func(t *testing.T) {
		t.Parallel()
		_, code, report := checkThrough(t, db.URL, func() *evilProxy {
			proxy := newEvilProxy(t, server, nil)
			proxy.mute = true
			return proxy
		}, "--topologies", "1", "--clients", "32", "--writers", "2", "--catch-up", "5s")
		if code != command.ExitBroken || report.Violations[check.Lost] == 0 || len(report.Violations) != 1 {
			t.Errorf("exit code %d, violations %v", code, report.Violations)
		}
	})
	t.Run("an answer that a browser does not come back after", func(t *testing.T) {
		t.Parallel()
		_, code, report := checkThrough(t, db.URL, func() *evilProxy {
			proxy := newEvilProxy(t, server, nil)
			proxy.refuse = true
			return proxy
		}, "--topologies", "1", "--clients", "4", "--writers", "2")
		if code != command.ExitBroken || report.Violations[check.Refused] != 1 || len(report.Violations) != 1 {
			t.Errorf("exit code %d, violations %v", code, report.Violations)
		}
	})
}

// checkThrough runs the checker through a proxy, for longer while it finds nothing: a busy machine moves too little in
// a short run.
func checkThrough(t *testing.T, database string, newProxy func() *evilProxy, args ...string) (
	proxy *evilProxy, code int, report check.Report,
) {
	t.Helper()
	for _, duration := range []string{"3s", "20s", "60s"} {
		proxy = newProxy()
		code, _, report = runCheck(t, proxy.URL, database, append([]string{"--duration", duration}, args...)...)
		if len(report.Violations) > 0 {
			break
		}
	}
	return proxy, code, report
}

// errSilent has the rest of a stream swallowed.
const errSilent = silence("swallow the rest")

type silence string

func (s silence) Error() string { return string(s) }

// evilProxy forwards everything, but does evil once to one stream of the steady client 0.
type evilProxy struct {
	*httptest.Server

	upstream string
	evil     evil
	forget   bool        // never forwards Last-Event-ID
	refuse   bool        // answers 503 once
	mute     bool        // arriving clients get snapshots, and no event
	taken    atomic.Bool // a stream is being treated
	done     atomic.Bool
}

func newEvilProxy(t *testing.T, upstream string, e evil) *evilProxy {
	t.Helper()
	target, err := neturl.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	p := &evilProxy{upstream: upstream, evil: e}
	transport := &http.Transport{DisableCompression: true}
	plain := httputil.NewSingleHostReverseProxy(target)
	plain.Transport = transport
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			plain.ServeHTTP(w, r)
			return
		}
		p.stream(w, r, transport)
	}))
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		transport.CloseIdleConnections()
	})
	return p
}

func (p *evilProxy) stream(w http.ResponseWriter, r *http.Request, transport http.RoundTripper) {
	victim := subject(r) == "topocheck-0"
	if p.refuse && victim && p.done.CompareAndSwap(false, true) {
		http.Error(w, "come again", http.StatusServiceUnavailable)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, p.upstream+r.URL.RequestURI(), r.Body)
	if err != nil {
		return
	}
	req.Header = r.Header.Clone()
	if p.forget {
		req.Header.Del("Last-Event-ID")
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer func() { _ = res.Body.Close() }() // it is read or given up
	maps.Copy(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	treat := p.evil != nil && victim && res.StatusCode == http.StatusOK && p.taken.CompareAndSwap(false, true)
	in, silent := bufio.NewReader(res.Body), false
	for {
		block, err := readBlock(in)
		if err != nil {
			panic(http.ErrAbortHandler) // a disorderly end is nobody's torn frame
		}
		instead := block
		if treat && !p.done.Load() {
			var done bool
			var end error
			if instead, done, end = p.evil(block); !done && end == nil && instead == nil && isSnapshot(block) {
				instead = block
			}
			if done {
				p.done.Store(true)
			} else if !journaled(block) {
				instead = block
			}
			silent = end == errSilent //nolint:errorlint // our own
			if end == io.EOF {        //nolint:errorlint // our own
				_, _ = w.Write(instead) // the client may be gone
				return
			}
		}
		if silent || p.mute && arriving(r) && journaled(block) {
			continue
		}
		if _, err := w.Write(instead); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
	}
}

// readBlock reads a block with its blank line.
func readBlock(r *bufio.Reader) (block []byte, err error) {
	for {
		line, err := r.ReadBytes('\n')
		block = append(block, line...)
		if err != nil || len(line) == 1 {
			return block, err
		}
	}
}

// arriving tells whether the client is of that kind: the kinds take turns, and it is the fourth of five.
func arriving(r *http.Request) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(subject(r), "topocheck-"))
	return err == nil && n%5 == 3
}

// subject is the client's name in its token.
func subject(r *http.Request) string {
	var claims jwt.RegisteredClaims
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		return ""
	}
	return claims.Subject
}
