package mutator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"topostream/pgbus/postgres"
)

// An outage is logged when it begins, when it becomes one of another kind, every outageLogged, and when it is over,
// each once for all loops that notice.
type outage struct {
	mu            sync.Mutex
	since, logged time.Time // zero: there is none
	said          string    // which kind
}

const outageLogged = 30 * time.Second

func (o *outage) failed(log *slog.Logger, notice func(string, bool), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.since.IsZero() {
		o.since = now
	}
	what := "mutations cannot be claimed; waiting for the database"
	level := slog.LevelWarn
	away := postgres.Away(err)
	if !away {
		what, level = "mutations cannot be claimed until somebody mends this; trying again", slog.LevelError
	}
	if what != o.said || now.Sub(o.logged) >= outageLogged {
		o.logged, o.said = now, what
		notice(what, away)
		log.Log(context.Background(), level, what, "since", o.since.UTC().Format(time.RFC3339), "error", err)
	}
}

func (o *outage) over(log *slog.Logger, notice func(string, bool)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		log.Info("mutations can be claimed again", "after", time.Since(o.since).Round(time.Millisecond))
		notice("", false)
		o.since, o.logged, o.said = time.Time{}, time.Time{}, ""
	}
}
