package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"topostream/cmd/topobench/fleet"
	"topostream/pgbus/pgtest"
)

func testPlan(t *testing.T) Plan {
	t.Helper()
	cfg := testConfig(t)
	cfg.Topologies = 3
	return Plan{
		Config: cfg, Clients: 20, Rate: 100, Missed: 2, Topostream: topostream(t), Bare: child(bareEnv),
	}
}

// topostream builds the program.
func topostream(t *testing.T) string {
	t.Helper()
	pgtest.Slow(t)
	program, err := buildTopostream(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func names[R any](rows []R, name func(R) string) string {
	return strings.Join(each(rows, name), ", ")
}

func TestConnectionsAreCountedBesideBareOnes(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	plan.Hold, plan.ServeFlags = 500*time.Millisecond, []string{"--keepalive", "100ms"}
	r, err := Connect(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 3)
	if got := names(r.Rows, func(r ConnectRow) string { return r.Server }); got !=
		"topostream, bare hijack, bare net/http" {
		t.Error(got)
	}
	for _, row := range r.Rows {
		ours := row.Server == "topostream"
		if row.PerSecond <= 0 || row.Bytes < 100 || ours != (row.KeepaliveP50 > 0) || ours != (row.Silence > 0) ||
			row.KeepaliveMax < row.KeepaliveP50 || row.Server == bareHijack && row.RatioToBare != 1 {
			t.Errorf("%+v", row)
		}
	}
	wantPicture(t, r.Panels())
}

func TestAFanOutIsCountedBesideBareWrites(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	plan.Topologies, plan.Batch, plan.Rounds = 1, 2, 3
	r, err := Fanout(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 3)
	for _, row := range r.Rows {
		if row.Reached <= 0 || row.Deliveries <= 0 || row.P50 <= 0 || row.P99 < row.P50 || row.Generator <= 0 {
			t.Errorf("%+v", row)
		}
		if ours := r.Rows[0].Bytes; row.Bytes < ours*0.9 || row.Bytes > ours*1.1+200 {
			t.Errorf("%g bytes of %s, where ours are %g", row.Bytes, row.Server, ours)
		}
	}
	wantPicture(t, r.Panels())
}

func TestASpreadIsTimedBesideABareListen(t *testing.T) {
	t.Parallel()
	r, err := Spread(t.Context(), testPlan(t))
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 2)
	for _, row := range r.Rows {
		if row.Reached <= 0 || row.P50 <= 0 || row.P99 < row.P50 || row.RatioP50 <= 0 ||
			row.Server == rawListen && row.RatioP99 != 1 {
			t.Errorf("%+v", row)
		}
	}
	wantPicture(t, r.Panels())
}

func TestAStormIsComparedWithConnecting(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	plan.Fresh = 0.5
	r, err := Storm(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 1)
	row := r.Rows[0]
	if row.Connect <= 0 || row.Storm <= 0 || row.Ratio <= 0 || row.Backends < 1 || row.Transactions < 0 {
		t.Errorf("%+v", row)
	}
	wantPicture(t, r.Panels())
}

func TestAComparisonHasARowForEachServer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "peers.yaml")
	err := os.WriteFile(file, []byte("peers:\n  - name: frequent\n    serve: [--keepalive, 1s]\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	plan := testPlan(t)
	if plan.Peers, err = ReadPeers(file); err != nil {
		t.Fatal(err)
	}
	plan.Peers = append(plan.Peers, Peer{
		Name: "a stranger", Command: []string{os.Args[0], "{port}"}, Env: map[string]string{strangerEnv: "1"},
		Up: "http://127.0.0.1:{port}/up",
		Target: Target{URL: "http://127.0.0.1:{port}/{topology}", Ready: "welcome",
			Publish: Publish{HTTP: "http://127.0.0.1:{port}/{topology}", Body: `{"data":{payload}}`}},
	})
	liar := plan.Peers[1]
	liar.Name, liar.Env = "a liar", map[string]string{strangerEnv: "2"}
	plan.Peers = append(plan.Peers, liar)
	r, err := Compare(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	const want = "topostream, frequent, a stranger, bare hijack, bare write(2), raw LISTEN"
	if got := names(r.Rows, func(r ComparisonRow) string { return r.Server }); got != want {
		t.Error(got)
	}
	for _, row := range r.Rows[:3] {
		if row.Connect.PerSecond <= 0 || row.Fanout.P50 <= 0 || row.Spread.P50 <= 0 {
			t.Errorf("%+v", row)
		}
	}
	if len(r.Failed) != 3 || r.Failed[0].Server != "a liar" || !strings.Contains(r.String(), "a liar failed in fan-out") {
		t.Errorf("%+v", r.Failed)
	}
	wantPicture(t, r.Panels())
}

func TestAFileOfPeersIsChecked(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"peers: []": "there are no peers",
		"peers: [{command: [x], url: 'http://x', publish: {http: x}}]": "no name",
		"peers: [{name: x, url: 'http://x'}]":                          "command and url are missing",
		"peers: [{name: x, command: [x], url: 'http://x'}]":            "say how to publish",
		"peers: [{name: x, serve: [a], url: 'http://x'}]":              "serve is for a server of ours",
		"peers: [{name: topostream, serve: [a]}]":                      "two servers have one name",
		"peers: [{nam: x}]":                                            "nam",
	} {
		file := filepath.Join(t.TempDir(), "peers.yaml")
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPeers(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A stranger is a server of another make: SSE without numbers, events by POST, each topology by its path.
type stranger struct {
	times func(n int) int // how often each client gets event n of a topology

	mu        sync.Mutex
	published map[string]int
	clients   map[string]map[chan []byte]bool
}

func newStranger(times func(n int) int) *stranger {
	return &stranger{times: times, published: map[string]int{}, clients: map[string]map[chan []byte]bool{}}
}

func (s *stranger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.publish(r.URL.Path, body)
		return
	}
	events := s.join(r.URL.Path)
	defer s.leave(r.URL.Path, events)
	_, _ = fmt.Fprint(w, "data: welcome\n\n")
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case e := <-events:
			fmt.Fprintf(w, "data: %s\n\n", e)
		case <-r.Context().Done():
			return
		}
	}
}

func (s *stranger) join(topology string) chan []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make(chan []byte, 10_000)
	if s.clients[topology] == nil {
		s.clients[topology] = map[chan []byte]bool{}
	}
	s.clients[topology][events] = true
	return events
}

func (s *stranger) leave(topology string, events chan []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients[topology], events)
}

func (s *stranger) publish(topology string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published[topology]++
	for events := range s.clients[topology] {
		for range s.times(s.published[topology]) {
			events <- body
		}
	}
}

// strangerEnv makes this program a stranger that sends each event as often as it says.
const strangerEnv = "TOPOBENCH_TEST_STRANGER"

// serveStranger runs one in a process of its own, which sends each event so often.
func serveStranger(port string, times int) error {
	server := &http.Server{Addr: "127.0.0.1:" + port, Handler: newStranger(func(int) int { return times })}
	return server.ListenAndServe()
}

// strangerPlan measures one that runs in this process.
func strangerPlan(t *testing.T, times func(n int) int) Plan {
	t.Helper()
	s := httptest.NewServer(newStranger(times))
	t.Cleanup(s.Close)
	return Plan{
		Config: Config{Topologies: 1, Rounds: 1, Duration: 300 * time.Millisecond, Log: t.Logf}, Clients: 5, Rate: 50,
		Missed: 1,
		Target: Target{URL: s.URL + "/{topology}", Ready: "welcome", PID: os.Getpid(),
			Publish: Publish{HTTP: s.URL + "/{topology}", Body: `{"data":{payload}}`}},
		Bare: child(bareEnv),
	}
}

func TestAServerOfAnotherMakeIsMeasured(t *testing.T) {
	t.Parallel()
	plan := strangerPlan(t, func(int) int { return 1 })
	plan.Topologies = 4
	f, err := Fanout(t.Context(), plan)
	if err != nil || f.Rows[0].Deliveries <= 0 || f.Rows[0].PerCPUSecond < 0 {
		t.Error(f, err)
	}
	c, err := Connect(t.Context(), plan)
	if err != nil || c.Rows[0].PerSecond <= 0 {
		t.Error(c, err)
	}
	s, err := Spread(t.Context(), plan)
	if err != nil || len(s.Rows) != 1 || s.Rows[0].P50 <= 0 { // there is no LISTEN where events are not in a database
		t.Error(s, err)
	}
	storm, err := Storm(t.Context(), plan)
	if err != nil || storm.Rows[0].Storm <= 0 || storm.Rows[0].Backends != 0 {
		t.Error(storm, err)
	}
}

func TestATopostreamThatRunsIsMeasuredAndItsDatabaseLeftAsItWas(t *testing.T) {
	t.Parallel()
	plan := testPlan(t)
	p, err := openPlace(t.Context(), plan.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(nil); err != nil {
			t.Error(err)
		}
	})
	server, err := startServer(context.Background(), plan.Topostream, p, "notify")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.stop(); err != nil {
			t.Error(err)
		}
	})
	plan.Target, plan.DatabaseURL = topostreamTarget(server.url, server.token), p.url
	plan.Target.PID = server.PID()
	r, err := Spread(t.Context(), plan)
	if err != nil || len(r.Rows) != 2 || r.Rows[0].Server != "the server" || r.Rows[0].P50 <= 0 {
		t.Error(r, err)
	}
	storm, err := Storm(t.Context(), plan)
	if err != nil || storm.Rows[0].Storm <= 0 || storm.Rows[0].Backends < 1 {
		t.Error(storm, err)
	}
	var n int
	err = p.conn.QueryRow(t.Context(), `SELECT count(*) FROM topologies`).Scan(&n)
	if err != nil || n != plan.Topologies {
		t.Error(n, err)
	}
}

func TestAServerThatDropsOrDoublesAnEventFailsEachMeasurement(t *testing.T) {
	t.Parallel()
	for name, measure := range map[string]func(context.Context, Plan) error{
		"connect": func(ctx context.Context, p Plan) error { _, err := Connect(ctx, p); return err },
		"fanout":  func(ctx context.Context, p Plan) error { _, err := Fanout(ctx, p); return err },
		"spread":  func(ctx context.Context, p Plan) error { _, err := Spread(ctx, p); return err },
		"storm":   func(ctx context.Context, p Plan) error { _, err := Storm(ctx, p); return err },
		"compare": func(ctx context.Context, p Plan) error { _, err := Compare(ctx, p); return err },
	} {
		for fault, times := range map[string]int{"dropped": 0, "doubled": 2} {
			t.Run(name+" "+fault, func(t *testing.T) {
				t.Parallel()
				plan := strangerPlan(t, func(n int) int {
					if n == 1 {
						return times
					}
					return 1
				})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what was dropped is waited for
				defer cancel()
				if err := measure(ctx, plan); !errors.Is(err, fleet.ErrBroken) {
					t.Error(err)
				}
			})
		}
	}
}

func TestAServerThatSendsNothingIsNotMeasured(t *testing.T) {
	t.Parallel()
	plan := strangerPlan(t, func(int) int { return 0 })
	plan.Patience = 50 * time.Millisecond
	if _, err := Spread(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "did not come") {
		t.Error(err)
	}
}
