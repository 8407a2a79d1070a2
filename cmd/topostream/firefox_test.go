package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

// A Firefox is told by its address alone: the page posts what it sees to a server of the test.
func TestThePackagedClientInFirefoxGoesOnAfterAServerRestart(t *testing.T) {
	t.Parallel()
	long(t)
	firefox, err := exec.LookPath("firefox-esr")
	if err != nil {
		t.Skip("no Firefox on this machine: install it, for example `apt-get install firefox-esr`")
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	type report struct {
		Seq   uint64
		Seqs  []uint64
		Wrong []string
	}
	reports := make(chan report, 1000)
	var page string
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, page)
			return
		}
		var got report
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		reports <- got
	}))
	t.Cleanup(pages.Close)
	allowed := func(c *serveCmd) { c.AllowOrigin = []string{pages.URL} }
	server := serve(t, db.URL, allowed)
	// A module of another origin needs CORS, which the server gives its API alone: the page's server passes it on.
	pages.Config.Handler = withModule(t, server.url, pages.Config.Handler)
	page = fmt.Sprintf(`<!doctype html><script type="module">
		import { TopologyStream } from '/topostream.js';
		const [seqs, wrong] = [[], []];
		const stream = new TopologyStream({ url: %q, topologies: [%q], getToken: () => %q,
			onViolation: (violation) => wrong.push(JSON.stringify(violation)),
			onEvent: (e) => { if (e.kind === 'event') seqs.push(e.seq); } });
		stream.subscribe(() => {
			const { seq } = stream.getSnapshot().topologies[%[2]q];
			fetch('/', { method: 'POST', body: JSON.stringify({ seq: seq ?? 0, seqs, wrong }) });
		});
	</script>`, server.url, id, testToken(t))
	browser := startFirefox(t, firefox, pages.URL)
	await := func(seq uint64) report {
		t.Helper()
		patience := time.After(2 * time.Minute)
		for {
			select {
			case got := <-reports:
				if got.Seq == seq {
					return got
				}
			case <-patience:
				t.Fatalf("Firefox did not get to %d: %s", seq, browser.err.String())
			}
		}
	}
	began := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
	await(began)
	await(emit(t, conn, id))
	server.stop()
	emit(t, conn, id) // nobody listens
	serve(t, db.URL, func(c *serveCmd) { allowed(c); c.Addr = server.url[len("http://"):] })
	head := emit(t, conn, id)
	got := await(head)
	if len(got.Wrong) > 0 || uint64(len(got.Seqs)) != head-began {
		t.Errorf("after %d it has %v, of what goes on to %d; wrong: %q", began, got.Seqs, head, got.Wrong)
	}
}

// withModule serves /topostream.js as the server at the address has it now, and the rest by next.
func withModule(t *testing.T, url string, next http.Handler) http.Handler {
	t.Helper()
	res, err := http.Get(url + "/topostream.js")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = res.Body.Close() }() // it is read
	module, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/topostream.js" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
		_, _ = w.Write(module)
	})
}

// startFirefox opens an address in a Firefox of its own, which asks nothing and calls nobody.
func startFirefox(t *testing.T, path, address string) *process {
	t.Helper()
	// Processes of it still write while they end, so t.TempDir's own removal may find something new.
	home := filepath.Join(t.TempDir(), "home")
	t.Cleanup(func() {
		pgtest.Eventually(t, "Firefox to leave its directory", func() bool { return os.RemoveAll(home) == nil })
	})
	const preferences = `
		user_pref("browser.aboutwelcome.enabled", false);
		user_pref("browser.shell.checkDefaultBrowser", false);
		user_pref("browser.startup.homepage_override.mstone", "ignore");
		user_pref("datareporting.policy.dataSubmissionEnabled", false);
		user_pref("toolkit.telemetry.enabled", false);
		user_pref("toolkit.telemetry.unified", false);
		user_pref("app.normandy.enabled", false);
		user_pref("app.update.enabled", false);
		user_pref("browser.safebrowsing.malware.enabled", false);
		user_pref("browser.safebrowsing.phishing.enabled", false);
		user_pref("extensions.update.enabled", false);
		user_pref("network.captive-portal-service.enabled", false);
		user_pref("network.connectivity-service.enabled", false);
		user_pref("services.settings.server", "http://127.0.0.1:9");
	`
	profile := filepath.Join(home, "profile")
	if err := os.MkdirAll(profile, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(preferences), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--headless", "--no-remote", "--profile", profile, address)
	cmd.Env = cleanEnv("HOME="+home, "TMPDIR="+home, "MOZ_HEADLESS=1", "MOZ_CRASHREPORTER_DISABLE=1")
	browser := startProcess(t, cmd)
	t.Cleanup(func() { <-browser.signal(syscall.SIGKILL) })
	return browser
}
