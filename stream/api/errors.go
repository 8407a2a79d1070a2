package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// Errors of this package. The client gets their sentences.
var (
	errLimit           = errors.New("too many streams")  // there is no place for another one
	errRate            = errors.New("too many requests") // one more than --rate-limit allows
	errStrangers       = errors.New("too many requests") // the same without a valid token, which no retry makes better
	errUnauthenticated = errors.New("give a valid token, as ?token= or as Authorization: Bearer")
	errWrong           = errors.New("something is wrong here; the log says more")
)

// A ruling is what clients are told of an error.
type ruling struct {
	target error         // the sentinel that the ruling is for
	says   error         // the error whose sentence clients get, unless theirs has one of its own; nil: target
	status int           // of problem+json
	after  time.Duration // Retry-After; 0: another try does not help
	again  time.Duration // after which a stream may be tried again; 0: EventSource gets the status, and gives up for good
	log    string        // its message in the log, where what was wrapped is told, too; empty: it is not logged
}

const (
	// retryAfter is when it may be worth another try, where nothing better is known.
	retryAfter = 5 * time.Second
	// retrySoon is when what was away for a moment may be back, or another server be up.
	retrySoon = 2 * time.Second
)

// rulings is the one place where errors of the domain become answers. The first that fits counts. What is wrapped
// beside a sentence is for the log.
func rulings() []ruling {
	const (
		missing   = http.StatusNotFound
		conflict  = http.StatusConflict
		crowded   = http.StatusTooManyRequests
		elsewhere = http.StatusServiceUnavailable
		nobody    = http.StatusUnauthorized
	)
	return []ruling{
		{target: stream.ErrNotFound, status: missing},
		{target: stream.ErrDeleted, says: stream.ErrNotFound, status: missing},
		{target: errUnauthenticated, status: nobody},
		{target: stream.ErrNoTicket, says: errUnauthenticated, status: nobody},
		{target: delivery.ErrExpired, says: errUnauthenticated, status: nobody}, // as another try with the token would be
		{target: stream.ErrTooMany, status: crowded, after: retryAfter},
		{target: stream.ErrTooManyTickets, status: crowded, after: delivery.CrowdedRetry},
		{target: errRate, status: crowded, after: rateWindow, again: rateWindow},
		{target: errStrangers, status: crowded, after: rateWindow},
		{target: errLimit, status: crowded, after: delivery.CrowdedRetry, again: delivery.CrowdedRetry},
		{target: delivery.ErrReplaced, status: crowded, after: delivery.CrowdedRetry, again: delivery.CrowdedRetry},
		{target: stream.ErrIllegalTransition, status: conflict},
		{target: stream.ErrNotAccepting, status: conflict},
		{target: stream.ErrVersionConflict, status: conflict},
		{target: stream.ErrNameTaken, status: conflict},
		{target: stream.ErrKeyReused, status: conflict},
		// Before ErrUnavailable, which it may wrap as the cause of its context.
		{target: stream.ErrNoMemory, status: elsewhere, after: retryAfter, again: retryAfter, log: "no memory"},
		{target: stream.ErrBusy, status: elsewhere, after: retryAfter, again: retryAfter, log: "busy"},
		{target: delivery.ErrDraining, status: elsewhere, after: retrySoon, again: retryAfter},
		{target: stream.ErrClosed, says: stream.ErrUnavailable, status: elsewhere, after: retrySoon, again: retryAfter},
		{target: stream.ErrUnavailable, status: elsewhere, after: retrySoon, again: retryAfter, log: "unavailable"},
		{
			target: context.DeadlineExceeded, says: stream.ErrUnavailable, status: elsewhere, after: retrySoon,
			again: retryAfter, log: "unavailable",
		},
		// These two are between a feed and its cursor: a client that gets one of them has only to come back.
		{
			target: stream.ErrReset, says: stream.ErrUnavailable, status: elsewhere, after: retrySoon, again: retryAfter,
			log: "unavailable",
		},
		{
			target: stream.ErrBehind, says: stream.ErrUnavailable, status: elsewhere, after: retrySoon, again: retryAfter,
			log: "unavailable",
		},
	}
}

// rulingOn gives what is said of err, and the sentence. A client that may come back for a stream is better told to,
// also where nobody knows what is wrong.
func rulingOn(err error, forStream bool) (ruling, string) {
	if request, ok := errors.AsType[*requestError](err); ok {
		return ruling{status: request.status}, request.detail
	}
	if field, ok := errors.AsType[*stream.FieldError](err); ok {
		return ruling{status: http.StatusBadRequest}, field.Error()
	}
	for _, r := range rulings() {
		if errors.Is(err, r.target) {
			return r, sentence(r, err)
		}
	}
	r := ruling{says: errWrong, status: http.StatusInternalServerError, log: "a request failed"}
	if forStream {
		r.says, r.status = stream.ErrUnavailable, http.StatusServiceUnavailable
		r.after, r.again = retryAfter, retryAfter
	}
	return r, sentence(r, err)
}

// sentence is what clients are told: the error's own sentence, where it has one for them, else that of the ruling. What
// was wrapped beside a sentinel is never told.
func sentence(r ruling, err error) string {
	if conflict, ok := errors.AsType[*stream.ConflictError](err); ok {
		return conflict.Detail
	}
	if unavailable, ok := errors.AsType[*stream.UnavailableError](err); ok && errors.Is(r.target, stream.ErrUnavailable) {
		return unavailable.Reason
	}
	if r.says != nil {
		return r.says.Error()
	}
	return r.target.Error()
}

// fail answers with what err is, as problem+json.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	err = s.seen(r, err)
	// What is wrong with a request comes first: a body that ends too early ends the request's context, too.
	if _, ok := errors.AsType[*requestError](err); !ok && r.Context().Err() != nil {
		return // the client has gone
	}
	ruled, detail := rulingOn(err, false)
	if ruled.log != "" {
		level := slog.LevelWarn
		if ruled.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		s.say(w, level, ruled.log, "method", method(r), "path", logged(r.URL.Path), "error", err)
	}
	ruled.problem(w, detail)
}

// refuse answers a request for a stream that it does not get. A browser's EventSource gives up for good on any status
// but 200: where a retry would help, it gets a 200 with a longer retry time and the reason, and nothing else.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, writer *frameWriter, a about, err error) {
	err = s.seen(r, err)
	if errors.Is(err, context.Canceled) {
		return // the client has gone
	}
	ruled, reason := rulingOn(err, true)
	if ruled.log != "" {
		s.say(w, slog.LevelWarn, "attach", "topology", a.topology, "error", err)
	}
	replyOf(w).observation.Reason = reason
	if ruled.again == 0 || !a.stream || !acceptsEvents(r) {
		ruled.after = max(ruled.after, ruled.again)
		ruled.problem(w, reason)
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // nobody holds a connection without a stream until it is worth another try
	}
	writer.headers()
	_ = writer.write(delivery.TurnAway(a.topology, reason, ruled.again))
}

// problem answers with RFC 9457 problem details.
func (r ruling) problem(w http.ResponseWriter, detail string) {
	if r.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(r.after.Seconds())))
	}
	if r.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="topostream"`)
	}
	writeJSON(w, r.status, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		ID     string `json:"request_id,omitempty"` // an extension member (RFC 9457, section 3.2): the log has it, too
	}{http.StatusText(r.status), r.status, detail, idIn(w)})
}

// forbidden is a request that its token does not allow.
func forbidden(detail string) error { return badRequest(http.StatusForbidden, "%s", detail) }
