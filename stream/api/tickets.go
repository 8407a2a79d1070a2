package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// mintTicket is POST /auth/sse-ticket. The ticket is for whoever has the token, limited to some topologies or not.
func (s *Server) mintTicket(w http.ResponseWriter, r request) {
	if err := s.emptyBody(w, r.Request); err != nil {
		s.fail(w, r.Request, err)
		return
	}
	ticket, life, err := s.cfg.Tickets.Mint(r.Context(), r.principal)
	s.cfg.Stats.Tickets[mintedBy(err)].Inc()
	if errors.Is(err, stream.ErrTooManyTickets) {
		w.Header().Set("Retry-After", "15")
		problem(w, http.StatusTooManyRequests, stream.ErrTooManyTickets.Error())
		return
	}
	s.answer(w, r.Request, http.StatusOK, struct {
		Ticket    string `json:"ticket"`
		ExpiresIn int    `json:"expires_in"` // whole seconds, never more than it has
	}{ticket, int(life / time.Second)}, err)
}

// emptyBody reads the body of a request that has nothing to say, whatever type it is said to have, or an empty object.
func (s *Server) emptyBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	body, err := s.readBody(w, r)
	defer body.release()
	if err != nil {
		return err
	}
	var members map[string]json.RawMessage
	text := bytes.TrimSpace(body.bytes)
	if len(text) == 0 || json.Unmarshal(text, &members) == nil && members != nil && len(members) == 0 {
		return nil
	}
	return &stream.FieldError{Field: "body", Problem: "leave it empty, or send {}"}
}

// A ticketHolder is what became of the ticket of a request: whom it speaks for, or why for nobody.
type ticketHolder struct {
	principal stream.Principal
	err       error
}

type ticketKey struct{}

// redeeming lets ?ticket= open what next serves; on every other route it is no credential. Of several credentials the
// order is Bearer, ticket, ?token=, cookie: what a client says in a header it means, and a ticket that is beside a
// token was minted for this request.
//
// Who had too many requests without a valid token is refused before the database is asked: the ticket stays good.
//
// The ticket is used by the request, whatever that ends with: also when it gets a 403, a 404, or a limit. Only where
// the database could not be asked, and while this server sends its clients to another one, the ticket is still good
// for EventSource's next try.
func (s *Server) redeeming(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tickets := lenient(r)["ticket"]
		if strings.Join(tickets, "") == "" || hasBearer(r) {
			next(w, r)
			return
		}
		if s.limits.exhausted(r) {
			s.tooMany(w, r, aboutOf(r))
			return
		}
		holder := ticketHolder{err: delivery.ErrDraining}
		switch {
		case len(tickets) > 1: // proxies differ in which one they look at
			holder.err = stream.ErrNoTicket
			s.cfg.Stats.Tickets[stream.TicketRefused].Inc()
		case !s.registry.draining():
			holder.principal, holder.err = s.cfg.Tickets.Redeem(r.Context(), tickets[0])
			s.cfg.Stats.Tickets[redeemedBy(holder.err)].Inc()
		}
		if holder.err == nil || errors.Is(holder.err, stream.ErrNoTicket) {
			next(w, r.WithContext(context.WithValue(r.Context(), ticketKey{}, holder)))
			return
		}
		// Whether there is such a topology is not asked here.
		s.refuse(w, r, newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats), aboutOf(r), holder.err)
	}
}

// hasBearer tells whether the request gives its token in the header. Another scheme is a proxy's own.
func hasBearer(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer")
}

// authenticate gives whom a request speaks for: by its ticket, if it came through redeeming with one, else by its
// token.
func (s *Server) authenticate(r *http.Request) (stream.Principal, error) {
	holder, ok := r.Context().Value(ticketKey{}).(ticketHolder)
	expires := holder.principal.Expires
	switch {
	case !ok:
		return s.cfg.Auth(r)
	case holder.err != nil:
		return stream.Principal{}, holder.err
	case !expires.IsZero() && !time.Now().Before(expires): // by this server's clock, as for a token
		return stream.Principal{}, stream.ErrNoTicket
	}
	return holder.principal, nil
}
