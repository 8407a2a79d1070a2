package api

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func TestARequestHasAnIdInItsAnswerItsProblemAndItsLog(t *testing.T) {
	t.Parallel()
	const longest = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"
	for _, c := range []struct {
		given string
		taken bool
	}{
		{"a-Proxy's", false}, {"a.Proxy_s-0", true}, {longest[1:], true}, {longest, false}, {"", false}, {"a b", false},
		{"ü", false}, {"a\nb", false},
	} {
		var log bytes.Buffer
		s, _ := ticketServer()
		s.cfg.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		w := ask(s, http.MethodGet, anEvents, "", "X-Request-Id", c.given)
		id := idIn(w)
		if c.taken != (id == c.given) || !isID(id) {
			t.Errorf("%q became %q", c.given, id)
		}
		var problem, line struct {
			ID string `json:"request_id"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || problem.ID != id {
			t.Errorf("%q: %s, %v", id, w.Body, err)
		}
		if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.ID != id {
			t.Errorf("%q: %s, %v", id, &log, err)
		}
	}
	s, _ := ticketServer()
	for _, target := range []string{"/livez", "/nothing", anEvents, "/openapi.yaml"} {
		first := idIn(ask(s, http.MethodGet, target, "", "X-Request-Id", ""))
		second := idIn(ask(s, http.MethodGet, target, "", "X-Request-Id", ""))
		if first == second || len(first) != 16 || strings.Trim(first, "0123456789abcdef") != "" {
			t.Errorf("%s: %q and %q", target, first, second)
		}
	}
}
