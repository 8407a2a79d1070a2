package api

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// longestQueue is how many lines may wait to be written, while whoever reads the log is slow. What comes beyond that is
// only counted.
const longestQueue = 10_000

// An accessLog writes one line for each request when it is answered, and for each stream at its end. put does not wait
// for that: a goroutine writes, which is there only while there is something to write. Drain waits for it.
type accessLog struct {
	logger *slog.Logger

	mu         sync.Mutex // held for a moment; within it nothing else is locked
	queue      []*Observation
	writing    bool
	written    chan struct{} // closed when writing is over; nil: nobody waits for it
	strangers  sample
	suppressed int // since the last line
}

// newAccessLog gives nil where no access log is wanted.
func newAccessLog(wanted bool, logger *slog.Logger) *accessLog {
	if !wanted {
		return nil
	}
	return &accessLog{logger: logger}
}

// put writes the line of one request, soon.
func (l *accessLog) put(o *Observation) {
	level := levelOf(o)
	if !l.logger.Enabled(context.Background(), level) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= longestQueue || ofStrangers(o) && !l.strangers.takes(time.Now()) {
		l.suppressed++
		return
	}
	l.queue = append(l.queue, o)
	if !l.writing {
		l.writing = true
		go l.write()
	}
}

// levelOf is debug for what machines ask all day long.
func levelOf(o *Observation) slog.Level {
	switch o.Route {
	case "/livez", "/readyz", "/metrics":
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// ofStrangers tells whether a request is of a kind that strangers can send without end: of these only a sample is
// logged.
func ofStrangers(o *Observation) bool {
	switch o.Status {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusTooManyRequests:
		return true
	}
	return !o.Known // a good token may lack a subject
}

// write writes until nothing is left.
func (l *accessLog) write() {
	for {
		batch, suppressed := l.take()
		if batch == nil {
			return
		}
		for i, o := range batch {
			if i > 0 {
				suppressed = 0
			}
			l.line(o, suppressed)
		}
	}
}

func (l *accessLog) take() (batch []*Observation, suppressed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		l.writing = false
		if l.written != nil {
			close(l.written)
			l.written = nil
		}
		return nil, 0
	}
	batch, suppressed = l.queue, l.suppressed
	l.queue, l.suppressed = nil, 0
	return batch, suppressed
}

// flush waits until all is written, or ctx ends. Then it logs how many lines were left out since the last one.
func (l *accessLog) flush(ctx context.Context) {
	l.mu.Lock()
	var written chan struct{}
	if l.writing {
		if l.written == nil {
			l.written = make(chan struct{})
		}
		written = l.written
	}
	l.mu.Unlock()
	if written != nil {
		select {
		case <-written:
		case <-ctx.Done():
			return
		}
	}
	l.mu.Lock()
	suppressed := l.suppressed
	l.suppressed = 0
	l.mu.Unlock()
	if suppressed > 0 {
		l.logger.Info("requests of which there is no line", "suppressed", suppressed)
	}
}

// line writes one line. suppressed are those that were left out before it.
func (l *accessLog) line(o *Observation, suppressed int) {
	attrs := append(make([]slog.Attr, 0, 20),
		slog.String("method", o.Method), slog.String("route", o.Route), slog.String("path", o.Path),
		slog.Int("status", o.Status), slog.Int64("bytes", o.Bytes), slog.Duration("duration", o.Duration),
		slog.String("request_id", o.ID), slog.String("subject", logged(o.Subject)), slog.String("address", o.Address))
	if o.Reason != "" {
		attrs = append(attrs, slog.String("reason", o.Reason))
	}
	text := "request"
	if s := o.Stream; s != nil {
		text = "stream"
		attrs = append(attrs, slog.String("topology", topologyOf(s)), slog.Int64("events", s.Events),
			slog.Int64("first", int64(s.First)), slog.Int64("last", int64(s.Last)), slog.String("end", s.Reason))
	}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	l.logger.LogAttrs(context.Background(), levelOf(o), text, attrs...)
}

// topologyOf says what a stream was of.
func topologyOf(s *StreamEnd) string {
	switch {
	case s.List:
		return "list"
	case s.Topology == "":
		return "many"
	}
	return string(s.Topology)
}
