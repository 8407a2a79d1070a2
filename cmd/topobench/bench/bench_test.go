package bench

import (
	"context"
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

// feedsEnv makes this program the process of feeds that the experiments start.
const feedsEnv = "TOPOBENCH_TEST_FEEDS"

// bareEnv makes it a bare server.
const bareEnv = "TOPOBENCH_TEST_BARE"

func TestMain(m *testing.M) {
	if times := os.Getenv(strangerEnv); times != "" {
		n, err := strconv.Atoi(times)
		fmt.Fprintln(os.Stderr, err, serveStranger(os.Args[1], n))
		os.Exit(1)
	}
	if os.Getenv(bareEnv) != "" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			err = baseline.Serve(context.Background(), baseline.Config{Kind: os.Args[1], Document: n}, os.Stdin, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(feedsEnv) != "" {
		n, err := strconv.Atoi(os.Args[2])
		if err == nil {
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			err = Feeds(context.Background(), FeedsConfig{os.Getenv(FeedsDatabase), os.Args[1], n, log}, os.Stdin,
				os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	pgtest.Main(m)
}

func testConfig(t *testing.T) Config {
	t.Helper()
	return Config{
		DatabaseURL: pgtest.New(t).URL, Topologies: 20, Rounds: 1, Duration: 300 * time.Millisecond, Seed: 1,
		Feeds: func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, os.Args[0], args...)
			cmd.Env = append(os.Environ(), feedsEnv+"=1")
			cmd.Stderr = os.Stderr
			return cmd
		},
		Log: t.Logf,
	}
}

// long leaves a measurement to TOPOSTREAM_TESTS=all.
func long(t *testing.T) {
	t.Helper()
	pgtest.Slow(t)
}

// wantTable finds a line for each of the report's rows, and the two above them.
func wantTable(t *testing.T, report fmt.Stringer, rows int) {
	t.Helper()
	if got := strings.Count(report.String(), "\n| "); got != rows+1 {
		t.Errorf("%d lines of table, want %d and a header:\n%s", got, rows, report)
	}
}

// Writers gives an error when what arrived is not what was committed, so that a report is a proof.
func TestEveryEventOfTheWritersArrivesOnEachBus(t *testing.T) {
	t.Parallel()
	long(t)
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
	long(t)
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
	long(t)
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
