package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// logOf makes the server log into what it gives.
func logOf(s *Server, level slog.Level) *lockedBuffer {
	b := &lockedBuffer{}
	s.cfg.Logger = slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: level}))
	s.access = newAccessLog(true, s.cfg.Logger)
	return b
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// accessLine is a line of the access log.
type accessLine struct {
	Level, Msg, Method, Route, Path, Subject, Address, Topology, End string

	ID         string `json:"request_id"`
	Status     int
	Bytes      int64
	Duration   int64
	Events     int64
	First      int64
	Last       int64
	Suppressed int
}

// accessLines waits until the log is written, and reads it.
func accessLines(t *testing.T, s *Server, log fmt.Stringer) (lines []accessLine) {
	t.Helper()
	s.access.flush(t.Context())
	for text := range strings.Lines(log.String()) {
		var line accessLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if line.Msg == "request" || line.Msg == "stream" {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestTheAccessLogSaysWhoWhatAndHowLong(t *testing.T) {
	t.Parallel()
	s, _ := ticketServer()
	log := logOf(s, slog.LevelInfo)
	ask(s, http.MethodGet, basePath+"/topologies/x", "", "Authorization", "Bearer token")
	ask(s, http.MethodGet, anEvents+"?ticket=T", "")
	ask(s, http.MethodGet, "/livez", "")
	lines := accessLines(t, s, log)
	if len(lines) != 2 {
		t.Fatalf("%+v", lines)
	}
	if l := lines[0]; l.Method != http.MethodGet || l.Route != basePath+"/topologies/{id}" ||
		l.Path != basePath+"/topologies/x" || l.Status != 404 || l.Bytes == 0 || l.Duration == 0 ||
		l.ID != "the-same" || l.Address == "" {
		t.Errorf("%+v", l)
	}
	if l := lines[1]; l.Subject != "ticket" || l.Status != 404 {
		t.Errorf("%+v", l)
	}
	log = logOf(s, slog.LevelDebug)
	ask(s, http.MethodGet, "/livez", "")
	if lines := accessLines(t, s, log); len(lines) != 1 || lines[0].Level != "DEBUG" {
		t.Errorf("%+v", lines)
	}
}

func TestTheAccessLogHasALineOfAStreamAtItsEnd(t *testing.T) {
	t.Parallel()
	onEachEngine(t, func(t *testing.T, byEngine bool) {
		t.Helper()
		bus, _ := aFeed()
		server, s, _ := plainServer(t, byEngine, bus, Config{})
		log := logOf(s, slog.LevelInfo)
		res, _ := exchange(t, server, "GET "+anEvents+"?token=x HTTP/1.1", "X-Request-Id: mine")
		line(t, res, "id: 1")
		if lines := accessLines(t, s, log); len(lines) != 0 {
			t.Errorf("before its end: %+v", lines)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		lines := accessLines(t, s, log)
		if len(lines) != 1 {
			t.Fatalf("%+v", lines)
		}
		if l := lines[0]; l.Msg != "stream" || l.ID != "mine" || l.Subject != "u" || l.Topology != someTopology ||
			l.Events != 1 || l.First != 1 || l.Last != 1 || l.End != "draining" || l.Bytes == 0 || l.Route != eventsPath ||
			l.Path != anEvents {
			t.Errorf("%+v", l)
		}
	})
}

// Wherever a client may put a secret, the log does not have it.
func TestNoSecretOfARequestIsLogged(t *testing.T) {
	t.Parallel()
	const secret = "planted-secret"
	s, _ := ticketServer()
	log := logOf(s, slog.LevelDebug)
	for _, target := range []string{
		anEvents, basePath + "/topologies", basePath + "/auth/sse-ticket", "/livez", "/nothing", manyPath, listPath,
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			for _, parameter := range []string{"token", "ticket", "access_token", "x"} {
				ask(s, method, target+"?"+parameter+"="+secret, `{"`+secret+`":"`+secret+`"}`)
			}
			for name, value := range map[string]string{
				"Authorization": "Bearer " + secret, "Cookie": "topostream=" + secret, "Idempotency-Key": secret,
				"Referer": "https://a.example/?token=" + secret, "X-Request-Id": secret + "?", "User-Agent": secret,
				"Proxy-Authorization": "Basic " + secret, "X-Forwarded-For": secret, "Last-Event-ID": secret,
			} {
				ask(s, method, target, "", name, value)
			}
		}
	}
	if lines := accessLines(t, s, log); len(lines) == 0 || strings.Contains(log.String(), secret) {
		t.Errorf("%d lines: %s", len(lines), log)
	}
}

// Without the bound anybody could fill the disk.
func TestWhatStrangersSendTakesSoManyLinesASecondAndTheRestIsCounted(t *testing.T) {
	t.Parallel()
	const requests = 1000
	s, _ := ticketServer()
	log := logOf(s, slog.LevelInfo)
	begun := time.Now()
	for i := range requests {
		target := []string{"/nothing", anEvents, "/openapi.yaml", basePath + "/topologies/" + strings.Repeat("a", 30000)}[i%4]
		ask(s, http.MethodGet, target+"?"+strings.Repeat("q", 1000), "")
	}
	seconds := int(time.Now().Unix()-begun.Unix()) + 1
	lines := accessLines(t, s, log)
	counted := len(lines)
	for text := range strings.Lines(log.String()) {
		var line accessLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatal(err)
		}
		if line.Msg != "unauthenticated" {
			counted += line.Suppressed
		}
	}
	if len(lines) < strangersLogged || len(lines) > seconds*strangersLogged || counted != requests {
		t.Errorf("%d lines in %d seconds, %d requests counted", len(lines), seconds, counted)
	}
	if n, most := len(log.String()), seconds*strangersLogged*2*1000; n > most {
		t.Errorf("%d bytes, want %d at most", n, most)
	}
}
