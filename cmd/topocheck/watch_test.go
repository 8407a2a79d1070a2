package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"topostream/harness/command"
	"topostream/harness/process"
	"topostream/pgbus/pgtest"
)

// Whoever looks at the dashboard, or is woken by an alert, looks at what these queries give: each is asked of a real
// Prometheus that watches two servers and a worker through a campaign, and each must give something.
func TestEveryAlertAndEveryPanelIsAnsweredUnderACampaign(t *testing.T) {
	t.Parallel()
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("no Prometheus on this machine: install it, for example `apt-get install prometheus`")
	}
	binary := build(t)
	db := pgtest.New(t)
	var servers, targets []string
	for range 2 {
		metrics := pgtest.FreeAddress(t)
		p := startServer(t, binary, db.URL, "--migrate", "--addr", "127.0.0.1:0", "--metrics-addr", metrics, "--drain", "1s",
			"--rate-limit", "0")
		servers, targets = append(servers, serving(t, p)), append(targets, metrics)
	}
	worker := pgtest.FreeAddress(t)
	startWorker(t, binary, db.URL, worker)
	asked := startPrometheus(t, prometheus, targets, worker)

	strangers(t, servers)
	code, text, _ := runCheck(t, servers[0], db.URL, "--duration", "40s", "--topologies", "10", "--clients", "15",
		"--faults", "backend")
	if code != command.ExitOK {
		t.Errorf("the campaign ended with %d:\n%s", code, text)
	}
	for name, query := range queries(t) {
		var answer string
		pgtest.Eventually(t, name+": "+query, func() bool {
			answer = ask(t, asked, query)
			return answer != ""
		})
		t.Logf("%-40s %s", name, answer)
	}
	if violations := ask(t, asked, "sum(topostream_promise_violations_total)"); violations != "0" {
		t.Errorf("%s violations", violations)
	}
}

// strangers come with no token, a wrong one and a ticket that is none.
func strangers(t *testing.T, servers []string) {
	t.Helper()
	for _, server := range servers {
		for _, query := range []string{"", "?token=x", "?ticket=x"} {
			res, err := http.Get(server + "/api/v1/topologies/00000000-0000-4000-8000-000000000000/events" + query)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close() // its metrics are what is wanted
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func startWorker(t *testing.T, binary, databaseURL, metrics string) {
	t.Helper()
	p := &process.Process{
		Name: "the worker", Binary: binary, LogPath: filepath.Join(t.TempDir(), "log"),
		Args: []string{"mutator", "--metrics-addr", metrics},
		Env:  []string{"TOPOSTREAM_DATABASE_URL=" + databaseURL},
	}
	untilTheEnd(t, p)
}

// startPrometheus runs it with the rules of deploy/prometheus, and gives its address.
func startPrometheus(t *testing.T, binary string, servers []string, worker string) (address string) {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join(module, "deploy", "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: topostream
    static_configs: [{targets: ["%s"]}]
  - job_name: topostream-mutator
    static_configs: [{targets: ["%s"]}]
`, rules, strings.Join(servers, `", "`), worker)
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address = pgtest.FreeAddress(t)
	p := &process.Process{
		Name: "Prometheus", Binary: binary, LogPath: filepath.Join(dir, "log"),
		Args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + address},
	}
	untilTheEnd(t, p)
	return address
}

// ask gives the first value that a query has at this moment; empty: none.
func ask(t *testing.T, prometheus, query string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	address := "http://" + prometheus + "/api/v1/query?query=" + url.QueryEscape(query)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "" // it is not there yet
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Error string
		Data  struct{ Result []struct{ Value []any } }
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Error != "" {
		t.Fatalf("%s: %v %s", query, err, body)
	}
	if len(answer.Data.Result) == 0 {
		return ""
	}
	value, _ := answer.Data.Result[0].Value[1].(string) // as Prometheus has it
	return value
}

// queries are those of the dashboard, and of the alerts without what they are compared with, by their names.
func queries(t *testing.T) map[string]string {
	t.Helper()
	read := func(path string, v any) {
		body, err := os.ReadFile(filepath.Join(module, "deploy", path))
		if err == nil {
			err = yaml.Unmarshal(body, v) // JSON is YAML
		}
		if err != nil {
			t.Fatal(path, err)
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	read("grafana/topostream.json", &dashboard)
	// What ends in a vector is answered whatever it asks for. No request need fail.
	answerable := strings.NewReplacer(" or vector(0)", "", `"5.."`, `"[45].."`)
	all := map[string]string{}
	for _, panel := range dashboard.Panels {
		for i, target := range panel.Targets {
			all[fmt.Sprintf("panel %s (%d)", panel.Title, i+1)] = answerable.Replace(target.Expr)
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	read("prometheus/alerts.yaml", &alerts)
	selector := regexp.MustCompile(`\b(up|topostream_\w+)(\{[^}]*\})?`)
	for _, group := range alerts.Groups {
		for _, rule := range group.Rules {
			for i, part := range selector.FindAllString(rule.Expr, -1) {
				all[fmt.Sprintf("alert %s (%d)", rule.Alert, i+1)] = part
			}
		}
	}
	if len(all) < 40 {
		t.Errorf("only %d queries were found", len(all))
	}
	return all
}
