package apply

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"topostream/stream"
)

// serve starts an HTTP server and gives the applier that posts to it.
func serve(t *testing.T, timeout time.Duration, h http.HandlerFunc) stream.Applier {
	t.Helper()
	return at(t, listen(t, h), timeout)
}

func listen(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func at(t *testing.T, address string, timeout time.Duration) stream.Applier {
	t.Helper()
	a, err := URL(address, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAServiceGetsTheMutationAndItsIDAsIdempotencyKey(t *testing.T) {
	t.Parallel()
	var (
		got    stream.Mutation
		header http.Header
		method string
		user   string
		pass   string
	)
	address := listen(t, func(w http.ResponseWriter, r *http.Request) {
		header, method = r.Header, r.Method
		user, pass, _ = r.BasicAuth()
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	if err := at(t, strings.Replace(address, "//", "//ops:s3cret%2Fword@", 1)+"/hook", time.Minute).Apply(t.Context(),
		mutation()); err != nil {
		t.Fatal(err)
	}
	want := mutation()
	if method != http.MethodPost || header.Get("Content-Type") != "application/json" ||
		header.Get("Idempotency-Key") != string(want.ID) {
		t.Errorf("%s with %v", method, header)
	}
	if got.ID != want.ID || got.Topology != want.Topology || got.Op != want.Op ||
		string(got.Payload) != string(want.Payload) || got.Attempt != 1 {
		t.Errorf("the body held %+v", got)
	}
	if user != "ops" || pass != "s3cret/word" {
		t.Errorf("authenticated as %q with %q", user, pass)
	}
}

func TestARefusalsReasonIsItsStatusAndWhatTheServiceSays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status       int
		kind, body   string
		reason       string
		prefixIsFine bool
	}{
		"nothing": {status: 500, reason: "500 Internal Server Error"},
		"the first line": {status: 502, kind: "text/plain", body: "\n\nno route to lan-9\x1b\nmore\n",
			reason: "502 Bad Gateway: no route to lan-9"},
		"a problem": {status: 422, kind: "application/problem+json; charset=utf-8",
			body:   `{"title":"no","detail":"lan-9 is\u0000 full\nreally"}`,
			reason: "422 Unprocessable Entity: lan-9 is full"},
		"a problem's title": {status: 409, kind: "application/problem+json", body: `{"title":"taken"}`,
			reason: "409 Conflict: taken"},
		"a malformed problem": {status: 409, kind: "application/problem+json", body: `{"title":`,
			reason: `409 Conflict: {"title":`},
		"a redirect": {status: 307, body: "elsewhere", reason: "307 Temporary Redirect: elsewhere"},
		"endless": {status: 500, body: strings.Repeat("é", 1<<20), reason: "500 Internal Server Error: é",
			prefixIsFine: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls int
			err := serve(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
				calls++
				w.Header().Set("Content-Type", c.kind)
				w.Header().Set("Location", "http://"+r.Host+"/elsewhere")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body) // the client may have read enough
			}).Apply(t.Context(), mutation())
			if c.prefixIsFine && err != nil && strings.HasPrefix(err.Error(), c.reason) &&
				len(err.Error()) <= maxBytes+len(c.reason) {
				return
			}
			wantReason(t, err, c.reason)
			if calls != 1 {
				t.Errorf("%d calls", calls)
			}
		})
	}
}

func TestCredentialsOfTheAddressAppearInNoReason(t *testing.T) {
	t.Parallel()
	const user, password, token = "sk_live_4711", "s3cret word", "t0ken+of+hook"
	address := listen(t, func(w http.ResponseWriter, r *http.Request) {
		_, p, _ := r.BasicAuth()
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "you sent "+p+" to "+r.URL.String()+" with "+r.URL.Query().Get("token")+" as "+user)
	})
	with := func(address string) string {
		return strings.Replace(address, "//", "//"+user+":s3cret%20word@", 1) + "/hook?token=t0ken%2Bof%2Bhook"
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	for name, err := range map[string]error{
		"repeated by the service": at(t, with(address), time.Minute).Apply(t.Context(), mutation()),
		"nobody there":            at(t, with(closed.URL), time.Minute).Apply(t.Context(), mutation()),
		"no TLS there": at(t, with(strings.Replace(address, "http", "https", 1)),
			time.Minute).Apply(t.Context(), mutation()),
		"not http": second(URL("ftp://"+user+":"+password+"@host/?token="+token, 0)),
		"no URL":   second(URL("http://"+user+":"+password+"@host:port/?token="+token, 0)),
		"no host":  second(URL("https:///"+user+password+token, 0)),
		"empty":    second(URL("", 0)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			for _, secret := range []string{user, password, "s3cret%20word", token, "t0ken%2Bof%2Bhook"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the reason holds %q", secret)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

func TestAServiceThatTakesTooLongIsLeftAndTheReasonSaysSo(t *testing.T) {
	t.Parallel()
	silent := func(_ http.ResponseWriter, r *http.Request) { awaitEnd(r) }
	wantReason(t, serve(t, 50*time.Millisecond, silent).Apply(t.Context(), mutation()), "timed out after 50ms")
	halfway := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_ = http.NewResponseController(w).Flush() // the client shows whether it came
		awaitEnd(r)
	}
	wantReason(t, serve(t, 200*time.Millisecond, halfway).Apply(t.Context(), mutation()), "timed out after 200ms")
}

// awaitEnd waits until the client has gone.
func awaitEnd(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then does net/http watch the connection
	<-r.Context().Done()
}

func TestAStoppedCallsErrorWrapsTheCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("the worker stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := serve(t, 0, func(_ http.ResponseWriter, r *http.Request) {
		cancel(cause)
		awaitEnd(r)
	}).Apply(ctx, mutation())
	if !errors.Is(err, cause) {
		t.Errorf("the error is %v", err)
	}
}
