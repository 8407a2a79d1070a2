package main

import (
	"errors"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
)

// profiles adds what `go tool pprof` reads, and /debug/free, which collects garbage and gives free memory back to the
// system. The command line is not shown: it may hold a secret.
func profiles(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/free", func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })
}

// checkPprof refuses --pprof without --metrics-addr, in a command that has both flags.
func checkPprof(pprof bool, metricsAddr string) error {
	if pprof && metricsAddr == "" {
		return errors.New("--pprof needs --metrics-addr: profiles are not for everybody who may reach --addr")
	}
	return nil
}
