package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	names "github.com/prometheus/common/model"

	"topostream/pgbus/pgtest"
)

// families reads /metrics.
func families(t *testing.T, server string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(names.UTF8Validation)
	all, err := parser.TextToMetricFamilies(strings.NewReader(exposition(t, server)))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func exposition(t *testing.T, server string) string {
	t.Helper()
	return string(got(t, server+"/metrics", http.StatusOK))
}

// got is the body of an answer that has this status.
func got(t *testing.T, url string, status int) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status {
		t.Fatalf("%s: %s, %v: %s", url, res.Status, err, body)
	}
	return body
}

// startMutator runs `mutator` with an address of its own for metrics until the test ends.
func startMutator(t *testing.T, databaseURL string, change func(*mutatorCmd)) (metricsURL string) {
	t.Helper()
	address, done := make(chan string, 1), make(chan error, 1)
	cmd := mutatorCmd{
		database: database{databaseURL}, logging: logging{LogFormat: "text", LogLevel: "info"},
		Concurrency: 1, MaxAttempts: 3, Lease: time.Second, MetricsAddr: "127.0.0.1:0",
		ready: func(a string) { address <- a },
	}
	if change != nil {
		change(&cmd)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var out lockedBuffer
	go func() { done <- cmd.Run(ctx, output{io.Discard, &out}) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("mutator: %v", err)
		}
		if t.Failed() {
			t.Log(out.String())
		}
	}))
	select {
	case a := <-address:
		return "http://" + a
	case err := <-done:
		done <- nil
		t.Fatalf("mutator: %v\n%s", err, out.String())
	}
	return ""
}

// awaitReady waits until a server or a worker is.
func awaitReady(t *testing.T, url string) string {
	t.Helper()
	pgtest.Eventually(t, "it to be ready", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }() // its status is all
		return res.StatusCode == http.StatusOK
	})
	return url
}

func TestPromtoolFindsNothingWrongWithMetrics(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed: it is in Debian's package prometheus")
	}
	db := pgtest.New(t)
	for name, url := range map[string]string{
		"serve": awaitReady(t, startServer(t, db.URL)), "mutator": awaitReady(t, startMutator(t, db.URL, nil)),
	} {
		check := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		check.Stdin = strings.NewReader(exposition(t, url))
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestAWorkerSaysHowItIsAtItsOwnAddress(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	url := startMutator(t, db.URL, nil)
	awaitReady(t, url)
	for path, status := range map[string]int{
		"/livez": http.StatusOK, "/metrics": http.StatusOK, "/debug/pprof/": http.StatusNotFound,
	} {
		got(t, url+path, status)
	}
	got(t, startMutator(t, db.URL, func(c *mutatorCmd) { c.Pprof = true })+"/debug/pprof/", http.StatusOK)
	away := startMutator(t, "postgres://127.0.0.1:1/x", nil)
	got(t, away+"/livez", http.StatusOK)
	if why := string(got(t, away+"/readyz", http.StatusServiceUnavailable)); strings.Contains(why, "127.0.0.1") {
		t.Errorf("it tells everybody where the database is: %s", why)
	}
	got(t, away+"/readyz?exclude=database", http.StatusOK)
	got(t, away+"/readyz?exclude=nothing", http.StatusBadRequest)
	got(t, away+"/readyz?exclude=database;x", http.StatusBadRequest)
}

func TestAWorkerThatSomebodyHasToMendIsNotReadyWithoutTheDatabaseEither(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `ALTER TABLE mutations RENAME TO elsewhere`)
	url := startMutator(t, db.URL, nil)
	pgtest.Eventually(t, "it to say that somebody has to", func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }() // it is read
		why, err := io.ReadAll(res.Body)
		return err == nil && strings.Contains(string(why), "until somebody mends this")
	})
	got(t, url+"/readyz?exclude=database", http.StatusServiceUnavailable)
}

func TestProfilesNeedAnAddressOfTheirOwn(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	code := run(t.Context(), []string{"mutator", "--database-url", "postgres://x", "--pprof"}, io.Discard, &out)
	if code == exitOK || !strings.Contains(out.String(), "--pprof needs --metrics-addr") {
		t.Errorf("%d, %s", code, out.String())
	}
}

func TestAServersMetricsAddressHasItsHealth(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	l := pgtest.FreeAddress(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.MetricsAddr = l })
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		awaitReady(t, server.url)
		got(t, "http://"+l+path, http.StatusOK)
	}
	got(t, server.url+"/metrics", http.StatusNotFound)
}

// metricsFile is the reference: each metric of this program, from what it serves.
const metricsFile = "../../METRICS.md"

func TestTheReferenceOfMetricsIsWhatTheProgramsServe(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	served := families(t, awaitReady(t, startServer(t, db.URL))) // which has had a request then
	worker := awaitReady(t, startMutator(t, db.URL, nil))
	var worked map[string]*dto.MetricFamily
	pgtest.Eventually(t, "the worker's pool", func() bool {
		worked = families(t, worker)
		return worked["pgxpool_max_connections"] != nil
	})
	text := reference(served, worked)
	if *updateGolden {
		if err := os.WriteFile(metricsFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(metricsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("METRICS.md is not what is served (-update writes it anew):\n%s", text)
	}
}

// reference is METRICS.md.
func reference(served, worked map[string]*dto.MetricFamily) string {
	var text strings.Builder
	text.WriteString(`# Metrics

What ` + "`topostream serve`" + ` and ` + "`topostream mutator`" + ` tell Prometheus. This page is written by a test
from what they serve (` + "`go test -run Reference ./cmd/topostream -update`" + `).

- ` + "`serve`" + ` serves ` + "`/metrics`" + ` with the rest, or at ` + "`--metrics-addr`" + ` alone, where ` +
		"`/livez` and `/readyz`" + ` are, too.
  ` + "`mutator`" + ` serves it at ` + "`--metrics-addr`" + `. With ` + "`serve --mutator`" +
		` the server has the worker's, too.
- Times are in seconds, sizes in bytes. Labels have few values, all of which are there from the beginning, but for
  ` + "`pool`" + `, since a pool comes with its first connections and not every program has each, and for those of
  ` + "`http_server_request_duration_seconds`" + `: its routes are patterns, and ` + "`unknown`" +
		` for what is none; other methods
  are ` + "`_OTHER`" + `.
- Every server reads ` + "`topostream_mutations`, `topostream_mutation_oldest_pending_age_seconds`" +
		` and the NOTIFY queue of
  the same database: aggregate them by ` + "`max`" + `.
- ` + "`topostream_delivery_delay_seconds`" + ` has exemplars, one a second at most, with ` +
		"`topology` and `seq`" + `, for who scrapes
  OpenMetrics (` + "`--enable-feature=exemplar-storage`" + `).
- Of Go and the process there are ` + "`go_*` and `process_*`" + `, as in every program that uses Prometheus's client.
`)
	section(&text, "Of the server", served, nil)
	section(&text, "Of the worker", worked, served)
	return text.String()
}

// section describes those that are not in but, and names the others.
func section(text *strings.Builder, title string, all, but map[string]*dto.MetricFamily) {
	fmt.Fprintf(text, "\n## %s\n", title)
	var shared []string
	for _, name := range slices.Sorted(mapKeys(all)) {
		switch {
		case strings.HasPrefix(name, "go_"), strings.HasPrefix(name, "process_"):
			continue
		case but[name] != nil:
			shared = append(shared, "`"+name+"`")
			continue
		}
		family := all[name]
		values := map[string][]string{}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				values[l.GetName()] = append(values[l.GetName()], "`"+l.GetValue()+"`")
			}
		}
		fmt.Fprintf(text, "\n### `%s`\n\n%s.\n", name, wrapped(strings.ToLower(family.GetType().String())+": "+
			strings.TrimSuffix(family.GetHelp(), ".")))
		for _, label := range slices.Sorted(mapKeys(values)) {
			known := slices.Compact(slices.Sorted(slices.Values(values[label])))
			switch {
			case strings.HasPrefix(label, "http_"), name == "topostream_build_info":
				known = nil // what came so far is not all
			case label == "pool":
				known = []string{"`main`", "`mutator`", "`replica`"}
			}
			line := "- `" + label + "`"
			if known != nil {
				line += ": " + strings.Join(known, ", ")
			}
			fmt.Fprintf(text, "%s%s\n", map[bool]string{true: "\n", false: ""}[label == slices.Sorted(mapKeys(values))[0]],
				wrapped(line))
		}
	}
	if shared != nil {
		fmt.Fprintf(text, "\n%s.\n", wrapped("And of those above: "+strings.Join(shared, ", ")))
	}
}

// wrapped breaks lines at 118 columns.
func wrapped(s string) string {
	const most = 118
	var lines []string
	for len(s) > most {
		at := strings.LastIndex(s[:most], " ")
		lines, s = append(lines, s[:at]), "  "+s[at+1:]
	}
	return strings.Join(append(lines, s), "\n")
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
