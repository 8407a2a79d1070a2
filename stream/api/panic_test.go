package api

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"topostream/stream"
	"topostream/stream/api/contract"
)

func TestAPanicIsA500AsDescribed(t *testing.T) {
	t.Parallel()
	c, err := contract.Read("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	broken := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a handler that is broken") })
	var log lockedBuffer
	handler := New(Config{
		Logger: slog.New(slog.NewJSONHandler(&log, nil)),
		Auth:   func(*http.Request) (stream.Principal, error) { panic("as above") },
		Ready:  func() error { panic("as above") },
		Stats:  &stream.Stats{}, ConsoleHandler: broken, ClientHandler: broken, TabsHandler: broken, MetricsHandler: broken,
	}).Handler()
	server := httptest.NewServer(handler)
	defer server.Close()
	defer c.Hold(t, strings.TrimPrefix(server.URL, "http://"))()
	client := &http.Client{Transport: c.Transport(server.Client().Transport)}
	for _, o := range c.Operations() {
		path := strings.NewReplacer("{id}", someTopology, "{file}", "console.js").Replace(o.Path)
		req, err := http.NewRequestWithContext(t.Context(), o.Method, server.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		want := http.StatusInternalServerError
		if path == "/livez" || path == "/openapi.yaml" {
			want = http.StatusOK // there is nothing in them that may break
		}
		if res.StatusCode != want {
			t.Errorf("%s %s: %d, want %d", o.Method, path, res.StatusCode, want)
		}
		if want == http.StatusInternalServerError {
			panicIsLogged(t, log.String(), strings.Join(res.Header[idHeader], ""))
		}
	}
}

// panicIsLogged looks at the last line of a log.
func panicIsLogged(t *testing.T, log, id string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	var line struct {
		Level, Panic, Stack string

		ID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "ERROR" || line.Panic == "" || line.ID != id || !strings.Contains(line.Stack, "panic_test.go:") {
		t.Errorf("the request %s: %s", id, lines[len(lines)-1])
	}
}
