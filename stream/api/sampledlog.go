package api

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// strangersLogged is how many lines a second the log takes of requests without a good credential, and of refused ones:
// all that strangers can cause would fill the disk. What is left out is counted.
const strangersLogged = 20

// A sample takes the first strangersLogged of each second.
type sample struct {
	second int64
	taken  int
}

func (s *sample) takes(now time.Time) bool {
	if second := now.Unix(); second != s.second {
		s.second, s.taken = second, 0
	}
	s.taken++
	return s.taken <= strangersLogged
}

// A sampledLog is a sample that counts what it leaves out. Any goroutine may use it.
type sampledLog struct {
	mu         sync.Mutex
	sample     sample
	suppressed int // since the last line
}

// takes tells whether a line may be written now, and how many were left out before it.
func (l *sampledLog) takes() (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.sample.takes(time.Now()) {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// samples are one for each level that [Server.say] logs at: with one for all, bad tokens, which are logged at Info,
// would leave no room for the line that says that the database is away.
type samples map[slog.Level]*sampledLog

func newSamples() samples {
	return samples{slog.LevelInfo: {}, slog.LevelWarn: {}, slog.LevelError: {}}
}

// say logs about a request that is being answered. Of requests without a good credential it logs a sample of each
// level.
func (s *Server) say(w http.ResponseWriter, level slog.Level, text string, attrs ...any) {
	ctx := context.Background()
	if !s.cfg.Logger.Enabled(ctx, level) {
		return
	}
	if !replyOf(w).observation.Known {
		suppressed, ok := s.strangers[level].takes()
		if !ok {
			return
		}
		attrs = append(attrs, "suppressed", suppressed)
	}
	s.log(w).Log(ctx, level, text, attrs...)
}
