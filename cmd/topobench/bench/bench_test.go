package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"topostream/cmd/topobench/baseline"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// What makes this program one of the processes that the experiments start.
const (
	feedsEnv = "TOPOBENCH_TEST_FEEDS" // a process of feeds
	bareEnv  = "TOPOBENCH_TEST_BARE"  // a bare server
)

func TestMain(m *testing.M) {
	if ran, err := runChild(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	} else if ran {
		os.Exit(0)
	}
	pgtest.Main(m)
}

// runChild is this program as one of the processes that the experiments start, if its environment says so.
func runChild() (ran bool, err error) {
	switch {
	case os.Getenv(strangerEnv) != "":
		times, err := strconv.Atoi(os.Getenv(strangerEnv))
		return true, errors.Join(err, serveStranger(os.Args[1], times))
	case os.Getenv(bareEnv) != "":
		document, err := strconv.Atoi(os.Args[2])
		if err != nil {
			return true, err
		}
		cfg := baseline.Config{Kind: os.Args[1], Document: document}
		return true, baseline.Serve(context.Background(), cfg, os.Stdin, os.Stdout)
	case os.Getenv(feedsEnv) != "":
		topologies, err := strconv.Atoi(os.Args[2])
		if err != nil {
			return true, err
		}
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		cfg := FeedsConfig{os.Getenv(FeedsDatabase), os.Args[1], topologies, log}
		return true, Feeds(context.Background(), cfg, os.Stdin, os.Stdout)
	}
	return false, nil
}

// child makes commands of this program, which is what env says.
func child(env string) func(ctx context.Context, args ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], args...)
		cmd.Env = append(os.Environ(), env+"=1")
		cmd.Stderr = os.Stderr
		return cmd
	}
}

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		DatabaseURL: pgtest.New(t).URL, Topologies: 20, Rounds: 1, Duration: 300 * time.Millisecond, Seed: 1,
		Feeds: child(feedsEnv), Log: t.Logf,
	}
}

// wantTable fails unless the report has a line for each of so many rows, and a header.
func wantTable(t *testing.T, report fmt.Stringer, rows int) {
	t.Helper()
	if got := strings.Count(report.String(), "\n| "); got != rows+1 {
		t.Errorf("%d lines of table, want %d and a header:\n%s", got, rows, report)
	}
}

// Writers gives an error when what arrived is not what was committed, so that a report is a proof.
func TestEveryEventOfTheWritersArrivesOnEachBus(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	r, err := Writers(t.Context(), testConfig(t), []int{2, 4})
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 2*2*3+1+2*6)
	for _, row := range r.Costs {
		if row.Micros <= 0 || row.Ratio <= 0 || row.Statement == bareEmit && row.Ratio != 1 {
			t.Errorf("%+v", row)
		}
	}
	for _, row := range r.Rows {
		if row.Rate <= 0 || row.Ratio <= 0 || row.Bus == journal && row.Ratio != 1 {
			t.Errorf("%+v", row)
		}
	}
}

func TestEveryEventReachesAClientOnEachBusAndIsTimed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	r, err := Latency(t.Context(), testConfig(t), "", []float64{100})
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 4+1+2)
	for _, row := range r.Edits {
		if row.P50 <= 0 || row.P99 < row.P50 || row.At == editsAtListen && row.RatioP50 != 1 {
			t.Errorf("%+v", row)
		}
	}
	for _, row := range r.Rows {
		if row.P50 <= 0 || row.Reached <= 0 || row.P99 < row.P50 || row.Bus == rawListen && row.RatioP50 != 1 {
			t.Errorf("%+v", row)
		}
	}
}

func TestTheCostOfAnEventIsToldForEachNumberOfTopologies(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	r, err := Topologies(t.Context(), testConfig(t), []int{5, 20}, 400)
	if err != nil {
		t.Fatal(err)
	}
	wantTable(t, r, 2*2)
	for _, row := range r.Rows {
		if row.Event != row.Server+row.PostgreSQL || row.Idle <= 0 || row.Attached == 5 && row.Ratio != 1 {
			t.Errorf("%+v", row)
		}
	}
}

// An event that is committed twice as often as it comes, or the other way round, ends a run.
func TestEventsThatAreMissingOrTooManyAreAnError(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	p, err := openPlace(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(nil); err != nil {
			t.Error(err)
		}
	})
	f, err := cfg.startFeeds(context.Background(), p, setting.Notify, cfg.Topologies)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	l, err := newLoad(t.Context(), p, 2, cfg.Seed, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	events, err := l.pace(t.Context(), 100, 100*time.Millisecond, cfg.Topologies)
	n := uint64(len(events)) // 10 on a machine that is not busy
	if err != nil || n < 2 || n > 10 {
		t.Fatal(n, err)
	}
	if _, err := f.await(t.Context(), n); err != nil {
		t.Error(err)
	}
	if _, err := f.await(t.Context(), n-1); err == nil {
		t.Error("one event too many is no error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.await(ctx, n+1); err == nil {
		t.Error("a missing event is no error")
	}

	e := newReceived()
	for _, s := range events[1:] {
		e.take(s.topology, s.seq)
	}
	if _, err := e.latencies(ctx, events, 0); err == nil {
		t.Error("an event that was not got is no error")
	}
	e.take(events[1].topology, events[1].seq)
	e.take(events[0].topology, events[0].seq)
	if _, err := e.latencies(t.Context(), events, 0); err == nil {
		t.Error("an event that was got twice is no error")
	}
}

func TestMediansAndRatiosAreOfTheRounds(t *testing.T) {
	t.Parallel()
	if m := median([]float64{9, 1, 3}); m != 3 {
		t.Error(m)
	}
	if m := median([]float64{9, 1, 3, 5}); m != 4 {
		t.Error(m)
	}
	if r := ratio([]float64{10, 1, 8}, []float64{10, 2, 10}); r != 0.8 {
		t.Error(r)
	}
}
