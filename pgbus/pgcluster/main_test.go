package pgcluster_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
)

// A test binary with one of these set is not a test but a process that a test kills.
const (
	holdDir       = "PGCLUSTER_TEST_HOLD"       // keep a cluster there
	downloadDir   = "PGCLUSTER_TEST_CACHE"      // download into this cache …
	downloadURL   = "PGCLUSTER_TEST_REPOSITORY" // … from there
	startDeadline = 5 * time.Minute             // a busy machine's initdb takes its time
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	switch {
	case os.Getenv(holdDir) != "":
		exit(hold(ctx, os.Getenv(holdDir)))
	case os.Getenv(downloadDir) != "":
		cfg := pgcluster.DownloadConfig{URL: os.Getenv(downloadURL), CacheDir: os.Getenv(downloadDir)}
		_, err := pgcluster.Download(ctx, cfg)
		exit(err)
	}
	cancel()
	pgtest.Main(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hold starts a cluster, says so and keeps it until stdin ends.
func hold(ctx context.Context, dir string) error {
	b, err := binaries(ctx)
	if err != nil {
		return err
	}
	c, err := pgcluster.Start(ctx, pgcluster.Config{Binaries: b, DataDir: dir})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, c.URL("postgres"))
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is the signal
	return c.Stop(ctx, pgcluster.Fast)
}

func binaries(ctx context.Context) (pgcluster.Binaries, error) {
	if dir := os.Getenv("TEST_PG_BIN"); dir != "" {
		return pgcluster.At(ctx, dir)
	}
	return pgcluster.Find(ctx)
}

func mustBinaries(t *testing.T) pgcluster.Binaries {
	t.Helper()
	b, err := binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A holder is a process of its own that keeps a cluster.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
}

// startHolder runs before, a shell command, and then the holder.
func startHolder(t *testing.T, dir, before string) *holder {
	t.Helper()
	cmd := exec.Command("sh", "-c", before+` exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), holdDir+"="+dir)
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill() // it has ended, where the test went well
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the holder did not start: %v", err)
	}
	return &holder{cmd, stdin, line[:len(line)-1]}
}

// stop ends the holder in order.
func (h *holder) stop(t *testing.T) {
	t.Helper()
	_ = h.stdin.Close()
	if err := h.cmd.Wait(); err != nil {
		t.Errorf("the holder: %v", err)
	}
}

// start starts a cluster that ends with the test.
func start(t *testing.T, cfg pgcluster.Config) *pgcluster.Cluster {
	t.Helper()
	c, err := pgcluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
		defer cancel()
		if err := c.Stop(ctx, pgcluster.Immediate); err != nil {
			t.Error(err)
		}
	})
	return c
}
