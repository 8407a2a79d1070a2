package main

import (
	"net/http"
	"strings"
	"testing"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

func TestHealthIsWhatReadyzSays(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	cert, key := selfSigned(t)
	server := serve(t, db.URL, nil)
	secured := serve(t, db.URL, func(c *serveCmd) { c.TLSCert, c.TLSKey = cert, key })
	addr := func(url string) string { _, addr, _ := strings.Cut(url, "//"); return addr }
	commands := map[string][]string{
		"by its address": {"health", "--url", server.url}, "by --addr": {"health", "--addr", addr(server.url)},
		"by TLS": {"health", "--addr", addr(secured.url), "--tls-cert", cert},
	}
	for how, command := range commands {
		pgtest.Eventually(t, "health "+how, func() bool { code, _, _ := program(t, command...); return code == exitOK })
	}
	id := topology(t, db.Conn(t), "watched")
	c := newClient(t, server.url, id, "").watch()
	c.await("a snapshot", func() bool { return c.last != "" })
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	for how, command := range commands {
		var errOut string
		pgtest.Eventually(t, "no health "+how, func() bool {
			var code int
			code, _, errOut = program(t, command...)
			return code == exitError
		})
		if !strings.Contains(errOut, "503 Service Unavailable") || !strings.Contains(errOut, "bus: ") {
			t.Errorf("%s: %s", how, errOut)
		}
		if code, _, errOut := program(t, append(command, "--exclude", "database")...); code != exitOK {
			t.Errorf("%s, the database left out: %d %s", how, code, errOut)
		}
	}
	if status, _, body := get(t, server.url+"/readyz?exclude=databse"); status != http.StatusBadRequest {
		t.Errorf("a part that is none: %d %s", status, body)
	}
	c.stayedConnected()
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	c.awaitSeq(emit(t, db.Conn(t), id))
	c.stayedConnected()
	if code, _, errOut := program(t, "health", "--url", "http://127.0.0.1:1"); code != exitError || errOut == "" {
		t.Errorf("nobody there: %d %s", code, errOut)
	}
}

func TestVersionSaysWhatRuns(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"version", "--version"} {
		code, out, errOut := program(t, arg)
		if code != exitOK || !strings.HasPrefix(out, "topostream ") || !strings.Contains(out, ", commit ") ||
			!strings.Contains(out, ", go1.") || errOut != "" {
			t.Errorf("%s: %d %q %q", arg, code, out, errOut)
		}
	}
}
