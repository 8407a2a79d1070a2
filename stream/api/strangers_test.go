package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"topostream/stream"
)

func TestWhatAStrangerSendsTakesLittleOfTheLog(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, _ := ticketServer()
	s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w := ask(s, http.MethodGet, basePath+"/topologies/"+strings.Repeat("a", 30000), "")
	if w.Code != http.StatusUnauthorized {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if n := log.Len(); n == 0 || n > 1000 || !strings.Contains(log.String(), "(30019 bytes)") {
		t.Errorf("%d bytes of log: %.1500s", n, &log)
	}
}

// A guess that the database could not be asked about counts against no rate.
func TestTicketsThatNobodyCanLookUpTakeLittleOfTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, book := ticketServer()
		s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
		book.err = stream.ErrUnavailable
		const guesses = 1000
		for i := range guesses {
			target := fmt.Sprintf("%s?ticket=%043d", anEvents, i)
			if w := ask(s, http.MethodGet, target, ""); w.Code != http.StatusServiceUnavailable {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		if n := strings.Count(log.String(), "level=WARN"); n != strangersLogged {
			t.Errorf("%d lines in a second", n)
		}
		time.Sleep(time.Second) // of fake time
		ask(s, http.MethodGet, anEvents+"?ticket=T", "")
		if want := fmt.Sprintf("suppressed=%d\n", guesses-strangersLogged); !strings.HasSuffix(log.String(), want) {
			t.Errorf("what was left out is not counted: %.1500s", &log)
		}
	})
}

// failing is a bus that answers with an error.
type failing struct {
	noTopologies

	err error
}

func (f failing) Journal(context.Context, stream.JournalRequest) (stream.JournalPage, error) {
	return stream.JournalPage{}, f.err
}

// A token need not have a subject.
func TestWhatGoesWrongForWhoIsKnownIsLoggedEachTime(t *testing.T) {
	t.Parallel()
	for err, level := range map[error]string{stream.ErrUnavailable: "WARN", errors.New("a fault of ours"): "ERROR"} {
		s, _ := ticketServer()
		log := logOf(s, slog.LevelInfo)
		s.cfg.Bus = failing{err: err}
		const requests = 100
		for range requests {
			w := ask(s, http.MethodGet, basePath+"/topologies/"+someTopology+"/journal", "", "Authorization", "Bearer token")
			if w.Code < http.StatusInternalServerError {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
		if n := strings.Count(log.String(), `"level":"`+level+`"`); n != requests {
			t.Errorf("%d lines at %s", n, level)
		}
		if n := len(accessLines(t, s, log)); n != requests {
			t.Errorf("%d lines of the access log", n)
		}
	}
}

func TestBadTokensDoNotHideFromTheLogThatTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	for level, infos := range map[slog.Level]int{slog.LevelInfo: strangersLogged, slog.LevelWarn: 0} {
		synctest.Test(t, func(t *testing.T) {
			s, book := ticketServer()
			log := logOf(s, level)
			s.access = nil
			book.err = stream.ErrUnavailable
			for range 2 * strangersLogged {
				ask(s, http.MethodGet, anEvents+"?token=bad", "")
			}
			ask(s, http.MethodGet, anEvents+"?ticket=T", "")
			if n := strings.Count(log.String(), `"level":"INFO"`); n != infos {
				t.Errorf("at %s: %d lines of bad tokens", level, n)
			}
			if n := strings.Count(log.String(), `"level":"WARN"`); n != 1 {
				t.Errorf("at %s: %d lines of the database", level, n)
			}
		})
	}
}

func TestWhatAilsTheServerItselfIsLoggedEachTime(t *testing.T) {
	t.Parallel()
	const lines = 2 * strangersLogged
	for text, want := range map[string]int{
		"http: TLS handshake error from 192.0.2.1:1: EOF":                     strangersLogged,
		"http2: server: error reading preface from client 192.0.2.1:1: x":     strangersLogged,
		"http: Accept error: accept4: too many open files; retrying in 5ms":   lines,
		"http: panic serving 192.0.2.1:1: x":                                  lines,
		"http2: panic serving 192.0.2.1:1: x":                                 lines,
		"http: superfluous response.WriteHeader call from main.main (x.go:1)": lines,
	} {
		synctest.Test(t, func(t *testing.T) { // within a second
			var log bytes.Buffer
			logger := ErrorLog(slog.New(slog.NewTextHandler(&log, nil)))
			for range lines {
				logger.Print(text)
			}
			if n := strings.Count(log.String(), text); n != want {
				t.Errorf("%s: %d lines, want %d", text, n, want)
			}
		})
	}
}

// Whether a ticket is good only the database knows, and a guess costs it as much as a ticket.
func TestWhoGuessesTicketsSoonAsksTheDatabaseNoMore(t *testing.T) {
	t.Parallel()
	const limit, guesses = 20, 300
	s, book := ticketServer()
	s.limits = newLimits(limit)
	counted := map[int]int{}
	for i := range guesses {
		counted[ask(s, http.MethodGet, fmt.Sprintf("%s?ticket=guess%d", anEvents, i), "").Code]++
	}
	if book.asked != limit || counted[http.StatusUnauthorized] != limit ||
		counted[http.StatusTooManyRequests] != guesses-limit {
		t.Errorf("the database was asked %d times; answers: %v", book.asked, counted)
	}
	if w := ask(s, http.MethodGet, anEvents+"?ticket=T", "", "Accept", "text/event-stream"); w.Code != http.StatusOK ||
		!book.has("T") { // EventSource tries again
		t.Errorf("a ticket that was not looked at: %d %s, still good: %t", w.Code, w.Body, book.has("T"))
	}
}

func TestHEADIsAnsweredAsGETWithoutABody(t *testing.T) {
	t.Parallel()
	s, _ := ticketServer()
	s.cfg.Store = oneTopology{}
	const bearer, token = "Authorization", "Bearer token"
	for target, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/openapi.yaml": 200, "/nothing": 404,
		anEvents: 200, basePath + "/topologies/" + theirs + "/events": 404, listPath: 200,
		manyPath + "?topology=" + someTopology: 200, manyPath: 400,
		manyPath + "?topology=" + theirs: 404, manyPath + "?topology=" + theirs + "&topology=" + someTopology: 200,
	} {
		if w := ask(s, http.MethodHead, target, "", bearer, token); w.Code != want {
			t.Errorf("%s: %d, want %d", target, w.Code, want)
		}
	}
	if w := ask(s, http.MethodHead, anEvents, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", w.Code)
	}
	if w := ask(s, http.MethodHead, anEvents, "", bearer, token); w.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("a stream would be %s", w.Header().Get("Content-Type"))
	}
	if w := ask(s, http.MethodPut, "/livez", ""); w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("Allow: %s", w.Header().Get("Allow"))
	}
}

// oneTopology is a store that knows that someTopology is there.
type oneTopology struct{ noTopologies }

func (oneTopology) Exists(_ context.Context, id stream.TopologyID) error {
	if id == someTopology {
		return nil
	}
	return stream.ErrNotFound
}

func TestAQueryThatCannotBeReadIsRefusedByItsName(t *testing.T) {
	t.Parallel()
	s, _ := ticketServer()
	s.cfg.Store = oneTopology{}
	const topology = basePath + "/topologies/" + someTopology
	for _, target := range []string{
		basePath + "/topologies?limit=%zz", basePath + "/topologies?limit=1;x", topology + "/mutations?limit=1;x",
		listPath + "?status=%zz", manyPath + "?topology=" + someTopology + ";x", "/readyz?exclude=%zz",
		"/readyz?exclude=database;x",
	} {
		w := ask(s, http.MethodGet, target, "", "Authorization", "Bearer token")
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"query: cannot be read`) {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
}

func TestAPathMeansTheSameEncodedAndASlashOfItSeparatesNothing(t *testing.T) {
	t.Parallel()
	s, _ := ticketServer()
	s.cfg.Store = oneTopology{}
	for path, want := range map[string]int{
		"/topologies/%30" + someTopology[1:] + "/events":  http.StatusOK,
		"/topologies/%30" + someTopology[1:] + "/events/": http.StatusOK,
		"/topologies/" + someTopology + "%2Fevents":       http.StatusNotFound,
		"/topologies/" + someTopology + "%2fevents":       http.StatusNotFound,
		"/topologies/" + someTopology + "/events%2F":      http.StatusNotFound,
		"/topologies/" + someTopology + "%2F":             http.StatusNotFound,
	} {
		if w := ask(s, http.MethodHead, basePath+path, "", "Authorization", "Bearer token"); w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestTextsForPeopleHaveNoControlCharacters(t *testing.T) {
	t.Parallel()
	var field *stream.FieldError
	_, err := parseStatusChange([]byte(`{"status":"active","reason":"a\u001b[31mb"}`))
	if !errors.As(err, &field) || field.Field != "reason" {
		t.Errorf("reason: %v", err)
	}
	if c, err := parseStatusChange([]byte(`{"status":"active","reason":"two\n\tlines"}`)); err != nil ||
		*c.Reason != "two\n\tlines" {
		t.Errorf("lines: %v", err)
	}
	_, err = parseNewMutation([]byte(`{"op":"update_decky","payload":{"decky":"web","services":["ssh","a\u0007"]}}`))
	if !errors.As(err, &field) || field.Field != "payload.services[1]" {
		t.Errorf("services: %v", err)
	}
}

func TestBrowsersAreToldToKeepToTLSForAsLongAsTheOperatorWants(t *testing.T) {
	t.Parallel()
	for want, hsts := range map[string]time.Duration{"": 0, "max-age=60": time.Minute} {
		for _, secured := range []bool{true, false} {
			r := httptest.NewRequest(http.MethodGet, "/livez", nil)
			if r.TLS = nil; secured {
				r.TLS = &tls.ConnectionState{}
			}
			w := httptest.NewRecorder()
			New(Config{HSTS: hsts}).Handler().ServeHTTP(w, r)
			if got := w.Header().Get("Strict-Transport-Security"); secured && got != want || !secured && got != "" {
				t.Errorf("TLS %t, %s: %q", secured, hsts, got)
			}
		}
	}
}

// RFC 9110, section 15.5.6: whoever is refused for the method hears which ones there are.
func TestAllowNamesTheMethodsHoweverThePathIsWritten(t *testing.T) {
	t.Parallel()
	server, _ := ticketServer()
	server.cfg.ConsoleHandler = http.NotFoundHandler()
	const topologies = basePath + "/topologies/"
	for target, want := range map[string]string{
		"/": "GET, HEAD", "/livez/": "GET, HEAD", "/%6civez": "GET, HEAD", topologies: "GET, HEAD, POST",
		topologies + someTopology + "%2F": "GET, HEAD, PATCH, DELETE", topologies + "a%2Fb/journal": "GET, HEAD",
	} {
		w := ask(server, http.MethodPut, target, "")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != want {
			t.Errorf("%s: %d, Allow: %s, want %s", target, w.Code, w.Header().Get("Allow"), want)
		}
	}
}
