package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

// mutate runs the worker's binary until the test ends.
func mutate(t *testing.T, binary, databaseURL string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"mutator", "--database-url", databaseURL}, args...)...)
	cmd.Env = cleanEnv()
	return startProcess(t, cmd)
}

// enqueueLAN enqueues an add_lan.
func enqueueLAN(t *testing.T, conn *pgx.Conn, id, lan string) (mutation string) {
	t.Helper()
	return pgtest.Scan[string](t, conn, `INSERT INTO mutations (topology_id, op, payload)
		VALUES ($1::text::uuid, 'add_lan', jsonb_build_object('name', $2::text)) RETURNING id::text`, id, lan)
}

func awaitMutation(t *testing.T, conn *pgx.Conn, mutation, state string) (reason string) {
	t.Helper()
	pgtest.Eventually(t, "the mutation to be "+state, func() bool {
		return pgtest.Scan[string](t, conn, `SELECT state FROM mutations WHERE id = $1::text::uuid`, mutation) == state
	})
	return pgtest.Scan[string](t, conn, `SELECT coalesce(reason, '') FROM mutations WHERE id = $1::text::uuid`, mutation)
}

// A killed worker's run: how much, by how many.
const (
	killedTopologies = 200
	killedProcesses  = 4
	killedMutations  = 20_000
	killedWatched    = 20 // topologies that a client follows
)

// TestWorkersThatAreKilledAtRandomApplyEachMutationOnceInOrder compares what four processes make of random edits, while
// they are killed all the time, with a model computed beside them. TOPOSTREAM_SEED repeats a run's edits.
func TestWorkersThatAreKilledAtRandomApplyEachMutationOnceInOrder(t *testing.T) {
	t.Parallel()
	slow(t)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("TOPOSTREAM_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("TOPOSTREAM_SEED=%d", seed)

	binary := buildProgram(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, killedTopologies)
	server := serve(t, db.URL, func(c *serveCmd) { c.MaxStreamsPerUser = 0 }).url
	clients := map[string]*client{}
	for _, id := range ids[:killedWatched] {
		clients[id] = newClient(t, server, id, "").watch()
		clients[id].awaitSeq(1)
	}
	start := time.Now()
	stop, kills := killAtRandom(t, binary, db.URL)
	stopOperator := reactivate(t, db)

	models, want := enqueueRandomEdits(t, db, ids, killedMutations, seed)
	enqueued := time.Since(start)
	limit := time.After(9 * time.Minute)
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for pgtest.Scan[int](t, conn, `SELECT count(*) FROM mutations WHERE state IN ('pending', 'applying')`) > 0 {
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf(
				"%s: %s",
				"not all mutations have ended",
				pgtest.Scan[string](t, conn,
					`SELECT json_object_agg(state, n)::text FROM (SELECT state, count(*) AS n FROM mutations GROUP BY state) s`),
			)
		}
	}
	took := time.Since(start)
	stop()
	stopOperator()

	failed := compareOutcomes(t, conn, want)
	compareGraphs(t, conn, models)
	checkJournals(t, conn)
	requeued := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topology_events WHERE type = 'mutation.requeued'`)
	for id, c := range clients {
		c.awaitSeq(pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id))
		c.mu.Lock()
		if got := c.data; len(c.snapshots) != 1 || !slices.Equal(got, journal(t, server, id, c.snapshots[0])) {
			t.Errorf("a client of %s has something else than the journal", id)
		}
		c.mu.Unlock()
	}
	t.Logf(
		"%d mutations of %d topologies in %.1f s (enqueued in %.1f s): %d applied, %d failed, %d given back by leases, %d "+
			"workers killed",
		killedMutations,
		len(ids),
		took.Seconds(),
		enqueued.Seconds(),
		killedMutations-failed,
		failed,
		requeued,
		kills(),
	)
}

// enqueueRandomEdits enqueues edits of all topologies, some at a time, and gives what they should make of each graph
// and of each mutation. Each topology's edits are enqueued by one connection, so that their order is known.
func enqueueRandomEdits(
	t *testing.T,
	db *pgtest.DB,
	ids []string,
	total int,
	seed uint64,
) (models map[string]*model, want map[string]string) {
	t.Helper()
	const (
		enqueuers = 4
		atOnce    = 8
		insert    = `INSERT INTO mutations (topology_id, op, payload)
			SELECT $1::text::uuid, e.op, e.payload::jsonb
			  FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS e (op, payload, n) ORDER BY e.n RETURNING id::text`
	)
	models, want = map[string]*model{}, map[string]string{}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for e := range enqueuers {
		conn := db.Conn(t)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(e)))
			mine := ids[e*len(ids)/enqueuers : (e+1)*len(ids)/enqueuers]
			for left := total / enqueuers; left > 0; {
				id := mine[r.IntN(len(mine))]
				mu.Lock()
				m := models[id]
				if m == nil {
					m = newModel()
					models[id] = m
				}
				mu.Unlock()
				var ops, payloads, ends []string
				for range min(left, 1+r.IntN(atOnce)) {
					op, payload := m.randomEdit(r)
					b, err := json.Marshal(payload)
					if err != nil {
						t.Error(err)
						return
					}
					ops, payloads = append(ops, op), append(payloads, string(b))
					ends = append(ends, map[bool]string{true: "applied", false: "failed"}[m.apply(op, payload)])
				}
				left -= len(ops)
				rows, err := conn.Query(context.Background(), insert, id, ops, payloads)
				if err != nil {
					t.Error(err)
					return
				}
				made, err := pgx.CollectRows(rows, pgx.RowTo[string])
				if err != nil || len(made) != len(ops) {
					t.Errorf("%d mutations of %d: %v", len(made), len(ops), err)
					return
				}
				mu.Lock()
				for i, id := range made {
					want[id] = ends[i]
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return models, want
}

// killAtRandom runs workers and kills one after another.
func killAtRandom(t *testing.T, binary, url string) (stop func(), kills func() int) {
	t.Helper()
	begin := func() *process {
		return mutate(t, binary, url, "--lease", "2s", "--max-attempts", "1000000")
	}
	workers := make([]*process, killedProcesses)
	for i := range workers {
		workers[i] = begin()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	n := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-time.After(200*time.Millisecond + rand.N(600*time.Millisecond)):
				i := rand.IntN(len(workers))
				<-workers[i].signal(syscall.SIGKILL)
				workers[i] = begin()
				n++
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop, func() int { return n }
}

// reactivate is an operator who makes degraded topologies active again, so that their queues go on.
func reactivate(t *testing.T, db *pgtest.DB) (stop func()) {
	t.Helper()
	const update = `UPDATE topologies SET status = 'active', reason = NULL WHERE id IN (
		SELECT id FROM topologies WHERE status = 'degraded' ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)`
	conn := db.Conn(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-time.After(100 * time.Millisecond):
				if _, err := conn.Exec(context.Background(), update); err != nil {
					t.Error(err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func compareOutcomes(t *testing.T, conn *pgx.Conn, want map[string]string) (failed int) {
	t.Helper()
	rows, err := conn.Query(t.Context(),
		`SELECT id::text, state, op || ' ' || payload || ': ' || coalesce(reason, '') FROM mutations`)
	if err != nil {
		t.Fatal(err)
	}
	var id, state, what string
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &what}, func() error {
		if state != want[id] {
			t.Errorf("%s is %s, the model says %s: %s", id, state, want[id], what)
		}
		if state == "failed" {
			failed++
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Errorf("%d mutations, want %d: %v", n, len(want), err)
	}
	return failed
}

func compareGraphs(t *testing.T, conn *pgx.Conn, models map[string]*model) {
	t.Helper()
	rows, err := conn.Query(t.Context(), graphByNames)
	if err != nil {
		t.Fatal(err)
	}
	var id, graph string
	_, err = pgx.ForEachRow(rows, []any{&id, &graph}, func() error {
		m := models[id]
		if m == nil {
			m = newModel()
		}
		var got, want any
		if err := json.Unmarshal([]byte(graph), &got); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(m.String()), &want); err != nil {
			return err
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the graph of %s is\n%v, the model's\n%v", id, got, want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// checkJournals fails unless every journal is gapless up to its head, has at most one mutation applying at a time, and
// ends each once, in the order of positions.
func checkJournals(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for what, query := range map[string]string{
		"journals with gaps": `SELECT count(*) FROM topology_heads h WHERE h.first <> 1
			OR h.seq <> (SELECT count(*) FROM topology_events e WHERE e.topology_id = h.topology_id)`,
		"mutations that ended not once": `SELECT count(*) FROM mutations m WHERE 1 <> (SELECT count(*)
			FROM topology_events e WHERE e.topology_id = m.topology_id
			AND e.type IN ('mutation.applied', 'mutation.failed') AND e.payload ->> 'mutation_id' = m.id::text)`,
		"mutations that ended before older ones": `SELECT count(*) FROM (
			SELECT lag(m.position) OVER (PARTITION BY m.topology_id ORDER BY e.seq) AS before, m.position
			  FROM topology_events e JOIN mutations m ON m.id = (e.payload ->> 'mutation_id')::uuid
			 WHERE e.type IN ('mutation.applied', 'mutation.failed')) o WHERE before > position`,
		"mutations that began while another was under way": `SELECT count(*) FROM (
			SELECT e.type, lag(e.type) OVER (PARTITION BY e.topology_id ORDER BY e.seq) AS before
			  FROM topology_events e
			 WHERE e.type IN ('mutation.applying', 'mutation.applied', 'mutation.failed', 'mutation.requeued')) o
			WHERE type = 'mutation.applying' AND before = 'mutation.applying'`,
		"topologies with another version than mutations that ended": `SELECT count(*) FROM topologies t
			WHERE t.version <> (SELECT count(*) FROM mutations m WHERE m.topology_id = t.id
			AND m.state IN ('applied', 'failed'))`,
	} {
		if n := pgtest.Scan[int](t, conn, query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

func TestAWorkerThatIsStoppedOverItsLeaseChangesNothingWhenItWakes(t *testing.T) {
	t.Parallel()
	long(t)
	binary := buildProgram(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	dir := t.TempDir()
	started, release := filepath.Join(dir, "started"), filepath.Join(dir, "go-on")
	first := mutate(t, binary, db.URL, "--concurrency", "1", "--lease", "1s", "--apply-exec",
		fmt.Sprintf("touch %s; until [ -e %s ]; do sleep 0.05; done", started, release))
	m := enqueueLAN(t, conn, id, "a")
	pgtest.Eventually(t, "the first worker's command", func() bool { _, err := os.Stat(started); return err == nil })
	first.signal(syscall.SIGSTOP)
	t.Cleanup(func() { first.signal(syscall.SIGCONT) })
	pgtest.Eventually(t, "its lease to run out", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT leased_until < clock_timestamp() FROM mutations`)
	})
	mutate(t, binary, db.URL)
	awaitMutation(t, conn, m, "applied")
	head := pgtest.Scan[int](t, conn, `SELECT seq FROM topology_heads`)
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first.signal(syscall.SIGCONT)
	first.err.await(t, "too late", first.ended)
	if got := pgtest.Scan[int](t, conn, `SELECT seq FROM topology_heads`); got != head {
		t.Errorf("the journal went from %d to %d", head, got)
	}
	const events = `SELECT string_agg(type, ' ' ORDER BY seq) FROM topology_events WHERE type LIKE 'mutation.%'`
	if got, want := pgtest.Scan[string](t, conn,
		events), "mutation.enqueued mutation.applying mutation.requeued mutation.applying mutation.applied"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	checkJournals(t, conn)
}

func TestAWorkerAppliesByCommandAndByURL(t *testing.T) {
	t.Parallel()
	binary := buildProgram(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			MutationID string `json:"mutation_id"`
			Op         string
			Payload    struct{ Name string }
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || m.Op != "add_lan" ||
			r.Header.Get("Idempotency-Key") != m.MutationID {
			t.Errorf("the service got %+v: %v", m, err)
		}
		if m.Payload.Name == "bad" {
			http.Error(w, "no room for bad", http.StatusInsufficientStorage)
		}
	}))
	t.Cleanup(service.Close)
	for name, args := range map[string][]string{
		"command": {"--apply-exec", `if grep -q '"name": *"bad"'; then echo no room for bad >&2; exit 3; fi`},
		"url":     {"--apply-url", service.URL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			id := live(t, conn, 1)[0]
			worker := mutate(t, binary, db.URL, args...)
			awaitMutation(t, conn, enqueueLAN(t, conn, id, "good"), "applied")
			if reason := awaitMutation(t, conn, enqueueLAN(t, conn, id, "bad"), "failed"); !strings.Contains(reason,
				"no room for bad") {
				t.Error(reason)
			}
			if s := pgtest.Scan[string](t, conn,
				`SELECT status || ': ' || reason FROM topologies`); !strings.HasPrefix(s, "degraded: ") ||
				!strings.Contains(s, "no room for bad") {
				t.Error(s)
			}
			<-worker.signal(syscall.SIGTERM)
			if code := worker.cmd.ProcessState.ExitCode(); code != exitOK {
				t.Errorf("exit code %d: %s", code, worker.err.String())
			}
		})
	}
}

func TestServeWithMutatorAppliesWhatAClientSees(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := serve(t, db.URL, func(c *serveCmd) { c.Mutator = true })
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(3)
	m := enqueueLAN(t, conn, id, "a")
	c.awaitSeq(6) // enqueued, applying, applied
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.data[len(c.data)-1]; !strings.Contains(last, `"type":"mutation.applied"`) || !strings.Contains(last, m) ||
		!strings.Contains(last, "172.16.0.0/24") {
		t.Error(last)
	}
}

func TestAWorkerThatIsStartedBeforeItsDatabaseSaysSoAndWaits(t *testing.T) {
	t.Parallel()
	long(t)
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	id := live(t, db.Conn(t), 1)[0]
	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var errOut lockedBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"mutator", "--database-url", db.URL}, io.Discard, &errOut) }()
	pgtest.Eventually(t, "a word of it",
		func() bool { return strings.Contains(errOut.String(), "no database yet; waiting for it") })
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	awaitMutation(t, db.Conn(t), enqueueLAN(t, db.Conn(t), id, "a"), "applied")
	cancel()
	if code := <-done; code != exitOK {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

func TestAWorkersStartingErrorsSayTheFix(t *testing.T) {
	t.Parallel()
	db, empty := pgtest.New(t), pgtest.NewEmpty(t)
	for want, args := range map[string][]string{
		"migrate up":              {"--database-url", empty.URL},
		"user or the password":    {"--database-url", strings.Replace(db.URL, "//postgres:", "//postgres:wrong", 1)},
		"--concurrency: 0 is not": {"--database-url", db.URL, "--concurrency", "0"},
		"--max-attempts: 0 is":    {"--database-url", db.URL, "--max-attempts", "0"},
		"--lease: 1ms is less":    {"--database-url", db.URL, "--lease", "1ms"},
		"--apply-timeout: -1s is": {"--database-url", db.URL, "--apply-timeout=-1s"},
		"both given":              {"--database-url", db.URL, "--apply-exec", "true", "--apply-url", "http://x/"},
		"--apply-url: the URL":    {"--database-url", db.URL, "--apply-url", "ftp://x/"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		var out, errOut lockedBuffer
		code := run(ctx, append([]string{"mutator"}, args...), &out, &errOut)
		cancel()
		if code == exitOK || !strings.Contains(errOut.String(), want) || strings.Count(errOut.String(), "\n") != 1 {
			t.Errorf("%v: %d %s", args, code, errOut.String())
		}
	}
}
