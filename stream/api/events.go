package api

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"topostream/stream"
	"topostream/stream/sse"
)

const (
	batchFrames  = 64
	journalRetry = 500 * time.Millisecond
	crowdedRetry = 15 * time.Second // there is no place: another try soon is likely in vain
)

var errExpired = errors.New("the token has expired")

// events is GET /topologies/{id}/events.
func (s *Server) events(w http.ResponseWriter, r request) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	writer := newFrameWriter(w, s.cfg.WriteTimeout, s.cfg.Stats)
	req := stream.AttachRequest{Topology: r.topology, Graph: r.URL.Query().Get("graph") == "1"}
	req.After, req.Resume = lastEventID(r.Request)

	self := &session{user: r.principal.Subject, topology: r.topology, cancel: cancel, endBy: writer.endBy}
	if err := s.registry.add(self, req.Resume); err != nil {
		s.cfg.Stats.StreamsRefused.Add(1)
		s.refuse(w, r.Request, writer, r.topology, err)
		return
	}
	defer s.registry.remove(self)
	if !r.principal.Expires.IsZero() {
		timer := time.AfterFunc(time.Until(r.principal.Expires), func() { s.registry.expire(self) })
		defer timer.Stop()
	}
	sub, err := s.cfg.Bus.Attach(ctx, req)
	if err != nil {
		s.refuse(w, r.Request, writer, r.topology, causeOr(ctx, err))
		return
	}
	s.cfg.Stats.Streams.Add(1)
	defer s.cfg.Stats.Streams.Add(-1)
	writer.headers(2000 + rand.N(2001))
	err = s.stream(ctx, writer, sub, req)
	if errors.Is(err, os.ErrDeadlineExceeded) { // net/http cancels the request, too
		s.cfg.Stats.SlowCloses.Add(1)
		return
	}
	s.goodbye(writer, r.topology, causeOr(ctx, err))
}

// causeOr prefers why the stream was ended to what that looked like from within.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// lastEventID reads the number that the client knows; the header that a browser sends wins. Clients that cannot set it
// append a parameter to an address that may have one already: of several the last is the newest.
func lastEventID(r *http.Request) (stream.Seq, bool) {
	v := r.Header.Get("Last-Event-ID")
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, value = unescaped(name), unescaped(value)
		if r.Header.Get("Last-Event-ID") == "" && isLastEventID(name) {
			v = value
		}
	}
	return stream.ParseSeq(v)
}

// unescaped is a part of a query, as it is where it is malformed.
func unescaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// isLastEventID knows the names that native clients and polyfills give the parameter.
func isLastEventID(name string) bool {
	return name == "last_event_id" || name == "lastEventId" || name == "Last-Event-ID"
}

// stream sends the snapshot and what follows, attaching again whenever the feed does not continue what the client has:
// behind what the client has where the history is the same, else without a number. It returns when the stream must end;
// it has closed sub, and every one that followed.
func (s *Server) stream(ctx context.Context, w *frameWriter, sub *stream.Subscription, req stream.AttachRequest) error {
	for {
		err := s.follow(ctx, w, sub)
		last := sub.Cursor.Last()
		sub.Close()
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, stream.ErrBehind):
			req.Resume, req.After = true, last
		case errors.Is(err, stream.ErrReset):
			req.Resume = false
		default:
			return err
		}
		if sub, err = s.attachAgain(ctx, w, req); err != nil {
			return err
		}
	}
}

// attachAgain waits for ever for what is not there now: the client has a stream, and sees keepalives. Where somebody
// can do something about it the stream ends, with the reason.
func (s *Server) attachAgain(
	ctx context.Context, w *frameWriter, req stream.AttachRequest,
) (*stream.Subscription, error) {
	for {
		sub, err := s.cfg.Bus.Attach(ctx, req) // which returns after some seconds
		if !comesBack(err) || ctx.Err() != nil {
			return sub, err
		}
		if err := w.write([]byte(sse.Keepalive)); err != nil {
			return nil, err
		}
	}
}

// comesBack tells whether err says that a client that waits loses nothing.
func comesBack(err error) bool {
	if _, ok := errors.AsType[*stream.UnavailableError](err); ok {
		return false
	}
	return errors.Is(err, stream.ErrUnavailable) || errors.Is(err, stream.ErrNoMemory)
}

// follow sends one subscription. An idle client costs this goroutine and one timer.
func (s *Server) follow(ctx context.Context, w *frameWriter, sub *stream.Subscription) error {
	if sub.Snapshot != nil {
		err := w.write(sub.Snapshot.Bytes)
		sub.Snapshot.Release()
		if err != nil {
			return err
		}
	}
	buf := make([]stream.Frame, 0, batchFrames)
	timer := time.NewTimer(s.cfg.Keepalive)
	defer timer.Stop()
	for {
		if ctx.Err() != nil { // also while there is always something to send
			return context.Cause(ctx)
		}
		frames, changed, err := sub.Cursor.Next(ctx, buf)
		wait := s.cfg.Keepalive
		switch {
		case comesBack(err) && ctx.Err() == nil:
			wait = min(journalRetry, wait) // for ever
		case err != nil:
			return err
		case len(frames) > 0:
			if err := w.frames(frames); err != nil {
				return err
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-changed: // nil, and so never, after an error
		case <-timer.C:
			if err := w.write([]byte(sse.Keepalive)); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// goodbye says why a stream ends, where the client is still there to hear it.
func (s *Server) goodbye(w *frameWriter, id stream.TopologyID, err error) {
	event := "unavailable"
	switch {
	case errors.Is(err, errExpired):
		event = "token_expired"
	case errors.Is(err, errDraining), errors.Is(err, errReplaced), errors.Is(err, stream.ErrUnavailable),
		errors.Is(err, stream.ErrClosed):
	default: // deleted, or the client has gone
		return
	}
	var last []byte
	if errors.Is(err, errReplaced) { // whoever still reads it would come back for the place that it lost
		last = sse.AppendOpening(nil, spread(crowdedRetry))
	}
	_ = w.write(append(last, sse.Reason(id, event, publicReason(err), time.Now()).Bytes...)) // the client may be gone
}

// refuse answers instead of a stream. A browser's EventSource gives up for good on any answer but 200, so where a
// retry would help it gets one, with a longer retry time and the reason. Without id it is no request for a stream.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, writer *frameWriter, id stream.TopologyID, err error) {
	status, after := http.StatusServiceUnavailable, 5*time.Second
	switch err = s.seen(r, err); {
	case errors.Is(err, context.Canceled):
		return // the client has gone
	case errors.Is(err, stream.ErrNotFound), errors.Is(err, stream.ErrDeleted):
		notFound(w)
		return
	case errors.Is(err, errExpired): // while it waited; whoever comes back with the token hears the same
		unauthenticated(w)
		return
	case errors.Is(err, errLimit), errors.Is(err, errReplaced):
		status, after = http.StatusTooManyRequests, crowdedRetry
	case errors.Is(err, errRate):
		status, after = http.StatusTooManyRequests, rateWindow
	case errors.Is(err, errDraining), errors.Is(err, stream.ErrClosed):
		after = 2 * time.Second // another server may be up already
	default:
		s.cfg.Logger.Warn("attach", "topology", id, "error", err)
	}
	if id != "" && acceptsEvents(r) {
		writer.headers(spread(after))
		_ = writer.write(sse.Reason(id, "unavailable", publicReason(err), time.Now()).Bytes)
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	problem(w, status, publicReason(err))
}

// spread gives a time of once to twice d in milliseconds, so that those who were sent away together do not come back
// together.
func spread(d time.Duration) int { return int(d.Milliseconds()) + rand.N(int(d.Milliseconds())) }

// publicReason is the sentence for the client: the sentinel's, never what was wrapped beside it.
func publicReason(err error) string {
	if known, ok := errors.AsType[*stream.UnavailableError](err); ok {
		return known.Reason
	}
	for _, known := range []error{
		errDraining, errReplaced, errLimit, errRate, errExpired, stream.ErrClosed, stream.ErrNoMemory,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return stream.ErrUnavailable.Error()
}
