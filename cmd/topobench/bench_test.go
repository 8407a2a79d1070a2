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
	"strings"
	"sync"
	"testing"

	"topostream/cmd/topobench/bench"
	"topostream/harness/command"
	"topostream/pgbus/pgtest"
)

// The bare servers are processes of the program itself.
func TestAFanOutStartsItsBareServers(t *testing.T) {
	t.Parallel()
	binary := build(t, "topobench")
	cmd := exec.CommandContext(t.Context(), binary, "fanout", "--clients", "5", "--rate", "50", "--rounds", "1",
		"--duration", "200ms", "--topostream", build(t, "topostream"))
	cmd.Env = append(os.Environ(), "TOPOBENCH_DATABASE_URL="+pgtest.New(t).URL)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, errOut.String())
	}
	for _, server := range []string{"| topostream ", "| bare write(2) ", "| bare net/http "} {
		if !strings.Contains(string(out), server) {
			t.Errorf("no %s:\n%s", server, out)
		}
	}
}

// What the measurements find is tested in package bench.
func TestAMeasurementPrintsATableAndWritesJSON(t *testing.T) {
	t.Parallel()
	binary, file := build(t, "topobench"), filepath.Join(t.TempDir(), "report.json")
	cmd := exec.CommandContext(t.Context(), binary, "writers", "--writers", "2", "--topologies", "5", "--rounds", "1",
		"--duration", "200ms", "--seed", "7", "--json", file)
	cmd.Env = append(os.Environ(), "TOPOBENCH_DATABASE_URL="+pgtest.New(t).URL)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil || strings.Count(string(out), "\n| ") != 1+2*6+1+2*3 || !strings.Contains(string(out), "seed 7;") {
		t.Fatalf("%v\n%s%s", err, errOut.String(), out)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report bench.WritersReport
	if err := json.Unmarshal(body, &report); err != nil || len(report.Rows) != 6 || report.Seed != 7 ||
		report.PostgreSQL == "" {
		t.Errorf("%v: %s", err, body)
	}
}

func TestAMeasurementOfNothingIsAWrongCommandLine(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"writers --writers 0", "writers --rounds 0", "latency --rate 0",
		"latency --topologies 0", "topologies --attached 0", "topologies --duration 0s", "connect --clients 0",
		"fanout --rate 0", "fanout --batch 0", "spread --rate 0", "spread --topologies 0", "storm --missed 0",
		"compare --clients 0", "connect --window 0", "list --clients 0", "list --rate 0", "many --topologies 0",
		"servers --servers 0", "servers --rate 0"} {
		var out, errOut strings.Builder
		code := run(t.Context(), strings.Fields(args), command.Output{Out: &out, Err: &errOut})
		if code != command.ExitUsage || !strings.Contains(errOut.String(), "above 0") {
			t.Errorf("%s: exit code %d: %s", args, code, errOut.String())
		}
	}
}

func TestAServerWithoutAWayToPublishIsAWrongCommandLine(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"fanout --url http://127.0.0.1:1/{topology}":                                    "--database-url is missing",
		"fanout --url http://127.0.0.1:1/ --publish-http http://x --publish-notify y":   "say how to publish",
		"fanout --url https://127.0.0.1:1/ --publish-http http://127.0.0.1:1/":          "TLS is not spoken",
		"latency --url http://127.0.0.1:1/ --publish-http http://127.0.0.1:1/":          "one --rate",
		"compare --peers no-such-file":                                                  "no such file",
		"fanout --url http://127.0.0.1:1/{topology} --publish-http http://127.0.0.1:1/": "connection refused",
	} {
		var out, errOut strings.Builder
		if code := run(t.Context(), strings.Fields(args), command.Output{Out: &out, Err: &errOut}); code == command.ExitOK ||
			!strings.Contains(errOut.String(), want) {
			t.Errorf("%s: exit code %d: %s", args, code, errOut.String())
		}
	}
}

// echo is a server of one topology: what is posted is sent to all who listen.
func echo() http.Handler {
	var (
		mu      sync.Mutex
		clients []chan []byte
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			for _, c := range clients {
				if err == nil {
					c <- body
				}
			}
			return
		}
		if r.URL.Query().Get("t") != "secret" || r.Header.Get("X-Of") != "topobench" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		events := make(chan []byte, 10_000)
		mu.Lock()
		clients = append(clients, events)
		mu.Unlock()
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case e := <-events:
				fmt.Fprintf(w, "data: %s\n\n", e)
			case <-r.Context().Done():
				return
			}
		}
	})
}

func TestLatencyTimesAServerOfAnyMake(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(echo())
	t.Cleanup(s.Close)
	dir := t.TempDir()
	file, picture := filepath.Join(dir, "report.json"), filepath.Join(dir, "report.svg")
	var out, errOut strings.Builder
	code := run(t.Context(), []string{"latency", "--url", s.URL + "/{topology}?t={token}", "--token", "secret", "--header",
		"X-Of: topobench", "--publish-http", s.URL, "--publish-body", `{"about":"{topology}","data":{payload}}`, "--rate",
		"50", "--topologies", "1", "--rounds", "1", "--duration", "200ms", "--json", file, "--svg", picture},
		command.Output{Out: &out, Err: &errOut})
	if code != command.ExitOK || !strings.Contains(out.String(), "| the server |") {
		t.Fatal(code, errOut.String(), out.String())
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report bench.SpreadReport
	if err := json.Unmarshal(body, &report); err != nil || len(report.Rows) != 1 || report.Rows[0].P50 <= 0 ||
		len(report.Curves[0].Points) == 0 {
		t.Errorf("%v: %s", err, body)
	}
	if svg, err := os.ReadFile(picture); err != nil || !strings.Contains(string(svg), "</svg>") {
		t.Error(err)
	}
}
