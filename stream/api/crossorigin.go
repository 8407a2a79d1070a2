package api

import (
	"fmt"
	"net/http"
)

// newCrossOriginProtection trusts the origins that may use this server from a browser, beside its own. It panics on
// what is no origin: whoever starts a server checks that first.
func newCrossOriginProtection(origins []string) *http.CrossOriginProtection {
	p := http.NewCrossOriginProtection()
	for _, origin := range origins {
		if err := p.AddTrustedOrigin(origin); err != nil {
			panic(fmt.Sprintf("api.Config.AllowOrigin: %s", err))
		}
	}
	return p
}
