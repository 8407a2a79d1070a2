package api

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// A credential is a place where a request may say whom it speaks for. The first place that holds something decides,
// also when that is bad: which of two credentials counts must not depend on which is valid.
type credential struct {
	name string
	has  func(r *http.Request) bool
	who  func(s *Server, w http.ResponseWriter, r *http.Request) (stream.Principal, error)
}

// credentials are all places, in the order in which they count: a header is always set on purpose, and a ticket beside
// a token was minted for this very request. Of a token in the address and one in a cookie, Config.Auth takes the
// former.
//
// Tickets open streams alone; on any other route they are no credential.
func credentials(takesTickets bool) []credential {
	all := []credential{
		{"bearer", hasBearer, (*Server).byToken},
		{"ticket", hasTicket, (*Server).byTicket},
		{"token or cookie", func(*http.Request) bool { return true }, (*Server).byToken},
	}
	if !takesTickets {
		return append(all[:1], all[2:]...)
	}
	return all
}

// resolve says whom a request speaks for. Errors: errRate, errStrangers, errUnauthenticated, and those of Redeem, after
// which the ticket is good for EventSource's next try. Whoever had too many requests without a valid credential is
// refused before the database is asked.
func (s *Server) resolve(w http.ResponseWriter, r *http.Request) (p stream.Principal, err error) {
	for _, c := range credentials(replyOf(w).takesTickets) {
		if c.has(r) {
			return c.who(s, w, r)
		}
	}
	return p, errUnauthenticated
}

// byTicketToo lets ?ticket= open what next serves.
func (s *Server) byTicketToo(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		replyOf(w).takesTickets = true
		next(w, r)
	}
}

// byToken resolves a token, which takes no database.
func (s *Server) byToken(w http.ResponseWriter, r *http.Request) (stream.Principal, error) {
	p, err := s.cfg.Auth(r)
	switch {
	case err == nil:
		return p, nil
	case s.limits.failed(w, r):
		return p, errStrangers
	}
	s.stranger(w, r, err)
	return p, errUnauthenticated
}

// byTicket resolves a ticket. The request uses it up, also when it then gets a 403, a 404, or is over a limit. The
// ticket is still good only where the rate was exceeded, the database could not be asked, or this server is draining.
func (s *Server) byTicket(w http.ResponseWriter, r *http.Request) (p stream.Principal, err error) {
	if !s.limits.guess(r) {
		return p, errRate
	}
	bad := false
	defer func() { s.limits.endGuess(w, r, bad) }()
	tickets := lenientQuery(r)["ticket"]
	switch {
	case len(tickets) > 1: // proxies differ in which one they look at
		err = stream.ErrNoTicket
	case s.registry.draining():
		err = delivery.ErrDraining
	default:
		p, err = s.cfg.Tickets.Redeem(r.Context(), tickets[0])
	}
	if err == nil && !p.Expires.IsZero() && !time.Now().Before(p.Expires) { // by this server's clock, as for a token
		err = stream.ErrNoTicket
	}
	if !errors.Is(err, delivery.ErrDraining) { // else nothing was redeemed
		s.cfg.Stats.Tickets[redeemedBy(err)].Inc()
	}
	if errors.Is(err, stream.ErrNoTicket) {
		bad = true
		s.stranger(w, r, err)
		return stream.Principal{}, errUnauthenticated
	}
	return p, err
}

// hasBearer tells whether the request gives its token in the header. Another scheme is a proxy's own.
func hasBearer(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer")
}

// hasTicket tells whether there is one in the address.
func hasTicket(r *http.Request) bool { return strings.Join(lenientQuery(r)["ticket"], "") != "" }

// stranger counts and logs that a credential was bad.
func (s *Server) stranger(w http.ResponseWriter, r *http.Request, err error) {
	s.cfg.Stats.Refusals[refusedBy(err)].Inc()
	s.say(w, slog.LevelInfo, "unauthenticated", "path", logged(r.URL.Path), "error", err)
}

// authenticated checks in the order 401, 403. A browser sends a cookie along whoever's page asks, so what changes
// something by one must come from a page of ours, or of an origin that is trusted.
func (s *Server) authenticated(role stream.Role, next func(http.ResponseWriter, request)) http.HandlerFunc {
	return s.traced(func(w http.ResponseWriter, r *http.Request, p stream.Principal, err error) {
		e := replyOf(w)
		e.observation.Known, e.observation.Subject, e.role[0] = err == nil, p.Subject, string(p.Role)
		switch {
		case errors.Is(err, errUnauthenticated):
			s.fail(w, r, err)
		case errors.Is(err, errRate), errors.Is(err, errStrangers):
			s.tooMany(w, r, err)
		case err != nil: // whether there is such a topology is not asked here
			s.refuse(w, r, newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats), aboutOf(r), err)
		case p.Ambient && s.crossOrigin.Check(r) != nil:
			s.cfg.Stats.Refusals[stream.RefusedOrigin].Inc()
			s.fail(w, r, forbidden("cross-origin request refused"))
		case s.limits.exceeded(w, r, p.Subject):
			s.tooMany(w, r, errRate)
		case !p.May(role):
			s.cfg.Stats.Refusals[stream.RefusedRole].Inc()
			s.fail(w, r, forbidden("this takes a token of the role "+string(role)))
		default:
			next(w, request{Request: r, principal: p})
		}
	})
}

// tooMany refuses a request for its rate. One for a stream is told so that EventSource tries again, unless no retry
// helps.
func (s *Server) tooMany(w http.ResponseWriter, r *http.Request, err error) {
	s.cfg.Stats.RequestsLimited.Inc()
	s.refuse(w, r, newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats), aboutOf(r), err)
}
