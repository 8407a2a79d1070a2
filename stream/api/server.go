// Package api is topostream's HTTP face: the streams, the journal, topologies and their mutations, and what says how
// the server is.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"topostream/stream"
	"topostream/stream/engine"
)

const (
	basePath = "/api/v1" // before what needs a token
	manyPath = basePath + "/events"
	listPath = basePath + "/topologies/events"
	// eventsPath is that of the stream of one topology.
	eventsPath = basePath + "/topologies/{id}/events"
)

// Config is what New needs. Auth's errors become 401; a nil handler means that its route is not served here.
type Config struct {
	Bus               stream.Bus
	Store             stream.Store
	Tickets           stream.Tickets
	Auth              func(*http.Request) (stream.Principal, error)
	Memory            *stream.Memory // the bus's own, of which answers hold a quarter at most and bodies an eighth
	Stats             *stream.Stats
	Logger            *slog.Logger
	Keepalive         time.Duration // silence after which a stream gets a comment
	WriteTimeout      time.Duration // of one batch of frames
	BodyTimeout       time.Duration // in which a request's body must have arrived: 30 s
	MaxStreams        int           // 0: no limit
	MaxStreamsPerUser int           // 0: no limit
	// RateLimit is how many requests one subject may make in a minute, and one address without a valid token; 0: no limit.
	RateLimit int
	// AllowOrigin are origins of pages, beside this server's own, that may use it: scheme://host or scheme://host:port.
	AllowOrigin []string
	// HSTS is how long browsers shall use nothing but TLS, where this server speaks it (RFC 6797); 0: it says nothing.
	HSTS  time.Duration
	Ready func() error
	// Blind is asked before something is said not to be there: an error says that this server may only not see it.
	Blind func(context.Context) error
	// Notice says what is odd though streams are served, for /readyz; empty: nothing.
	Notice         func() string
	ConsoleHandler http.Handler
	ClientHandler  http.Handler // of /topostream.js
	TabsHandler    http.Handler // of /topostream-tabs.js
	MetricsHandler http.Handler
	// Trace serves a request of the API within a span of it, which goes on with the request's own trace only where that is
	// believed; nil: there are no spans.
	Trace func(w http.ResponseWriter, r *http.Request, began time.Time, believed bool, next http.HandlerFunc)
	// Observe is told of each request when it is answered, and of each stream at its end. It must not block; nil: nobody.
	Observe func(*Observation)
	// AccessLog says that the log gets a line of each of them.
	AccessLog bool
	// Engine carries the streams of plain HTTP/1.1; nil: net/http carries all.
	Engine *engine.Engine
}

// A Server serves HTTP. Make it with New, end its streams with Drain.
type Server struct {
	cfg         Config
	atOnce      func(stream.AttachRequest) *stream.Subscription // AttachAtOnce of the bus, where it has that; never nil
	registry    *registry
	heads       heads
	limits      *limits
	access      *accessLog    // nil: there is none
	strangers   samples       // of what is logged about requests without a good credential
	forAnswers  *stream.Share // what is read for answers, until it is written
	forBodies   *stream.Share // large bodies of requests, until they are answered
	crossOrigin *http.CrossOriginProtection
}

// New makes a server. It panics on an AllowOrigin that is none.
func New(cfg Config) *Server {
	if cfg.Keepalive <= 0 {
		cfg.Keepalive = 15 * time.Second
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = 30 * time.Second
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = 30 * time.Second
	}
	if cfg.Memory == nil {
		cfg.Memory = stream.NewMemory(defaultMemory, cfg.Stats)
	}
	atOnce := func(stream.AttachRequest) *stream.Subscription { return nil }
	if bus, ok := cfg.Bus.(stream.AtOnce); ok {
		atOnce = bus.AttachAtOnce // not through Seeing: what it gives is there, and it never says that something is not
	}
	cfg.Bus = Seeing(cfg.Bus, cfg.Blind)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, atOnce: atOnce,
		registry: newRegistry(cfg.MaxStreams, cfg.MaxStreamsPerUser), limits: newLimits(cfg.RateLimit),
		access: newAccessLog(cfg.AccessLog, cfg.Logger), strangers: newSamples(),
		forAnswers: cfg.Memory.Share(answersPart), forBodies: cfg.Memory.Share(bodiesPart),
		crossOrigin: newCrossOriginProtection(cfg.AllowOrigin),
	}
}

// Drain refuses new streams, tells every open one to come back later, spread over half of the time that ctx has left,
// waits until all are gone, and cuts those that are left when ctx ends (then it returns ctx's error). At last it writes
// what is left of the access log.
func (s *Server) Drain(ctx context.Context) error {
	err := s.registry.drain(ctx)
	if s.access != nil {
		s.access.flush(ctx)
	}
	return err
}

// Handler gives the routes.
func (s *Server) Handler() http.Handler {
	r := chi.NewRouter()
	r.Use(s.observed, s.recover, s.secure, s.shared, s.boundBody, decoded, middleware.StripSlashes, middleware.GetHead)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, badRequest(http.StatusNotFound, "there is nothing here"))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		allowed := strings.Join(methods(r, req), ", ")
		w.Header().Set("Allow", allowed) // RFC 9110, section 15.5.6
		s.fail(w, req, badRequest(http.StatusMethodNotAllowed, "this address takes %s", allowed))
	})
	r.Get(eventsPath, s.byTicketToo(s.viewer(s.events)))
	r.Get(listPath, s.byTicketToo(s.authenticated(stream.RoleViewer, s.list)))
	r.Get(manyPath, s.byTicketToo(s.authenticated(stream.RoleViewer, s.manyByQuery)))
	r.Post(manyPath, s.byTicketToo(s.authenticated(stream.RoleViewer, s.manyByBody)))
	r.Group(s.answers)
	return r
}

// answers are the routes of everything but streams.
func (s *Server) answers(r chi.Router) {
	r.Use(s.paced)
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	r.Get("/readyz", s.readyz)
	if s.cfg.MetricsHandler != nil {
		r.Method(http.MethodGet, "/metrics", s.cfg.MetricsHandler)
	}
	if s.cfg.ConsoleHandler != nil {
		r.Method(http.MethodGet, "/", s.cfg.ConsoleHandler)
		r.Method(http.MethodGet, "/console/*", s.cfg.ConsoleHandler)
	}
	if s.cfg.ClientHandler != nil {
		r.Method(http.MethodGet, "/topostream.js", s.cfg.ClientHandler)
	}
	if s.cfg.TabsHandler != nil {
		r.Method(http.MethodGet, "/topostream-tabs.js", s.cfg.TabsHandler)
	}
	r.Get("/openapi.yaml", serveDescription)
	const topologies, topology = basePath + "/topologies", basePath + "/topologies/{id}"
	r.Get(topologies, s.collection(stream.RoleViewer, s.listTopologies))
	r.Post(topologies, s.collection(stream.RoleAdmin, s.createTopology))
	r.Get(topology, s.viewer(s.getTopology))
	r.Patch(topology, s.admin(s.changeStatus))
	r.Delete(topology, s.admin(s.deleteTopology))
	r.Post(basePath+"/auth/sse-ticket", s.authenticated(stream.RoleViewer, s.mintTicket))
	r.Get(topology+"/journal", s.viewer(s.journal))
	r.Post(topology+"/mutations", s.admin(s.enqueueMutation))
	r.Get(topology+"/mutations", s.viewer(s.listMutations))
}

// methods are those that the address of req takes.
func methods(r chi.Router, req *http.Request) (allowed []string) {
	path := cmp.Or(chi.RouteContext(req.Context()).RoutePath, req.URL.Path) // as it was routed
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if r.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
			if method == http.MethodGet {
				allowed = append(allowed, http.MethodHead)
			}
		}
	}
	return allowed
}

// recover turns a panic into a 500. The log gets the path without the query, which may hold a token.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.log(w).Error("panic in a handler", "path", logged(r.URL.Path), "panic", v,
					"stack", string(debug.Stack()))
				ruling{status: http.StatusInternalServerError}.problem(w, errWrong.Error())
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// readyz says whether this server should get clients. With ?exclude=database it says so also while the database is
// away: streams live on and new ones are told when to come back, while an orchestrator that takes all servers out
// leaves browsers with a 503, after which EventSource gives up for good.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	excluded, err := DatabaseExcluded(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := s.ready(!excluded); err != nil {
		s.fail(w, r, badRequest(http.StatusServiceUnavailable, "%s", err))
		return
	}
	text := "ready"
	if s.cfg.Notice != nil {
		if notice := s.cfg.Notice(); notice != "" {
			text += "\n" + notice
		}
	}
	writeText(w, http.StatusOK, text)
}

// DatabaseExcluded tells whether a probe leaves the database out. A *stream.FieldError says what is wrong with it.
func DatabaseExcluded(probe *http.Request) (bool, error) {
	query, err := queryOf(probe)
	if err != nil {
		return false, err
	}
	switch query.Get("exclude") {
	case "":
		return false, nil
	case "database":
		return true, nil
	}
	return false, refused("exclude", "the part that can be left out is database")
}

// Ready is what keeps /readyz from 200; nil: nothing.
func (s *Server) Ready() error { return s.ready(true) }

func (s *Server) ready(database bool) error {
	switch {
	case s.registry.draining():
		return errors.New("server: draining")
	case database && s.cfg.Ready != nil:
		return s.cfg.Ready()
	}
	return nil
}

// A request is one whose credential is good and whose role may do what it asks for.
type request struct {
	*http.Request

	principal stream.Principal
	topology  stream.TopologyID
}

// viewer serves one topology to whoever may read it.
func (s *Server) viewer(next func(http.ResponseWriter, request)) http.HandlerFunc {
	return s.topology(stream.RoleViewer, next)
}

// admin serves one topology to whoever may change it.
func (s *Server) admin(next func(http.ResponseWriter, request)) http.HandlerFunc {
	return s.topology(stream.RoleAdmin, next)
}

// topology checks in the order 401, 403, 404, so that an unauthenticated caller learns nothing about which ids exist.
func (s *Server) topology(role stream.Role, next func(http.ResponseWriter, request)) http.HandlerFunc {
	return s.authenticated(role, func(w http.ResponseWriter, r request) {
		id, ok := stream.ParseTopologyID(chi.URLParam(r.Request, "id"))
		switch {
		case r.principal.Topologies != nil && !r.principal.Sees(id):
			s.cfg.Stats.Refusals[stream.RefusedScope].Inc()
			s.fail(w, r.Request, forbidden("the token does not cover this topology"))
		case !ok:
			s.fail(w, r.Request, badRequest(http.StatusNotFound, "%s", stream.ErrNotFound))
		default:
			r.topology = id
			next(w, r)
		}
	})
}

// collection serves what is about no topology that is there already. A token limited to some cannot make another.
func (s *Server) collection(role stream.Role, next func(http.ResponseWriter, request)) http.HandlerFunc {
	return s.authenticated(role, func(w http.ResponseWriter, r request) {
		if role == stream.RoleAdmin && r.principal.Topologies != nil {
			s.cfg.Stats.Refusals[stream.RefusedScope].Inc()
			s.fail(w, r.Request, forbidden("the token is limited to some topologies and cannot create one"))
			return
		}
		next(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // only our own types come here
	}
	writeBody(w, status, contentType, append(body, '\n'))
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) {
	beginAnswer(w, status, contentType)
	_, _ = w.Write(body) // the client may be gone
}

// beginAnswer writes the head of an answer that no cache may keep.
func beginAnswer(w http.ResponseWriter, status int, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the client may be gone
}

func acceptsEvents(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/event-stream")
}
