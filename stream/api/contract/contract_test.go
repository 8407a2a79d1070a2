package contract

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const manyPath = "/api/v1/events"

func read(t *testing.T) *Contract {
	t.Helper()
	c, err := Read("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheGoldenStreamsAreAsDescribed(t *testing.T) {
	t.Parallel()
	c := read(t)
	files, err := filepath.Glob("../../../testdata/golden/*.sse")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := "/api/v1/topologies/x/events"
		switch name := filepath.Base(file); name {
		case "list.sse":
			path = "/api/v1/topologies/events"
		case "many.sse", "vector.sse":
			path = "/api/v1/events"
		}
		if err := c.Frames("GET", path, text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestTheExamplesAreOfTheirSchemas(t *testing.T) {
	t.Parallel()
	n := 0
	for _, o := range read(t).Operations() {
		for _, e := range o.Examples {
			if n++; e.Err != nil {
				t.Errorf("%s %s: %d: %s: %v", o.Method, o.Path, e.Status, e.Body, e.Err)
			}
		}
		if o.body != nil && !strings.Contains(o.Path, "ticket") && len(o.Examples) == 0 {
			t.Errorf("%s %s has a body, and no example of one", o.Method, o.Path)
		}
	}
	if n == 0 {
		t.Error("there is no example")
	}
}

// A recorder is a Test that keeps what it is told.
type recorder []string

func (r *recorder) Errorf(format string, args ...any) { *r = append(*r, fmt.Sprintf(format, args...)) }

func TestWhatIsNotDescribedFailsTheTestOfItsServer(t *testing.T) {
	t.Parallel()
	c := read(t)
	const (
		ticket = `{"ticket":"0123456789012345678901234567890123456789012","expires_in":60}`
		ending = "event: unavailable\ndata: " +
			`{"topic":"","type":"unavailable","ts":"2026-11-23T19:30:00.123456Z","journaled":false,"payload":`
	)
	for name, answer := range map[string]struct {
		method, path  string
		status        int
		header, value string // beside the right ones; an empty value takes it away
		body          string
		want          string // in what is said; empty: nothing is
	}{
		"what is described":  {status: 200, body: ticket},
		"another status":     {status: 201, body: ticket, want: "the status is not described"},
		"another header":     {status: 200, header: "X-More", value: "1", body: ticket, want: "X-More is not described"},
		"a header less":      {status: 200, header: "Cache-Control", body: ticket, want: "there is no Cache-Control"},
		"one of all less":    {status: 200, header: "X-Frame-Options", body: ticket, want: "there is no X-Frame-Options"},
		"another value":      {status: 200, header: "Cache-Control", value: "x", body: ticket, want: "Cache-Control: "},
		"another type":       {status: 200, header: "Content-Type", value: "a/b", body: ticket, want: `"a/b" is not`},
		"no JSON":            {status: 200, body: "{", want: "body: "},
		"another member":     {status: 200, body: `{"more":1,` + ticket[1:], want: "at '/more': false schema"},
		"a member less":      {status: 200, body: "{}", want: "missing properties"},
		"another address":    {path: "/api/v1/nothing", status: 200, body: ticket, want: "the address is not described"},
		"another method":     {method: "PUT", status: 200, body: ticket, want: "the method is not described"},
		"a frame":            {path: manyPath, status: 200, body: ending + `{"reason":"x"}}` + "\n\n"},
		"a frame's member":   {path: manyPath, status: 200, body: ending + "{}}\n\n", want: "frame"},
		"a frame's id":       {path: manyPath, status: 200, body: "id: 1\n" + ending + "{}}\n\n", want: "/id"},
		"a frame's field":    {path: manyPath, status: 200, body: "evnt: list\n\n", want: "no field"},
		"a frame's comments": {path: manyPath, status: 200, body: ": hello\n\nretry: 3000\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Cache-Control", "no-store")
				if answer.path == manyPath {
					w.Header().Set("Content-Type", "text/event-stream")
					w.Header().Set("Cache-Control", "no-cache, no-transform")
					w.Header().Set("X-Accel-Buffering", "no")
					w.Header().Set("Topostream-Time", "2026-11-23T19:30:00.123456Z")
				}
				for header, value := range map[string]string{
					"X-Request-Id": "1", "Content-Security-Policy": "x", "X-Content-Type-Options": "nosniff",
					"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
					"Cross-Origin-Resource-Policy": "same-origin",
				} {
					w.Header().Set(header, value)
				}
				w.Header().Set(answer.header, answer.value)
				if answer.value == "" {
					w.Header().Del(answer.header)
				}
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(answer.body)) // the client is this test
			}))
			defer server.Close()
			var said recorder
			release := c.Hold(&said, strings.TrimPrefix(server.URL, "http://"))
			path := cmp.Or(answer.path, "/api/v1/auth/sse-ticket")
			req, err := http.NewRequestWithContext(t.Context(), cmp.Or(answer.method, "POST"), server.URL+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: c.Transport(server.Client().Transport)}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if answer.path == manyPath { // a stream is checked as it is read, what is short also when it is closed
				_, _ = io.Copy(io.Discard, res.Body)
			}
			_ = res.Body.Close()
			release()
			if text := strings.Join(said, "\n"); (text == "") != (answer.want == "") || !strings.Contains(text, answer.want) {
				t.Errorf("said is %q, want %q", text, answer.want)
			}
		})
	}
}
