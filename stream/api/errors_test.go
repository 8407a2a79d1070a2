package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// sentinels are the exported ones of package stream.
func sentinels() map[string]error {
	return map[string]error{
		"ErrNotFound": stream.ErrNotFound, "ErrUnavailable": stream.ErrUnavailable, "ErrReset": stream.ErrReset,
		"ErrBehind": stream.ErrBehind, "ErrDeleted": stream.ErrDeleted, "ErrClosed": stream.ErrClosed,
		"ErrNoMemory": stream.ErrNoMemory, "ErrIllegalTransition": stream.ErrIllegalTransition,
		"ErrNotAccepting": stream.ErrNotAccepting, "ErrVersionConflict": stream.ErrVersionConflict,
		"ErrNameTaken": stream.ErrNameTaken, "ErrKeyReused": stream.ErrKeyReused, "ErrTooMany": stream.ErrTooMany,
		"ErrBusy": stream.ErrBusy, "ErrNoTicket": stream.ErrNoTicket, "ErrTooManyTickets": stream.ErrTooManyTickets,
	}
}

func TestEverySentinelOfTheDomainHasItsRuling(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var declared []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok {
				for _, name := range spec.Names {
					if strings.HasPrefix(name.Name, "Err") {
						declared = append(declared, name.Name)
					}
				}
			}
			_, isFunc := n.(*ast.FuncDecl)
			return !isFunc
		})
	}
	known := sentinels()
	for _, name := range declared {
		isRuled := func(r ruling) bool { return known[name] != nil && errors.Is(r.target, known[name]) }
		if !slices.ContainsFunc(rulings(), isRuled) {
			t.Errorf("stream.%s has no ruling", name)
		}
	}
	if len(declared) != len(known) {
		t.Errorf("declared: %v", declared)
	}
}

func TestEachErrorIsToldAsItIsToRequestsAndToStreams(t *testing.T) {
	t.Parallel()
	const (
		detail   = "psql says so"
		badToken = "give a valid token, as ?token= or as Authorization: Bearer"
		away     = "the database is away"
		badly    = "something is wrong here; the log says more"
	)
	const longestRetry = 4000 // milliseconds, of a stream that began
	const s2, s5, s15, s60 = 2 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute
	for _, c := range []struct {
		err    error
		status int
		after  time.Duration // 0: none
		again  time.Duration // of a stream; 0: the status is final
		says   string        // empty: the error's own
		logged bool
	}{
		{stream.ErrNotFound, 404, 0, 0, "", false},
		{stream.ErrDeleted, 404, 0, 0, "no such topology", false},
		{errUnauthenticated, 401, 0, 0, "", false},
		{stream.ErrNoTicket, 401, 0, 0, badToken, false},
		{delivery.ErrExpired, 401, 0, 0, badToken, false},
		{stream.ErrTooMany, 429, s5, 0, "", false},
		{stream.ErrTooManyTickets, 429, s15, 0, "", false},
		{errRate, 429, s60, s60, "", false},
		{errStrangers, 429, s60, 0, "", false},
		{errLimit, 429, s15, s15, "", false},
		{delivery.ErrReplaced, 429, s15, s15, "", false},
		{&stream.ConflictError{Kind: stream.ErrIllegalTransition, Detail: detail}, 409, 0, 0, detail, false},
		{&stream.ConflictError{Kind: stream.ErrNotAccepting, Detail: detail}, 409, 0, 0, detail, false},
		{&stream.ConflictError{Kind: stream.ErrVersionConflict, Detail: detail}, 409, 0, 0, detail, false},
		{&stream.ConflictError{Kind: stream.ErrNameTaken, Detail: detail}, 409, 0, 0, detail, false},
		{&stream.ConflictError{Kind: stream.ErrKeyReused, Detail: detail}, 409, 0, 0, detail, false},
		{&stream.ConflictError{Kind: stream.ErrTooMany, Detail: detail}, 429, s5, 0, detail, false},
		{stream.ErrNoMemory, 503, s5, s5, "", true},
		{fmt.Errorf("%w: %w", stream.ErrNoMemory, context.DeadlineExceeded), 503, s5, s5, "", true},
		{stream.ErrBusy, 503, s5, s5, "", true},
		{delivery.ErrDraining, 503, s2, s5, "", false},
		{stream.ErrClosed, 503, s2, s5, away, false},
		{stream.ErrUnavailable, 503, s2, s5, "", true},
		{&stream.UnavailableError{Reason: detail, Err: errors.New("secret")}, 503, s2, s5, detail, true},
		{context.DeadlineExceeded, 503, s2, s5, away, true},
		{stream.ErrReset, 503, s2, s5, away, true},
		{stream.ErrBehind, 503, s2, s5, away, true},
		{&stream.FieldError{Field: "name", Problem: "is missing: give a string"}, 400, 0, 0, "", false},
		{forbidden("no"), 403, 0, 0, "", false},
		{errors.New("anything"), 500, 0, s5, badly, true},
	} {
		says := c.says
		if says == "" {
			says, _, _ = strings.Cut(c.err.Error(), ": context deadline")
		}
		wrapped := c.err
		if _, ok := errors.AsType[*stream.FieldError](c.err); !ok {
			wrapped = fmt.Errorf("%w: secret", c.err)
		}
		answered := func(answer func(*Server, http.ResponseWriter, *http.Request)) *httptest.ResponseRecorder {
			var log bytes.Buffer
			s, _ := ticketServer()
			s.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			w, r := &deadlined{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, anEvents, nil)
			r.Header.Set("Accept", "text/event-stream")
			answer(s, w, r)
			if logged := log.Len() > 0; logged != c.logged {
				t.Errorf("%v: logged %q", c.err, &log)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%v: %s", c.err, w.Body)
			}
			return w.ResponseRecorder
		}
		w := answered(func(s *Server, w http.ResponseWriter, r *http.Request) { s.fail(w, r, wrapped) })
		var problem struct{ Detail string }
		if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || problem.Detail != says || w.Code != c.status ||
			w.Header().Get("Retry-After") != inSeconds(c.after) ||
			(w.Code == http.StatusUnauthorized) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%v: %d %v %s", c.err, w.Code, w.Header(), w.Body)
		}
		w = answered(func(s *Server, w http.ResponseWriter, r *http.Request) {
			s.refuse(w, r, newFrameWriter(w, time.Minute, s.cfg.Stats), about{stream: true}, wrapped)
		})
		if c.again == 0 {
			if w.Code != c.status || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%v, to a stream: %d %s", c.err, w.Code, w.Body)
			}
			continue
		}
		var retry int
		if _, err := fmt.Sscanf(w.Body.String(), ": keepalive\nretry: %d\n", &retry); err != nil || w.Code != http.StatusOK ||
			retry < int(c.again.Milliseconds()) || retry > 2*int(c.again.Milliseconds()) || retry <= longestRetry ||
			w.Header().Get("Connection") != "close" ||
			!strings.Contains(w.Body.String(), "event: unavailable\n") ||
			!strings.Contains(w.Body.String(), "\"reason\":\""+strings.Replace(says, badly, away, 1)+"\"") {
			t.Errorf("%v, to a stream: %d %s, %v", c.err, w.Code, w.Body, err)
		}
	}
}

func inSeconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f", d.Seconds())
}

// A deadlined recorder takes deadlines, as a connection does.
type deadlined struct{ *httptest.ResponseRecorder }

func (deadlined) SetWriteDeadline(time.Time) error { return nil }
