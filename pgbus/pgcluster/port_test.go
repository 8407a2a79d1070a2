package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
)

// taken is a port that somebody listens on who never says a word.
func taken(t *testing.T) int {
	t.Helper()
	port, err := FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return port
}

func testConfig(t *testing.T) Config {
	t.Helper()
	find := Find
	if dir := os.Getenv("TEST_PG_BIN"); dir != "" {
		find = func(ctx context.Context) (Binaries, error) { return At(ctx, dir) }
	}
	b, err := find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	//nolint:usetesting // t.TempDir is closed to the user that PostgreSQL runs as
	dir, err := os.MkdirTemp("", "pgcluster-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Config{Binaries: b, DataDir: dir}
}

func TestAPrivateClustersPortIsBelowTheEphemeralRange(t *testing.T) {
	t.Parallel()
	for range 200 {
		port, err := FreePort(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if port < 20000 || port > 29999 {
			t.Fatalf("port %d", port)
		}
	}
}

func TestATakenPortIsSaidAndLeavesTheDirectoryFree(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Port = taken(t)
	// It does not wait for whoever listens there.
	if _, err := Start(t.Context(), cfg); !errors.Is(err, errPortTaken) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start says: %v", err)
	}
	cfg.Port = 0
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context(), Immediate); err != nil {
		t.Error(err)
	}
}

func TestWhenSomebodyIsFasterAnotherPortIsTried(t *testing.T) {
	if testing.Short() {
		t.Skip("long: it starts clusters")
	}
	t.Parallel()
	c, err := Start(t.Context(), testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background(), Immediate); err != nil {
			t.Error(err)
		}
	})
	if err := c.halt(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	picks := 0
	err = c.startOnFreePort(t.Context(), func(ctx context.Context) (int, error) {
		if picks++; picks <= 2 {
			return taken(t), nil
		}
		return FreePort(ctx)
	})
	if err != nil || picks != 3 {
		t.Errorf("%d ports picked: %v", picks, err)
	}
}
