package main

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// startNginx runs nginx in front of two servers with the configuration that OPERATING.md names, changed by
// replacements, and gives its address.
func startNginx(t *testing.T, first, second string, replacements ...string) string {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		if path = "/usr/sbin/nginx"; !exists(path) {
			t.Skip("no nginx on this machine: install it, for example `apt-get install nginx-light`")
		}
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "nginx", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	address := pgtest.FreeAddress(t)
	changes := append([]string{
		"listen 127.0.0.1:8080",
		"listen " + address,
		"127.0.0.1:8081",
		strings.TrimPrefix(first, "http://"),
		"127.0.0.1:8082",
		strings.TrimPrefix(second, "http://"),
	}, replacements...)
	dir := pgtest.OpenDir(t)
	replaced := strings.NewReplacer(changes...).Replace
	locations := filepath.Join(dir, "topostream-locations.conf")
	if err := os.WriteFile(locations, []byte(replaced(read("topostream-locations.conf"))), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "nginx.conf")
	main := `daemon off;
worker_processes 2;
pid ` + dir + `/pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path ` + dir + `/body;
    proxy_temp_path ` + dir + `/proxy;
    fastcgi_temp_path ` + dir + `/fastcgi;
    uwsgi_temp_path ` + dir + `/uwsgi;
    scgi_temp_path ` + dir + `/scgi;
` + replaced(read("topostream.conf")) + "}\n"
	if err := os.WriteFile(config, []byte(main), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := startProcess(t, exec.Command(path, "-p", dir, "-e", "stderr", "-c", config)) // SIGINT ends it
	awaitAnswer(t, "nginx", nginx, "http://"+address+"/livez")
	return "http://" + address
}

// awaitAnswer waits until a program answers, whatever it says.
func awaitAnswer(t *testing.T, name string, p *process, url string) {
	t.Helper()
	pgtest.Eventually(t, name, func() bool {
		select {
		case <-p.ended:
			t.Fatalf("%s: %s", name, p.err.String())
		default:
		}
		res, err := http.Get(url)
		if err != nil {
			return false
		}
		defer http.DefaultClient.CloseIdleConnections()
		_ = res.Body.Close() // that it answers says all
		return true
	})
}

// A server is the binary, on an address that it keeps when it is started again.
type server struct {
	*process

	t       *testing.T
	command func() *exec.Cmd
	address string
}

func startBinary(t *testing.T, binary, databaseURL string, args ...string) *server {
	t.Helper()
	s := &server{t: t, address: pgtest.FreeAddress(t)}
	s.command = func() *exec.Cmd {
		cmd := exec.Command(
			binary,
			append(
				[]string{"serve", "--database-url", databaseURL, "--addr", s.address, "--keepalive", "1s", "--drain", "2s"},
				args...)...)
		cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
		return cmd
	}
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.process = startProcess(s.t, s.command())
	s.err.await(s.t, "msg=serving", s.ended)
}

func (s *server) url() string { return "http://" + s.address }

func TestBehindNginxEventsArriveAtOnceAndAServerThatIsKilledOrDrainedLosesNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	losesNothingBehind(t, func(first, second string) (fronts []string) {
		for _, how := range []string{
			"proxy_http_version 1.1; proxy_buffering off;",
			"proxy_http_version 1.1; proxy_buffering on;",
			// nginx's own choice; without X-Accel-Buffering: no it would wait for a full buffer
			"proxy_http_version 1.0; proxy_buffering on;",
		} {
			fronts = append(fronts, startNginx(t, first, second, "proxy_http_version 1.1;", how))
		}
		return fronts
	})
}

// losesNothingBehind kills and drains two servers that clients reach through what start starts before them.
func losesNothingBehind(t *testing.T, start func(first, second string) (fronts []string)) {
	t.Helper()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	binary := buildProgram(t)
	servers := []*server{
		startBinary(t, binary, db.URL, "--max-streams-per-user", "0"),
		startBinary(t, binary, db.URL, "--max-streams-per-user", "0"),
	}
	clients := make([]*client, 0, 9)
	for _, front := range start(servers[0].url(), servers[1].url()) {
		for range 3 {
			c := newClient(t, front, id, "").watch()
			c.awaitSeq(1)
			clients = append(clients, c)
		}
	}
	for range 10 {
		seq := emit(t, conn, id)
		for _, c := range clients {
			c.awaitSeq(seq) // nothing comes after it that would fill a buffer
		}
	}
	for _, c := range clients {
		c.stayedConnected()
	}
	writer := commitTo(t, db.URL, id)
	for range 2 {
		for _, s := range servers {
			for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				<-s.signal(sig)
				seen := writer.count()
				pgtest.Eventually(t, "writes without it", func() bool { return writer.count() > seen+20 })
				s.start()
				seq := emit(t, conn, id)
				for _, c := range clients {
					c.awaitSeq(seq) // and so it has a server again, before the next one ends
				}
			}
		}
	}
	head := slices.Max(writer.end())
	want := journal(t, servers[0].url(), id, 1)
	for _, c := range clients {
		c.awaitSeq(head)
		c.mu.Lock()
		if len(c.snapshots) != 1 || !slices.Equal(c.data, want) {
			t.Errorf("%d of %d events, snapshots at %v", len(c.data), len(want), c.snapshots)
		}
		if c.connects < 3 {
			t.Errorf("%d connects: the servers' ends were not seen", c.connects)
		}
		c.mu.Unlock()
	}
}

func TestBehindNginxAnIdleStreamIsKeptByKeepalivesAndAClientThatGoesIsNoticed(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	path := "/api/v1/topologies/" + id + "/events"
	const idle = 2 * time.Second // proxy_read_timeout
	for name, keepalive := range map[string]time.Duration{"kept": idle / 4, "control": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, db.URL, func(c *serveCmd) { c.Keepalive = keepalive })
			front := startNginx(t, server.url, server.url, "proxy_read_timeout 60s", "proxy_read_timeout "+idle.String())
			res := open(t, front+path)
			lines, keepalives := bufio.NewScanner(res.Body), 0
			for keepalives < 12 && lines.Scan() { // three times as long as nginx waits
				if lines.Text() == ": keepalive" {
					keepalives++
				}
			}
			if cut := keepalives < 12; cut != (name == "control") {
				t.Errorf("%d keepalives, %v", keepalives, lines.Err())
			}
			_ = res.Body.Close() // read as far as wanted
			pgtest.Eventually(t, "the stream to end at the server",
				func() bool { return metric(t, server.url, "topostream_streams") == 0 })
		})
	}
}

// A browser that sends no Sec-Fetch-Site, as none does to a name in a LAN without TLS, says by Origin alone whose page
// it is: ours, where it is the address that was asked.
func TestBehindNginxOurOwnPageWritesByCookie(t *testing.T) {
	t.Parallel()
	server := serve(t, pgtest.New(t).URL, func(c *serveCmd) { c.AuthCookie = "session" })
	front := startNginx(t, server.url, server.url)
	o := newOperator(t, front, "ada", stream.RoleAdmin)
	cookie := "session=" + o.token
	o.token = ""
	var made stream.Topology
	o.do("POST", "/topologies", `{"name":"ours"}`, "Cookie", cookie, "Origin", front).into(t, http.StatusCreated, &made)
	o.do("POST", "/topologies", `{"name":"theirs"}`, "Cookie", cookie, "Origin", "http://127.0.0.1").refused(t,
		"another port's page", http.StatusForbidden, "cross-origin request refused")
}

func TestBehindNginxWithoutAServerAnEventSourceIsToldToComeBack(t *testing.T) {
	t.Parallel()
	long(t)
	toldToComeBack(t, startNginx(t, pgtest.FreeAddress(t), pgtest.FreeAddress(t)))
}

// toldToComeBack asks a proxy that reaches no server.
func toldToComeBack(t *testing.T, front string) {
	t.Helper()
	status, header, body := get(t, front+"/api/v1/topologies/00000000-0000-4000-8000-000000000000/events", "Accept",
		"text/event-stream")
	if status != http.StatusOK || header.Get("Content-Type") != "text/event-stream" ||
		!regexp.MustCompile(`^retry: [0-9]+\n\n$`).MatchString(body) {
		t.Errorf("%d %s %q", status, header.Get("Content-Type"), body)
	}
	for _, list := range []string{"/api/v1/events?topology=x", "/api/v1/topologies/events"} {
		if status, _, body := get(t, front+list, "Accept", "text/event-stream"); status != http.StatusOK {
			t.Errorf("%s: %d %s", list, status, body)
		}
	}
	for _, path := range []string{"/metrics", "/metrics/", "/metrics%2F", "/%6Detrics/", "/metrics/?a=b", "/metrics/x"} {
		if status, _, _ := get(t, front+path); status != http.StatusNotFound {
			t.Errorf("%s: %d: everybody may ask for it", path, status)
		}
	}
	if status, _, body := get(t, front+"/api/v1/topologies"); status != http.StatusBadGateway {
		t.Errorf("%d %s", status, body)
	}
}
