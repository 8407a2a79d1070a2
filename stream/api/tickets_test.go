package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

const (
	someTopology = "00000000-0000-4000-8000-000000000000"
	theirs       = "00000000-0000-4000-8000-000000000001"
)

// ticketBook is stream.Tickets in memory.
type ticketBook struct {
	mu     sync.Mutex
	unused map[string]stream.Principal
	err    error // instead of anything else
	asked  int   // how often Redeem was called
}

func (b *ticketBook) Mint(_ context.Context, p stream.Principal) (string, time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return "", 0, b.err
	}
	b.unused["minted"] = p
	return "minted", 41*time.Second - time.Millisecond, nil
}

func (b *ticketBook) Redeem(_ context.Context, ticket string) (stream.Principal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	p, ok := b.unused[ticket]
	switch {
	case b.err != nil:
		return stream.Principal{}, b.err
	case !ok:
		return stream.Principal{}, stream.ErrNoTicket
	}
	delete(b.unused, ticket)
	return p, nil
}

func (b *ticketBook) has(ticket string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.unused[ticket]
	return ok
}

// noTopologies is a bus and a store that have none: who gets a 404 was let in.
type noTopologies struct {
	stream.Bus
	stream.Store
}

func (noTopologies) Attach(context.Context, stream.AttachRequest) (*stream.Subscription, error) {
	return nil, stream.ErrNotFound
}

func (noTopologies) Journal(context.Context, stream.JournalRequest) (stream.JournalPage, error) {
	return stream.JournalPage{}, stream.ErrNotFound
}

func (noTopologies) Exists(context.Context, stream.TopologyID) error { return stream.ErrNotFound }

// ticketServer has a ticket T of a viewer who may see everything, and takes the tokens "token" and "limited".
func ticketServer() (*Server, *ticketBook) {
	book := &ticketBook{unused: map[string]stream.Principal{
		"T":       {Subject: "ticket", Role: stream.RoleViewer},
		"limited": {Role: stream.RoleViewer, Topologies: []stream.TopologyID{theirs}},
		"nobody":  {},
		"late":    {Role: stream.RoleViewer, Expires: time.Now().Add(-time.Second)},
	}}
	auth := func(r *http.Request) (stream.Principal, error) {
		token := r.URL.Query().Get("token")
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			token = bearer
		}
		switch token {
		case "token":
			return stream.Principal{Role: stream.RoleViewer}, nil
		case "limited":
			return stream.Principal{Role: stream.RoleViewer, Topologies: []stream.TopologyID{theirs}}, nil
		}
		return stream.Principal{}, errors.New("no token")
	}
	s := New(Config{
		Bus: noTopologies{}, Store: noTopologies{}, Tickets: book, Auth: auth, Stats: metrictest.Stats(),
	})
	return s, book
}

func ask(s *Server, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("X-Request-ID", "the-same") // so that answers are, too
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

const anEvents = basePath + "/topologies/" + someTopology + "/events"

func TestABearerWinsOverATicketAndATicketOverAToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query, authorization string
		want                 int
		used                 bool
	}{
		{"?ticket=T", "", 404, true},
		{"?ticket=T", "Basic proxy", 404, true},
		{"?ticket=T", "Bearer token", 404, false},
		{"?ticket=T", "bearer wrong", 401, false},
		{"?ticket=T&token=wrong", "", 404, true},
		{"?ticket=wrong&token=token", "", 401, false},
		{"?ticket=&token=token", "", 404, false},
		{"?ticket=nobody", "", 403, false},
		{"?ticket=limited", "", 403, false},
		{"?ticket=late", "", 401, false},
		{"?ticket=T&ticket=T", "", 401, false},
		{"?ticket=&ticket=T&token=token", "", 401, false},
	} {
		s, book := ticketServer()
		w := ask(s, http.MethodGet, anEvents+c.query, "", "Authorization", c.authorization)
		if w.Code != c.want || book.has("T") == c.used {
			t.Errorf("%s %s: %d %s, the ticket is used: %v", c.query, c.authorization, w.Code, w.Body, !book.has("T"))
		}
	}
}

func TestATicketIsUsedAlsoByARequestThatGetsNoStream(t *testing.T) {
	t.Parallel()
	s, book := ticketServer()
	for _, ticket := range []string{"T", "limited", "nobody"} { // 404, 403, 403
		if ask(s, http.MethodGet, anEvents+"/?ticket="+ticket, ""); book.has(ticket) {
			t.Errorf("%s is not used", ticket)
		}
		if w := ask(s, http.MethodGet, anEvents+"?ticket="+ticket, ""); w.Code != http.StatusUnauthorized {
			t.Errorf("%s again: %d", ticket, w.Code)
		}
	}
}

func TestATicketIsNoCredentialForAnythingButAStream(t *testing.T) {
	t.Parallel()
	s, book := ticketServer()
	bad := ask(s, http.MethodGet, anEvents, "")
	for route, methods := range map[string][]string{
		basePath + "/topologies": {"GET", "POST"}, aTopology: {"GET", "PATCH", "DELETE"}, aTopology + "/journal": {"GET"},
		aTopology + "/mutations": {"GET", "POST"}, basePath + "/auth/sse-ticket": {"POST"},
	} {
		for _, method := range methods {
			w := ask(s, method, route+"?ticket=T", "")
			if w.Code != http.StatusUnauthorized || w.Body.String() != bad.Body.String() || !book.has("T") {
				t.Errorf("%s %s: %d %s", method, route, w.Code, w.Body)
			}
		}
	}
}

func TestWhatARetryHelpsLeavesTheTicketForIt(t *testing.T) {
	t.Parallel()
	for name, hinder := range map[string]func(*Server, *ticketBook){
		"the database is away":     func(_ *Server, b *ticketBook) { b.err = stream.ErrUnavailable },
		"the server is going away": func(s *Server, _ *ticketBook) { _ = s.Drain(t.Context()) }, // nothing to wait for
	} {
		s, book := ticketServer()
		hinder(s, book)
		w := ask(s, http.MethodGet, anEvents+"?ticket=T", "")
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" ||
			!strings.Contains(w.Body.String(), name) || !book.has("T") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		server := httptest.NewServer(s.Handler())
		defer server.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+anEvents+"?ticket=T", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body strings.Builder
		_ = res.Write(&body) // what came is judged
		_ = res.Body.Close()
		got := body.String()
		if res.StatusCode != http.StatusOK || !strings.Contains(got, "event: unavailable\n") ||
			!strings.Contains(got, name) || !strings.Contains(got, "retry: ") {
			t.Errorf("%s, to an EventSource: %s", name, got)
		}
	}
}

func TestEveryTokenMintsTicketsWithAnEmptyBodyOrAnEmptyObject(t *testing.T) {
	t.Parallel()
	const path = basePath + "/auth/sse-ticket"
	for _, c := range []struct {
		token, target, body, contentType string
		want                             int
	}{
		{"token", path, "", "", 200},
		{"token", path + "/", "", "text/plain;charset=UTF-8", 200},
		{"limited", path, "{}", "application/json", 200},
		{"limited", path, " \n{ }\n", "", 200},
		{"token", path, "null", "application/json", 400},
		{"token", path, `{"ttl":5}`, "application/json", 400},
		{"token", path, `{`, "application/json", 400},
		{"token", path, `{}`, "text/plain", 415},
		{"wrong", path, "", "", 401},
	} {
		s, book := ticketServer()
		w := ask(s, http.MethodPost, c.target, c.body, "Authorization", "Bearer "+c.token, "Content-Type", c.contentType)
		if w.Code != c.want || (c.want == http.StatusOK) != book.has("minted") {
			t.Errorf("%+v: %d %s", c, w.Code, w.Body)
		}
		if c.want == http.StatusOK && (w.Body.String() != `{"ticket":"minted","expires_in":40}`+"\n" ||
			w.Header().Get("Cache-Control") != "no-store") {
			t.Errorf("%+v: %v %s", c, w.Header(), w.Body)
		}
		if bound := book.unused["minted"].Topologies; c.token == "limited" && (len(bound) != 1 || bound[0] != theirs) {
			t.Errorf("%+v is bound to %v", c, bound)
		}
	}
	for err, want := range map[error]int{
		stream.ErrTooManyTickets: http.StatusTooManyRequests, stream.ErrUnavailable: http.StatusServiceUnavailable,
	} {
		s, book := ticketServer()
		book.err = err
		w := ask(s, http.MethodPost, path, "", "Authorization", "Bearer token")
		if w.Code != want || w.Header().Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", err, w.Code, w.Body)
		}
	}
}
