//go:build compose

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

// needEngine skips a test where no container engine answers.
func needEngine(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", "version", "--format",
		"{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("no container engine answers (testdata/compose/with-docker starts one): %s", oneLine(string(out)+err.Error()))
	}
}

// A stack is docker-compose.yml brought up.
type stack struct {
	t       *testing.T
	url     string
	token   string
	compose []string // `docker compose`, or docker-compose where that is not installed
	env     []string
}

// up brings docker-compose.yml up as a project of its own, its image built from the Dockerfile, until the test ends.
// POSTGRES_IMAGE, GO_IMAGE and NGINX_IMAGE name other images than the official ones.
func up(t *testing.T) *stack {
	t.Helper()
	needEngine(t)
	name := fmt.Sprint("topostream-test-", os.Getpid())
	address := pgtest.FreeAddress(t)
	s := &stack{
		t: t, url: "http://" + address, compose: []string{"docker-compose"},
		env: append(os.Environ(), "COMPOSE_PROJECT_NAME="+name, "TOPOSTREAM_IMAGE="+name, "TOPOSTREAM_PUBLISH="+address),
	}
	if exec.CommandContext(t.Context(), "docker", "compose", "version").Run() == nil {
		s.compose = []string{"docker", "compose"}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.output("", "logs", "--tail", "50"))
		}
		s.run("", "down", "--volumes", "--remove-orphans")
		if out, err := exec.Command("docker", "image", "rm", name).CombinedOutput(); err != nil {
			t.Errorf("docker image rm: %v\n%s", err, out)
		}
	})
	began := time.Now()
	// A secret of one's own is there before the first start; what is there is kept.
	s.run("", "run", "--rm", "-T", "--entrypoint", "sh", "secrets", "-c",
		"printf %s '"+testSecret+"' >/secrets/server/jwt-secret")
	s.run("", "up", "--detach")
	s.awaitReady()
	s.token = s.run("", "exec", "-T", "serve", "/topostream", "token", "--role", "admin")
	t.Logf("the image is built and the services are up after %s", time.Since(began).Round(time.Second))
	return s
}

// run runs a command of docker compose and gives what it printed.
func (s *stack) run(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.try(stdin, args...)
	if err != nil {
		s.t.Fatalf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func (s *stack) output(stdin string, args ...string) string {
	out, err := s.try(stdin, args...)
	if err != nil {
		out += err.Error()
	}
	return out
}

func (s *stack) try(stdin string, args ...string) (string, error) {
	// Not the test's context: taking down comes after it.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.compose[0], append(slices.Clone(s.compose[1:]), args...)...)
	cmd.Dir, cmd.Env, cmd.Stdin = filepath.Join("..", ".."), s.env, strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errOut.String())
	}
	return out.String(), nil
}

// psql runs a script in the database's container.
func (s *stack) psql(script string) string {
	s.t.Helper()
	return s.run(script, "exec", "-T", "postgres", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U",
		"topostream")
}

// containers are those of a service that run.
func (s *stack) containers(service string) []string {
	s.t.Helper()
	return strings.Fields(s.run("", "ps", "-q", service))
}

// kill ends a container as a machine's death would.
func (s *stack) kill(container string) {
	s.t.Helper()
	if out, err := exec.Command("docker", "kill", "-s", "KILL", container).CombinedOutput(); err != nil {
		s.t.Fatalf("docker kill: %v\n%s", err, out)
	}
}

// recipe runs the integration test that PROTOCOL.md shows, as a stranger would run it, and gives what it printed.
func (s *stack) recipe() string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "sh", "testdata/recipes/compose/test.sh")
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(slices.Clone(s.env), "COMPOSE="+strings.Join(s.compose, " "))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("testdata/recipes/compose/test.sh: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// answers tells whether a server is ready, by its image's own health check.
func (s *stack) answers(container string) bool {
	return exec.Command("docker", "exec", container, "/topostream", "health").Run() == nil
}

// check runs the gap checker on the stack, with faults that SQL can do, and gives what it printed last.
func (s *stack) check() string {
	s.t.Helper()
	inspect := func(format, container string) string {
		out, err := exec.Command("docker", "inspect", "--format", format, container).Output()
		if err != nil {
			s.t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	address := inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", s.containers("postgres")[0])
	password := s.run("", "exec", "-T", "postgres", "cat", "/secrets/postgres")
	secret := filepath.Join(s.t.TempDir(), "jwt-secret")
	from := s.containers("serve")[0] + ":/secrets/jwt-secret"
	if out, err := exec.Command("docker", "cp", from, secret).CombinedOutput(); err != nil {
		s.t.Fatalf("docker cp: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(s.t.Context(), "go", "run", "./cmd/topocheck", "--url", s.url,
		"--jwt-secret-file", secret, "--database-url", "postgres://postgres:"+password+"@"+address+"/topostream",
		"--duration", "30s", "--topologies", "10", "--clients", "15", "--faults", "all") // those that SQL can do
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Errorf("the gap checker: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func (s *stack) awaitReady() {
	s.t.Helper()
	pgtest.Eventually(s.t, "/readyz", func() bool {
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// call makes one request as an admin and reads its JSON into answer.
func (s *stack) call(method, path, body, key string, answer any) (int, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	if res.StatusCode >= 300 {
		return res.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	return res.StatusCode, json.Unmarshal(b, answer)
}

// must is call for what has to succeed at once.
func (s *stack) must(want int, method, path, body string, answer any) {
	s.t.Helper()
	if status, err := s.call(method, path, body, "", answer); err != nil || status != want {
		s.t.Fatalf("%s %s: status %d, want %d; %v", method, path, status, want, err)
	}
}

// enqueue posts a mutation, again and again with the same key while the server or its database is away, and gives its
// id.
func (s *stack) enqueue(id, lan string) (mutation string, tries int) {
	deadline := time.Now().Add(time.Minute)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		var answer struct {
			MutationID string `json:"mutation_id"`
		}
		tries++
		status, err := s.call(http.MethodPost, "/topologies/"+id+"/mutations",
			fmt.Sprintf(`{"op":"add_lan","payload":{"name":%q}}`, lan), lan, &answer)
		switch {
		case err == nil && status == http.StatusAccepted:
			return answer.MutationID, tries
		case status >= 400 && status < 500, time.Now().After(deadline):
			s.t.Errorf("enqueue %s: status %d, %v", lan, status, err)
			return "", tries
		}
		<-again.C
	}
}

func TestComposeLosesNothingWhenPostgresIsRestartedServersAreKilledAndScaled(t *testing.T) {
	t.Parallel()
	long(t)
	s := up(t)
	printed := s.recipe()
	t.Log(printed)
	if !strings.Contains(printed, "lan-9 is there, and its event was streamed: ") {
		t.Errorf("the recipe says nothing of its event: %s", printed)
	}
	var topology struct{ ID, Status string }
	s.must(http.StatusCreated, http.MethodPost, "/topologies",
		`{"name":"journey","lans":[{"name":"dmz","is_dmz":true}],"deckies":[{"name":"web-1","lan":"dmz"}]}`, &topology)
	id := topology.ID
	c := newClient(t, s.url, id, "").watch()
	for _, status := range []string{"deploying", "active"} {
		s.must(http.StatusOK, http.MethodPatch, "/topologies/"+id, fmt.Sprintf(`{"status":%q}`, status), &topology)
		if topology.Status != status {
			t.Fatalf("the status is %s, want %s", topology.Status, status)
		}
	}

	var mutations []string
	const atLeast, atMost = 20, 2000
	// through enqueues mutations before, while and after something happens, and waits until the client has heard of
	// each one's end.
	through := func(what string, happens func()) {
		began := time.Now()
		happened := make(chan struct{})
		var (
			wg       sync.WaitGroup
			n, tries int
		)
		wg.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			after := atLeast
			for after > 0 && n < atMost {
				mutation, more := s.enqueue(id, fmt.Sprintf("%s-%d", what, n))
				mutations = append(mutations, mutation)
				n, tries = n+1, tries+more
				<-pace.C
				select {
				case <-happened:
					after--
				default:
				}
			}
		})
		happens()
		close(happened)
		wg.Wait()
		c.await("all mutations to end", func() bool { return len(endings(t, c.data)) >= len(mutations) })
		t.Logf("%s: %d mutations enqueued in %d tries, all ended after %s", what, n, tries,
			time.Since(began).Round(time.Millisecond))
	}
	through("quiet", func() {})
	var byHand string
	through("injection", func() {
		byHand = s.psql(fmt.Sprintf(`
			UPDATE topologies SET status = 'degraded', reason = 'by hand' WHERE id = '%[1]s';
			SELECT topology_emit('%[1]s', 'decky.service_added', '{"decky_name":"web-1","services":["ssh"]}') \g /dev/null
			NOTIFY "topology.%[1]s", 'any text at all';
			INSERT INTO mutations (topology_id, op, payload) VALUES ('%[1]s', 'add_lan', '{"name":"by-hand"}')
			RETURNING id;`, id))
		c.await("the raw NOTIFY", func() bool { return len(c.raw) > 0 })
		c.await("the injected mutation to end", func() bool { return endings(t, c.data)[byHand] == "mutation.applied" })
	})
	mutations = append(mutations, byHand)
	through("postgres-restarted", func() { s.run("", "restart", "postgres") })
	servers := s.containers("serve")
	if len(servers) != 2 {
		t.Fatalf("%d servers run, want two", len(servers))
	}
	through("server-killed", func() { s.kill(servers[0]) }) // nginx has the other
	through("other-killed", func() {
		s.run("", "start", "serve") // to the engine's restart policy a kill by hand is a stop by hand
		pgtest.Eventually(t, "the first server", func() bool { return s.answers(servers[0]) })
		s.kill(servers[1])
	})
	through("scaled-to-three", func() {
		s.run("", "up", "--detach", "--no-build", "--scale", "serve=3")
		if n := len(s.containers("serve")); n != 3 {
			t.Errorf("%d servers run, want three", n)
		}
	})

	events := journal(t, s.url, id, 0)
	c.awaitSeq(uint64(len(events)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.snapshots) != 1 {
		t.Fatalf("the client got %d snapshots, want one: it resumes", len(c.snapshots))
	}
	if c.connects < 2 {
		t.Errorf("%d connects: the client has not felt that the server was killed", c.connects)
	}
	lost := compare(t, c.data, events[c.snapshots[0]:])
	ended := endings(t, c.data)
	applied := 0
	for _, mutation := range mutations {
		switch how, ok := ended[mutation]; {
		case !ok:
			lost++
			t.Errorf("mutation %s has not ended", mutation)
		case how == "mutation.applied":
			applied++
		default:
			t.Errorf("mutation %s ended as %s", mutation, how)
		}
	}
	var graph struct {
		Topology struct{ Version int }
		LANs     []json.RawMessage
	}
	s.must(http.StatusOK, http.MethodGet, "/topologies/"+id, "", &graph)
	if graph.Topology.Version != len(mutations) || len(graph.LANs) != len(mutations)+1 {
		t.Errorf("after %d mutations the version is %d, with %d LANs", len(mutations), graph.Topology.Version,
			len(graph.LANs))
	}
	t.Logf("the gap checker, on three servers:\n%s", s.check())
	t.Logf(
		"%d mutations, %d applied; the journal holds %d events, the client %d after its snapshot at %d, through %d "+
			"connects: lost %d",
		len(mutations),
		applied,
		len(events),
		len(c.data),
		c.snapshots[0],
		c.connects,
		lost,
	)
}

// endings gives how each mutation ended that did.
func endings(t *testing.T, events []string) map[string]string {
	ended := make(map[string]string)
	for _, e := range events {
		var body struct {
			Type    string
			Payload struct {
				MutationID string `json:"mutation_id"`
			}
		}
		if err := json.Unmarshal([]byte(e), &body); err != nil {
			t.Errorf("%s: %v", e, err)
		}
		if body.Type != "mutation.applied" && body.Type != "mutation.failed" {
			continue
		}
		if before, twice := ended[body.Payload.MutationID]; twice {
			t.Errorf("mutation %s ended as %s, then as %s", body.Payload.MutationID, before, body.Type)
		}
		ended[body.Payload.MutationID] = body.Type
	}
	return ended
}

// compare gives how many events of the journal the client has not got, and fails the test for any difference.
func compare(t *testing.T, got, want []string) (lost int) {
	t.Helper()
	for _, e := range want {
		if !slices.Contains(got, e) {
			lost++
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the client's record differs from the journal: %d events, want %d, lost %d", len(got), len(want), lost)
	}
	return lost
}

// Where the official image cannot be pulled this is about our stand-in for it; it holds for both.
func TestComposesPostgresImageHonoursItsVariablesAndInitScripts(t *testing.T) {
	t.Parallel()
	long(t)
	needEngine(t)
	image := os.Getenv("POSTGRES_IMAGE")
	if image == "" {
		image = "postgres:17"
	}
	docker := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command("docker", args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := docker("", args...)
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	const password = `it's "a" \password`
	container := must("create", "-e", "POSTGRES_USER=ops", "-e", "POSTGRES_PASSWORD="+password, "-e",
		"POSTGRES_DB=net work", "-e", "PGDATA=/var/lib/postgresql/data/here", image, "-c", "max_connections=17")
	t.Cleanup(func() { must("rm", "--force", "--volumes", container) })
	scripts := pgtest.OpenDir(t)
	for name, content := range map[string]string{
		"1.sql": `CREATE TABLE made (by text); INSERT INTO made VALUES ('sql');`,
		"2.sh": `psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" ` +
			`<<<"INSERT INTO made VALUES ('sh')"`,
		"3.ignore": `no script`,
	} {
		if err := os.WriteFile(filepath.Join(scripts, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	must("cp", scripts+"/.", container+":/docker-entrypoint-initdb.d")
	ask := func(query string) (string, error) { // by TCP, with the password
		return docker(query, "exec", "-i", "-e", "PGPASSWORD="+password, container, "psql", "-X", "-A", "-t", "-h",
			"127.0.0.1", "-U", "ops", "-d", "net work")
	}
	for range 2 { // the second start finds the data and makes nothing
		must("start", container)
		var got string
		pgtest.Eventually(t, "PostgreSQL", func() bool {
			var err error
			got, err = ask(`SELECT string_agg(by, ' ' ORDER BY by) FROM made; SHOW max_connections; SHOW data_directory;`)
			return err == nil
		})
		if want := "sh sql\n17\n/var/lib/postgresql/data/here"; got != want {
			t.Errorf("the database says %q, want %q", got, want)
		}
		if out, err := docker("SELECT 1", "exec", "-i", "-e", "PGPASSWORD=another", container, "psql", "-X", "-h",
			"127.0.0.1", "-U", "ops", "-d", "net work"); err == nil {
			t.Errorf("another password is good: %s", out)
		}
		if user := must("exec", container, "stat", "-c", "%U", "/proc/1"); user != "postgres" {
			t.Errorf("PID 1 is %s's", user)
		}
		must("stop", container)
	}
}
