package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	if status, _, body := get(t, server.url+"/readyz?exclude=nothing"); status != http.StatusBadRequest {
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

// A certificate is for the names that clients use, and the check asks this machine's address.
func TestHealthTrustsTheServersOwnCertificateWhateverNameItIsFor(t *testing.T) {
	t.Parallel()
	for name, names := range map[string]x509.Certificate{
		"a name":      {DNSNames: []string{"topostream.example.org"}},
		"a wildcard":  {DNSNames: []string{"*.example.org"}},
		"an address":  {IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}},
		"another key": {},
	} {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		names.SerialNumber, names.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, &names, &names, public, private)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "cert.pem")
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // of those who do not trust it
		want := exitError
		if name != "another key" {
			want = exitOK
			server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
		}
		server.StartTLS()
		code, _, errOut := program(t, "health", "--addr", server.Listener.Addr().String(), "--tls-cert", file)
		server.Close()
		if code != want {
			t.Errorf("%s: %d %s", name, code, errOut)
		}
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
