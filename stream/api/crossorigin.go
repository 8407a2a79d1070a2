package api

import (
	"log/slog"
	"net/http"
)

// newCrossOriginProtection trusts the origins that may use this server from a browser, beside its own.
func newCrossOriginProtection(origins []string, log *slog.Logger) *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	for _, origin := range origins {
		if err := p.AddTrustedOrigin(origin); err != nil {
			log.Warn("an origin is not trusted", "error", err)
		}
	}
	return p
}
