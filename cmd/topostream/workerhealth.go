package main

import (
	"fmt"
	"net/http"

	"topostream/stream/api"
)

// An outage is what keeps a worker from claiming mutations; the zero one: nothing does.
type outage struct {
	why  string
	away bool // the database is, which time mends; else somebody has to
}

// workerHealth says that a worker lives, and whether it can claim mutations or what keeps it. A database that is away
// ?exclude=database leaves out, as a server does.
func workerHealth(keeps func() outage) http.Handler {
	say := func(w http.ResponseWriter, status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintln(w, text) //nolint:gosec // it is plain text, and holds nothing of what was asked
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		excluded, err := api.DatabaseExcluded(r)
		o := keeps()
		switch {
		case err != nil:
			say(w, http.StatusBadRequest, err.Error())
		case o.why != "" && (!o.away || !excluded):
			say(w, http.StatusServiceUnavailable, o.why)
		default:
			say(w, http.StatusOK, "ready")
		}
	})
	return mux
}
