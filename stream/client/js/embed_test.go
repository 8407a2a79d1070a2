package js_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"topostream/stream/client/js"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, handler http.Handler, tag string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/topostream.js", nil)
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result()
}

func TestTheClientIsAModuleThatABrowserAsksForAgainAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.Handler{"alone": js.Handler(), "tabs": js.TabsHandler()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			isModule(t, handler)
		})
	}
}

func isModule(t *testing.T, handler http.Handler) {
	t.Helper()
	first := get(t, handler, "")
	defer first.Body.Close()
	for name, want := range map[string]string{
		"Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "no-cache",
	} {
		if got := first.Header.Get(name); got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	var body strings.Builder
	if err := first.Write(&body); err != nil || !strings.Contains(body.String(), "as TopologyStream") {
		t.Errorf("%d, %v: no client", first.StatusCode, err)
	}
	tag := first.Header.Get("ETag")
	same, other := get(t, handler, tag), get(t, handler, `"another version's"`)
	defer same.Body.Close()
	defer other.Body.Close()
	if tag == "" || same.StatusCode != http.StatusNotModified || other.StatusCode != http.StatusOK {
		t.Errorf("tag %q: %d for the same, %d for another", tag, same.StatusCode, other.StatusCode)
	}
}
