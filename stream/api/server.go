// Package api is topostream's HTTP face: the streams, the journal, and what says how the server is.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"topostream/stream"
)

// Config is what New needs. Auth's errors become 401; a nil handler means that its route is not served here.
type Config struct {
	Bus               stream.Bus
	Auth              func(*http.Request) (stream.Principal, error)
	Stats             *stream.Stats
	Logger            *slog.Logger
	Keepalive         time.Duration // silence after which a stream gets a comment
	WriteTimeout      time.Duration // of one batch of frames
	MaxStreams        int           // 0: no limit
	MaxStreamsPerUser int           // 0: no limit
	Ready             func() error
	ConsoleHandler    http.Handler
	MetricsHandler    http.Handler
}

// A Server serves HTTP. Make it with New, end its streams with Drain.
type Server struct {
	cfg      Config
	registry *registry
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Keepalive <= 0 {
		cfg.Keepalive = 15 * time.Second
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, registry: newRegistry(cfg.MaxStreams, cfg.MaxStreamsPerUser)}
}

// Drain refuses new streams, tells every open one to come back later, spread over half of what is left of ctx, waits until all
// are gone, and cuts those that are left when ctx ends (then it returns ctx's error).
func (s *Server) Drain(ctx context.Context) error { return s.registry.drain(ctx) }

// Handler gives the routes.
func (s *Server) Handler() http.Handler {
	r := chi.NewRouter()
	r.Use(s.recover, middleware.StripSlashes)
	r.NotFound(func(w http.ResponseWriter, _ *http.Request) { problem(w, http.StatusNotFound, "there is nothing here") })
	r.MethodNotAllowed(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusMethodNotAllowed, "this address does not take that method")
	})
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	r.Get("/readyz", s.readyz)
	if s.cfg.MetricsHandler != nil {
		r.Method(http.MethodGet, "/metrics", s.cfg.MetricsHandler)
	}
	if s.cfg.ConsoleHandler != nil {
		r.Method(http.MethodGet, "/", s.cfg.ConsoleHandler)
		r.Method(http.MethodGet, "/console/*", s.cfg.ConsoleHandler)
	}
	r.Get("/api/v1/topologies/{id}/events", s.viewer(s.events))
	r.Get("/api/v1/topologies/{id}/journal", s.viewer(s.journal))
	return r
}

// recover turns a panic into a 500. The log gets the path without the query, which may hold a token.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.cfg.Logger.Error("panic in a handler", "path", r.URL.Path, "panic", v)
				problem(w, http.StatusInternalServerError, "something is wrong here; the log says more")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.registry.draining():
		problem(w, http.StatusServiceUnavailable, "server: draining")
	case s.cfg.Ready != nil && s.cfg.Ready() != nil:
		problem(w, http.StatusServiceUnavailable, s.cfg.Ready().Error())
	default:
		writeText(w, http.StatusOK, "ready")
	}
}

// A request is one that passed 401 and 403.
type request struct {
	*http.Request

	principal stream.Principal
	topology  stream.TopologyID
}

// viewer checks in the order 401, 403, 404, so that an unauthenticated caller learns nothing about which ids exist.
func (s *Server) viewer(next func(http.ResponseWriter, request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := s.cfg.Auth(r)
		if err != nil {
			s.cfg.Logger.Info("unauthenticated", "path", r.URL.Path, "error", err)
			w.Header().Set("WWW-Authenticate", `Bearer realm="topostream"`)
			problem(w, http.StatusUnauthorized, "give a valid token as Authorization: Bearer or as ?token=")
			return
		}
		id, ok := stream.ParseTopologyID(chi.URLParam(r, "id"))
		switch {
		case !p.May(stream.RoleViewer), p.Topologies != nil && !p.Sees(id):
			problem(w, http.StatusForbidden, "the token does not cover this topology")
		case !ok:
			notFound(w)
		default:
			next(w, request{r, p, id})
		}
	}
}

func (s *Server) journal(w http.ResponseWriter, r request) {
	const defaultLimit, maxLimit = 200, 1000
	query := r.URL.Query()
	after, limit := stream.Seq(0), defaultLimit
	if v := query.Get("after"); v != "" {
		var ok bool
		if after, ok = stream.ParseSeq(v); !ok {
			problem(w, http.StatusBadRequest, "after: give the seq of an event, 1 to 16 digits")
			return
		}
	}
	if v := query.Get("limit"); v != "" {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxLimit {
			problem(w, http.StatusBadRequest, fmt.Sprintf("limit: give a number from 1 to %d", maxLimit))
			return
		}
	}
	page, err := s.cfg.Bus.Journal(r.Context(), r.topology, after, limit)
	switch {
	case errors.Is(err, stream.ErrNotFound):
		notFound(w)
	case err != nil:
		s.cfg.Logger.Warn("journal", "topology", r.topology, "error", err)
		w.Header().Set("Retry-After", "2")
		problem(w, http.StatusServiceUnavailable, stream.ErrUnavailable.Error())
	default:
		writeJournal(w, page)
	}
}

// writeJournal writes the events as the encoder made them: encoding/json would compact them, and an event has the same bytes
// however it came.
func writeJournal(w http.ResponseWriter, page stream.JournalPage) {
	body := fmt.Appendf(nil, `{"first":%d,"head":%d,"events":[`, page.First, page.Head)
	for i, event := range page.Events {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, event...)
	}
	writeBody(w, http.StatusOK, "application/json", append(body, "]}\n"...))
}

func notFound(w http.ResponseWriter) { problem(w, http.StatusNotFound, stream.ErrNotFound.Error()) }

// problem answers with RFC 9457 problem details.
func problem(w http.ResponseWriter, status int, detail string) {
	writeJSON(w, status, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, detail})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here
	}
	writeBody(w, status, contentType, append(body, '\n'))
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the client may be gone
}

func acceptsEvents(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/event-stream")
}
